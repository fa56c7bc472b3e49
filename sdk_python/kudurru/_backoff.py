"""How long to wait before the next attempt: exponential, capped, with jitter so that clients do not come in step."""

import random

_RANDOM = random.SystemRandom()  # forked processes must not draw the same delays


class Backoff:
    """The delays of one series of attempts."""

    def __init__(self, first_seconds: float, cap_seconds: float) -> None:
        self._first = first_seconds
        self._cap = cap_seconds
        self._next = first_seconds

    def next_seconds(self) -> float:
        """Return a delay between half of the current one and all of it, and double the current one."""
        delay, self._next = self._next, min(self._cap, self._next * 2)
        return delay * _RANDOM.uniform(0.5, 1)

    def reset(self) -> None:
        """Begin again: the last attempt got somewhere."""
        self._next = self._first
