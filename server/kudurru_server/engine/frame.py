"""The form in which events are stored and sent: written once, never decoded on its way out.

A frame is an encoded `RecordedEvent` with the tag and length of field 1 of `ReadResponse` and `SubscribeResponse`, so a
message is frames joined. Protobuf merges what is concatenated: the store's fields stand behind the client's event.
"""

from collections.abc import Sequence
from functools import lru_cache

from kudurru_server.model import TICKS_PER_SECOND, UNIX_EPOCH_TICKS

_ID_BYTES = 30


def varint(number: int) -> bytes:
    """Encode a number of 0 and more as protobuf does."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@lru_cache(maxsize=4096)
def _head(event_bytes: int, rest_bytes: int) -> bytes:
    """Return what stands before an event of this length that is followed by the store's fields of that length."""
    inner = b"\x0a" + varint(event_bytes)
    return b"\x0a" + varint(len(inner) + event_bytes + rest_bytes) + inner


def make_frames(encoded: Sequence[bytes], first: int, ticks: int) -> list[bytes]:
    """Return the frames of events that are recorded at adjacent positions from `first` on, at one tick."""
    seconds, rest = divmod(ticks - UNIX_EPOCH_TICKS, TICKS_PER_SECOND)
    timestamp = b"\x08" + varint(seconds & 0xFFFF_FFFF_FFFF_FFFF) + (b"\x10" + varint(rest * 100) if rest else b"")
    recorded_at = b"\x22" + varint(len(timestamp)) + timestamp
    id_field = b"\x12" + varint(_ID_BYTES) + b"%019d" % ticks
    frames = []
    for position, event in enumerate(encoded, first):
        number = varint(position)
        frames.append(
            b"%b%b%b%011d\x18%b%b"
            % (
                _head(len(event), len(number) + len(recorded_at) + 3 + _ID_BYTES),
                event,
                id_field,
                position,
                number,
                recorded_at,
            )
        )
    return frames


def event_of(frame: bytes) -> bytes:
    """Return the encoded event inside a frame."""
    start = _skip_varint(frame, 1) + 1
    end = start
    length = shift = 0
    while frame[end] & 0x80:
        length |= (frame[end] & 0x7F) << shift
        shift, end = shift + 7, end + 1
    length |= frame[end] << shift
    return frame[end + 1 : end + 1 + length]


def _skip_varint(data: bytes, at: int) -> int:
    while data[at] & 0x80:
        at += 1
    return at + 1
