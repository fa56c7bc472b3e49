"""How a run of events is kept: frames ready to send, and beside them an index of what finding them needs.

A block is two byte strings. `frames` is the events' frames, joined. The index is, little-endian: the number of events
and of appends (u32 each), the length of each frame (u32), first position and count of each append (u64 each), each
event id (16 bytes), and the labels, joined by line feeds (a label cannot contain one).
"""

import struct
from bisect import bisect_right
from itertools import accumulate, pairwise

from kudurru_server.model import Entry

_COUNTS = struct.Struct("<II")


def pack_index(entry: Entry) -> bytes:
    """Encode what stands beside the frames of `entry`."""
    count, appends = len(entry.ids), len(entry.appends)
    numbers = [number for append in entry.appends for number in append]
    return b"".join(
        (
            struct.pack(f"<II{count}I{2 * appends}Q", count, appends, *map(len, entry.frames), *numbers),
            bytes.fromhex("".join(entry.ids).replace("-", "")),
            "\n".join(entry.labels).encode(),
        )
    )


def cut(entry: Entry, frame_bytes: int) -> list[Entry]:
    """Cut an entry into pieces of about `frame_bytes` of frames, at least one event each."""
    ends = list(accumulate(map(len, entry.frames)))
    if ends[-1] <= frame_bytes:
        return [entry]
    pieces, start, done = [], 0, 0
    while start < len(ends):
        stop = max(start + 1, bisect_right(ends, done + frame_bytes))
        pieces.append(entry.piece(start, stop))
        start, done = stop, ends[stop - 1]
    return pieces


class Index:
    """A decoded index; `offsets` has one more than there are events."""

    def __init__(self, index: bytes) -> None:
        self.count, appends = _COUNTS.unpack_from(index)
        self.offsets = list(accumulate(struct.unpack_from(f"<{self.count}I", index, 8), initial=0))
        self._index = index
        self._appends = (8 + 4 * self.count, appends)
        self._ids = 8 + 4 * self.count + 16 * appends

    @property
    def labels(self) -> list[str]:
        """The label of each event."""
        return self._index[self._ids + 16 * self.count :].decode().split("\n")

    @property
    def appends(self) -> list[tuple[int, int]]:
        """First position and count of each append with events in here."""
        start, count = self._appends
        numbers = struct.unpack_from(f"<{2 * count}Q", self._index, start)
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    @property
    def ids(self) -> list[str]:
        """The id of each event."""
        digits = self._index[self._ids : self._ids + 16 * self.count].hex()
        ids = (digits[at : at + 32] for at in range(0, 32 * self.count, 32))
        return [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in ids]


def count_of(index: bytes) -> int:
    """Return the number of events without decoding the rest."""
    count: int = _COUNTS.unpack_from(index)[0]
    return count


def slice_of(first: int, index: bytes, frames: bytes, low: int, high: int, *, backwards: bool) -> bytes:
    """Return the frames from position `low` to `high`, inclusive; the last one first if `backwards`."""
    if low == first and high == first + count_of(index) - 1 and not backwards:
        return frames
    offsets = Index(index).offsets
    if not backwards:
        return frames[offsets[low - first] : offsets[high - first + 1]]
    places = range(high - first, low - first - 1, -1)
    return b"".join(frames[offsets[place] : offsets[place + 1]] for place in places)


def unpack(first: int, ticks: int, index: bytes, frames: bytes) -> Entry:
    """Decode a whole block."""
    decoded = Index(index)
    return Entry(
        first=first,
        ticks=ticks,
        ids=decoded.ids,
        labels=decoded.labels,
        frames=[frames[start:stop] for start, stop in pairwise(decoded.offsets)],
        appends=decoded.appends,
    )
