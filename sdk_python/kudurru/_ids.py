"""UUIDv7 event ids: the store finds the age of an id in it, so a fresh one costs no look-up.

Within a process ids rise strictly, also within a millisecond. Every id takes fresh randomness, so that processes
forked within one millisecond do not make the same ids.
"""

import os
import threading
import time

_RANDOM_BITS = 74  # 12 of rand_a and 62 of rand_b, RFC 9562 section 5.7
_START_MASK = (1 << (_RANDOM_BITS - 1)) - 1  # leaves room to count up within the millisecond
_CLOCK_SET_BACK_MILLISECONDS = 10_000  # ids follow a clock that was wrong this much; the store allows 60 s

_lock = threading.Lock()
_last = 0


def new_event_id() -> str:
    """Make a UUIDv7 that is greater than every one before it, unless the clock was set back by more than 10 s."""
    global _last  # noqa: PLW0603 - the one state that makes ids rise within a process
    milliseconds = time.time_ns() // 1_000_000
    with _lock:
        ahead = (_last >> _RANDOM_BITS) - milliseconds
        if 0 <= ahead <= _CLOCK_SET_BACK_MILLISECONDS:
            _last += 1 + int.from_bytes(os.urandom(4), "big")
        else:
            _last = milliseconds << _RANDOM_BITS | int.from_bytes(os.urandom(10), "big") & _START_MASK
        value = _last
    time_and_a, b = value >> 62, value & ((1 << 62) - 1)
    text = f"{time_and_a >> 12:012x}7{time_and_a & 0xFFF:03x}{1 << 63 | b:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
