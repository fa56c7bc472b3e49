"""What each AWS error means, in one table, and how the store tries again.

    DatabaseError
    ├── OutcomeUnknownError     no answer, or one that does not tell: a write may or may not take effect
    ├── ThrottledError          nothing was done; the table or partition has no capacity at the moment
    ├── ConflictError           nothing was done; another transaction is at one of the items
    ├── OperatorError           nothing was done; somebody must change a policy, credentials, a table or a bucket
    └── RequestError            nothing was done; the request itself is wrong: a fault of ours
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


class DatabaseError(Exception):
    """DynamoDB or S3 did not do what it was asked to."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class OutcomeUnknownError(DatabaseError):
    """A write may or may not take effect, now or later."""


class ThrottledError(DatabaseError):
    """Nothing was done for lack of capacity."""


class ConflictError(DatabaseError):
    """Nothing was done, because another transaction is at one of the items."""


class OperatorError(DatabaseError):
    """Nothing was done, and nothing will be until somebody changes something."""


class RequestError(DatabaseError):
    """Nothing was done, because the request is wrong."""


_FIRST_PAUSE_SECONDS = 0.025
_LONGEST_PAUSE_SECONDS = 2.0


class Pauses:
    """How long to wait before each next attempt: growing, with full jitter, so that nodes do not march in step."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def before(self, attempt: int) -> None:
        """Wait before attempt number `attempt`, counted from 1 for the first repetition."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 10))
        await asyncio.sleep(self._chance.uniform(0, longest))


async def patiently(call: Callable[[], Awaitable[_T]], pauses: Pauses, seconds: float) -> _T:
    """Return what `call` returns, trying again for about `seconds` while that may help.

    Raises:
        DatabaseError: the last failure; a write may take effect later.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    attempt = 0
    while True:
        try:
            return await call()
        except (OutcomeUnknownError, ThrottledError, ConflictError):
            if loop.time() >= end:
                raise
        attempt += 1
        await pauses.before(attempt)
