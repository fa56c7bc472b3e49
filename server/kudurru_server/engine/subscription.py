"""A subscription: a position that moves on, from history into the tail and, if it is too slow, back again.

Nothing is pushed to it and nothing is queued for it: it takes the next batch when its consumer has taken the last one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from kudurru_server.engine.cursors import Cursors
from kudurru_server.engine.reader import BATCH_BYTES, Reader
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import ShuttingDownError
from kudurru_server.model import Batch, Cursor, Query
from kudurru_server.storage.interface import Span


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """History is delivered; what follows is live."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class FellBehind:
    """The consumer was slower than the tail is long; what follows is history."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything up to `cursor` has been considered; `lag` events lie between it and `head`."""

    cursor: Cursor
    head: Cursor
    lag: int


Message = Batch | CaughtUp | FellBehind | Checkpoint


class Subscription:
    """One subscriber's place in the store."""

    def __init__(
        self,
        tail: Tail,
        reader: Reader,
        cursors: Cursors,
        query: Query,
        *,
        after: Cursor,
        position: int,
        heartbeat_seconds: float,
        closing: Callable[[], bool],
    ) -> None:
        self._tail = tail
        self._reader = reader
        self._cursors = cursors
        self._query = query
        self._after = after
        # None: it begins at a time that the store has not reached, and what comes before it is passed over.
        later = after.position == 0 and after.ticks > tail.head.ticks
        self._position = None if later else position
        self._heartbeat_seconds = heartbeat_seconds
        self._closing = closing

    async def messages(self) -> AsyncGenerator[Message]:
        """Yield every matching event once and in order, and news, until the server shuts down.

        Raises:
            ShuttingDownError: resume elsewhere, or later, from the last position.
        """
        tail = self._tail
        live = False
        due = self._now() + self._heartbeat_seconds
        while not self._closing():
            if self._now() >= due:
                yield await self._checkpoint()
                due = self._now() + self._heartbeat_seconds
                continue
            if self._position is None and self._after.ticks <= tail.head.ticks:
                self._position = await self._cursors.position(self._after, "after")
            position, head = self._position, tail.head.position
            if position is None or position == head:
                if live:
                    await self._news(due - self._now())
                else:
                    live = True
                    yield CaughtUp(await self._cursor())
            elif position + 1 < tail.start:
                if live:
                    live = False
                    yield FellBehind(await self._cursor())
                async with aclosing(self._history(position, due)) as batches:
                    async for batch in batches:
                        yield batch
            else:
                batch = tail.shared_batch(self._query, Span(position, head), BATCH_BYTES)
                self._position = batch.reached
                if batch.count:
                    yield batch
        raise ShuttingDownError

    async def _history(self, after: int, due: float) -> AsyncGenerator[Batch]:
        span = Span(after, self._tail.start - 1)
        async with aclosing(self._reader.history(self._query, span)) as batches:
            async for batch in batches:
                self._position = batch.reached
                if batch.count:
                    yield batch
                if self._closing() or self._now() >= due:
                    return

    async def _checkpoint(self) -> Checkpoint:
        head = self._tail.head
        position = self._position
        return Checkpoint(await self._cursor(), head, 0 if position is None else head.position - position)

    async def _cursor(self) -> Cursor:
        if self._position is None:
            return self._after
        cursor = await self._cursors.at(self._position)
        return max(cursor, self._after, key=str)  # a time may lie between the event there and the next one

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _news(self, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._tail.changed()
        except TimeoutError:
            pass
