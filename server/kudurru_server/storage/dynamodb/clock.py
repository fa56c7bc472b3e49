"""The time of a node: its monotonic clock, anchored to the time that DynamoDB's answers carry.

An answer made in second `d` of DynamoDB's clock, between two readings of the monotonic clock, bounds the offset between
the two clocks from both sides. The offset is left alone while it lies within the bounds, and else moved to the nearest
one. So the time neither follows a wrong wall clock nor trembles by the second that the header is rounded to.
"""

import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

import structlog

from kudurru_server.model import TICKS_PER_SECOND, UNIX_EPOCH_TICKS

_NANOSECONDS = 1_000_000_000
_NANOSECONDS_PER_TICK = _NANOSECONDS // TICKS_PER_SECOND
_LONGEST_ROUND_TRIP = _NANOSECONDS // 2
_TOLERATED = 2 * _NANOSECONDS

_log = structlog.get_logger()


class ServerClock:
    """Tells the time of DynamoDB; before its first answer, that of the wall clock. It may step back."""

    def __init__(
        self, monotonic_ns: Callable[[], int] = time.monotonic_ns, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._offset = wall_ns() - monotonic_ns()
        self._warned = False
        self._header = ""
        self._second = 0

    def now_ticks(self) -> int:
        """Return the time in ticks, 100 ns since 0001-01-01."""
        return UNIX_EPOCH_TICKS + (self.monotonic_ns() + self._offset) // _NANOSECONDS_PER_TICK

    def observe(self, date: str | None, sent_ns: int, received_ns: int) -> None:
        """Take note of an answer's `Date` header.

        Args:
            date: the header; nothing happens without one, or if it cannot be read.
            sent_ns: the monotonic clock before the request was sent.
            received_ns: and when the answer was there.
        """
        if not date or received_ns - sent_ns >= _LONGEST_ROUND_TRIP:
            return
        if date != self._header:
            try:
                moment = parsedate_to_datetime(date)
            except ValueError:
                return
            self._header, self._second = date, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
        lowest = self._second * _NANOSECONDS - received_ns
        highest = (self._second + 1) * _NANOSECONDS - sent_ns
        self._offset = min(max(self._offset, lowest), highest)
        if not self._warned:
            self._compare_wall(received_ns)

    def _compare_wall(self, received_ns: int) -> None:
        ahead = self._wall_ns() - (received_ns + self._offset)
        if abs(ahead) > _TOLERATED:
            self._warned = True
            _log.warning("wall_clock_is_wrong", ahead_seconds=round(ahead / _NANOSECONDS, 1))
