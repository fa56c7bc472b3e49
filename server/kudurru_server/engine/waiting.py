"""Appends on their way: who waits for them, what is known of them, and the queues they stand in."""

import asyncio
from collections import deque

from kudurru_server.cost import Bill, current_bill
from kudurru_server.engine.judge import Outcome
from kudurru_server.engine.lookups import NOTHING_ASKED
from kudurru_server.model import Append

ENTRY_EVENTS = 16_384


class Submission:
    """Appends that were handed in together, and their outcomes."""

    def __init__(self, count: int) -> None:
        self.bill = current_bill()
        self.outcomes: list[Outcome | None] = [None] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = count

    def settle(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of one of them."""
        self.outcomes[index] = outcome
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(None)


class Waiting:
    """One append on its way."""

    __slots__ = ("answers", "append", "index", "is_kept", "may_be_recorded", "stays", "submission")

    def __init__(self, append: Append, submission: Submission, index: int, *, stays: bool) -> None:
        self.append = append
        self.answers = NOTHING_ASKED
        self.submission = submission
        self.index = index
        self.is_kept = False
        """Its large payloads lie in the store."""
        self.stays = stays
        """Is not handed to another node (again)."""
        self.may_be_recorded = False
        """Was handed to another node, and nobody knows what became of it."""

    @property
    def is_abandoned(self) -> bool:
        """Tell whether its caller has left."""
        return self.submission.done.cancelled()

    @property
    def bill(self) -> Bill:
        """Who pays."""
        return self.submission.bill

    @property
    def weight(self) -> int:
        """The share in what is done for several."""
        return len(self.append.ids)


class Queue:
    """Appends that wait for the same work."""

    def __init__(self) -> None:
        self._all: deque[Waiting] = deque()
        self._filled = asyncio.Event()

    def put(self, waiting: Waiting) -> None:
        """Let an append wait."""
        self._all.append(waiting)
        self._filled.set()

    async def take_all(self) -> list[Waiting]:
        """Wait for appends, and return them; none if somebody else was faster."""
        await self._filled.wait()
        self._filled.clear()
        batch = list(self._all)
        self._all.clear()
        return batch

    async def take_entry(self, limit_bytes: int) -> list[Waiting]:
        """Wait for appends, and return as many as fit into an entry, at least one."""
        await self._filled.wait()
        batch: list[Waiting] = []
        size = events = 0
        while self._all and size < limit_bytes and events < ENTRY_EVENTS:
            append = self._all[0].append
            if batch and (size + append.size_bytes > limit_bytes or events + len(append.ids) > ENTRY_EVENTS):
                break
            batch.append(self._all.popleft())
            size, events = size + append.size_bytes, events + len(append.ids)
        if not self._all:
            self._filled.clear()
        return batch
