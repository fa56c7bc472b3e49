"""Requests as bytes, made from a template: the load generator must cost a fraction of what the server does.

Every event has a fresh UUIDv7, two random tags out of `TAGS` and a payload that brings its frame to about 300 bytes.
"""

import itertools
import os
import random
import time

TAGS = 100_000
_PAYLOAD = b"x" * 110
_random = random.Random(7)  # noqa: S311 - load, not secrets
_serial = itertools.count(int.from_bytes(os.urandom(5), "big"))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _field(number: int, body: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(body)) + body


_EVENT = (
    b"\x0a"
    + bytes((36,))
    + b"%b-7%03x-8%03x-%012x"
    + _field(2, b"OrderPlaced")
    + b"\x1a\x0ctag:%08d\x1a\x0ctag:%08d"
    + _field(4, _PAYLOAD)
    + _field(5, b"application/json")
)
_EVENT_BYTES = len(_EVENT % (b"0" * 13, 0, 0, 0, 0, 0))
_HEAD = b"\x0a" + _varint(_EVENT_BYTES)


def event() -> bytes:
    """Return an encoded event with the tag and length of field 1 of an AppendRequest."""
    number = next(_serial)
    tag = _random.randrange(TAGS)
    milliseconds = b"%012x" % (time.time_ns() // 1_000_000)
    return _HEAD + _EVENT % (
        milliseconds[:8] + b"-" + milliseconds[8:],
        number >> 60 & 0xFFF,
        number >> 48 & 0xFFF,
        number & 0xFFFF_FFFF_FFFF,
        tag,
        (tag + _random.randrange(1, TAGS)) % TAGS,
    )


def query(tag: str) -> bytes:
    """Return an encoded query for one tag."""
    return _field(1, _field(2, tag.encode()))


def append(events: int, *, conditional: bool = True) -> bytes:
    """Return an AppendRequest; its condition asks the whole history for a tag that no event has."""
    body = b"".join([event() for _ in range(events)])
    if conditional:
        body += _field(2, _field(1, query(f"never:{next(_serial)}")))
    return body


def append_stream(appends: int) -> bytes:
    """Return an AppendStreamRequest of one-event conditional appends."""
    return b"".join([_field(1, append(1)) for _ in range(appends)])


def read_tag(tag: str) -> bytes:
    """Return a ReadRequest for one tag."""
    return _field(1, query(tag))
