"""Cursors are sortable unique ids: 19 digits of ticks (100 ns since 0001-01-01 UTC), then 11 digits of position."""

from datetime import UTC, datetime, timedelta

_TICK_DIGITS = 19
_POSITION_DIGITS = 11
_FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC)
_TICKS_PER_MICROSECOND = 10


def cursor_at(moment: datetime) -> str:
    """Return the cursor that every event recorded before `moment` precedes, for `after`.

    Raises:
        ValueError: `moment` has no time zone, so it does not say when.
    """
    if moment.tzinfo is None:
        raise ValueError("the time has no time zone")
    return make_cursor(moment, 0)


def make_cursor(moment: datetime, position: int) -> str:
    """Return the sortable unique id of an event recorded at `moment`."""
    ticks = (moment - _FIRST_MOMENT) // timedelta(microseconds=1) * _TICKS_PER_MICROSECOND
    return f"{ticks:0{_TICK_DIGITS}d}{position:0{_POSITION_DIGITS}d}"


def position_of(cursor: str) -> int:
    """Return the position in a cursor; 0 for the empty cursor and for a pure time."""
    return int(cursor[_TICK_DIGITS:] or 0)
