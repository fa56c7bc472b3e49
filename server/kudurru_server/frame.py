"""The form in which events are stored and sent: written once, never decoded on its way out.

A frame is an encoded `RecordedEvent` with the tag and length of field 1 of `ReadResponse` and `SubscribeResponse`, so a
message is frames joined. Protobuf merges what is concatenated: the store's fields stand behind the client's event.
"""

from collections.abc import Sequence

from kudurru_server.model import TICKS_PER_SECOND, UNIX_EPOCH_TICKS

_ID_BYTES = 30
_POSITION_BYTES = 11  # of the id


def varint(number: int) -> bytes:
    """Encode a number of 0 and more as protobuf does."""
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def make_frames(encoded: Sequence[bytes], first: int, ticks: int) -> list[bytes]:
    """Return the frames of events that are recorded at adjacent positions from `first` on, at one tick."""
    seconds, rest = divmod(ticks - UNIX_EPOCH_TICKS, TICKS_PER_SECOND)
    timestamp = b"\x08" + varint(seconds & 0xFFFF_FFFF_FFFF_FFFF) + (b"\x10" + varint(rest * 100) if rest else b"")
    recorded_at = b"\x22" + varint(len(timestamp)) + timestamp
    id_field = b"\x12" + varint(_ID_BYTES) + b"%019d" % ticks
    frames: list[bytes] = []
    end = first + len(encoded)
    while first < end:
        # Within 128 positions only the first byte of the position changes, and events of a length have the same head.
        stop = min(end, (first | 0x7F) + 1)
        high = varint(first >> 7) if first > 0x7F else b""  # noqa: PLR2004
        low = 0x80 if high else 0
        back = high + recorded_at
        heads = _Heads(len(id_field) + _POSITION_BYTES + 2 + len(back))
        frames += [
            b"%b%b%b%011d\x18%c%b" % (heads[len(event)], event, id_field, position, position & 0x7F | low, back)
            for position, event in zip(range(first, stop), encoded[first - end :], strict=False)
        ]
        first = stop
    return frames


class _Heads(dict[int, bytes]):
    """What stands before an event of each length, when this many bytes of the store's fields follow it."""

    def __init__(self, rest_bytes: int) -> None:
        super().__init__()
        self._rest_bytes = rest_bytes

    def __missing__(self, event_bytes: int) -> bytes:
        inner = b"\x0a" + varint(event_bytes)
        head = self[event_bytes] = b"\x0a" + varint(len(inner) + event_bytes + self._rest_bytes) + inner
        return head


def event_of(frame: bytes) -> bytes:
    """Return the encoded event inside a frame."""
    start, stop = event_range(frame)
    return frame[start:stop]


def event_range(frame: bytes) -> tuple[int, int]:
    """Return where the encoded event lies in a frame."""
    start = _skip_varint(frame, 1) + 1
    end = start
    length = shift = 0
    while frame[end] & 0x80:
        length |= (frame[end] & 0x7F) << shift
        shift, end = shift + 7, end + 1
    length |= frame[end] << shift
    return end + 1, end + 1 + length


def _skip_varint(data: bytes, at: int) -> int:
    while data[at] & 0x80:
        at += 1
    return at + 1
