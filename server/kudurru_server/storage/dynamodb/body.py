"""The body of a log entry: its events without what the store gives them, so that it can be put again at another place.

Little-endian: the numbers of events, appends and cuts (u32 each), the length of each event (u32), the count of each
append (u32), place, offset (u32 each) and digest (32 bytes) of each cut, the length of the labels (u32), the labels
joined by line feeds, and the events. The whole is compressed.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import zstandard

from kudurru_server.storage.dynamodb.payloads import Cut

_HEAD = struct.Struct("<III")
_CUT = struct.Struct("<II32s")
_LENGTH = struct.Struct("<I")
_LEVEL = 1
_LARGEST_BYTES = 64 << 20  # an entry is a few MiB; more is damage


@dataclass(frozen=True, slots=True)
class Body:
    """The events of an entry, in columns."""

    labels: list[str]
    events: list[bytes]
    counts: list[int]
    """How many events each append has."""
    cuts: Sequence[Cut]


def pack(body: Body) -> bytes:
    """Encode and compress a body."""
    labels = "\n".join(body.labels).encode()
    count, appends = len(body.events), len(body.counts)
    data = b"".join(
        (
            _HEAD.pack(count, appends, len(body.cuts)),
            struct.pack(f"<{count + appends}I", *map(len, body.events), *body.counts),
            *(_CUT.pack(cut.place, cut.offset, bytes.fromhex(cut.digest)) for cut in body.cuts),
            _LENGTH.pack(len(labels)),
            labels,
            *body.events,
        )
    )
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def unpack(packed: bytes) -> Body:
    """Decompress and decode a body."""
    data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST_BYTES)
    count, appends, cuts = _HEAD.unpack_from(data)
    numbers = struct.unpack_from(f"<{count + appends}I", data, _HEAD.size)
    at = _HEAD.size + 4 * (count + appends)
    found = [_CUT.unpack_from(data, at + place * _CUT.size) for place in range(cuts)]
    at += cuts * _CUT.size
    (size,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    ends = list(accumulate(numbers[:count], initial=at + size))
    return Body(
        labels=data[at : at + size].decode().split("\n"),
        events=[data[start:stop] for start, stop in pairwise(ends)],
        counts=list(numbers[count:]),
        cuts=[Cut(place, offset, digest.hex()) for place, offset, digest in found],
    )
