"""UUIDv7 (RFC 9562): ids for clients that send none, and the time inside those that were sent."""

import secrets
import time
from collections.abc import Sequence

from kudurru_server.model import TICKS_PER_SECOND, UNIX_EPOCH_TICKS

_VERSION_AT = 14
_TICKS_PER_MILLISECOND = TICKS_PER_SECOND // 1000


def make_event_ids(count: int) -> list[str]:
    """Return new ids of now, ascending."""
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    randoms = (secrets.token_hex(10) for _ in range(count))
    return sorted(
        f"{milliseconds[:8]}-{milliseconds[8:]}-7{r[1:4]}-{'89ab'[int(r[4], 16) & 3]}{r[5:8]}-{r[8:]}" for r in randoms
    )


def uuid7_ticks(ids: Sequence[str]) -> tuple[int, int]:
    """Return the earliest and the latest time in ticks; (0, latest) if some are no UUIDv7, (0, 0) if all are."""
    times = [event_id[:13] for event_id in ids if event_id[_VERSION_AT] == "7"]
    if not times:
        return 0, 0
    oldest = _ticks(min(times)) if len(times) == len(ids) else 0
    return oldest, _ticks(max(times))


def _ticks(digits: str) -> int:
    return int(digits.replace("-", ""), 16) * _TICKS_PER_MILLISECOND + UNIX_EPOCH_TICKS
