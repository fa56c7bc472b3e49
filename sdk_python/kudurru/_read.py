"""Read: what matches, up to the head, whatever happens to the connection on the way."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import grpc.aio

from kudurru._append import query_message
from kudurru._backoff import Backoff
from kudurru._call import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, closed_error, task_is_cancelled
from kudurru._model import RecordedEvent
from kudurru._proto import event_store_service_pb2 as pb
from kudurru._query import Query
from kudurru._status import is_retried, rpc_error, status_of


@dataclass(frozen=True, slots=True)
class ReadRange:
    """What to read; the fields of a ReadRequest."""

    query: Query | None
    after: str
    until: str
    backwards: bool
    limit: int
    at_least: str


class Read:
    """The events that match, in store order or backwards; iterate over it once.

    ```python
    read = store.read(Query.of(tags=["course:c1"]))
    async for event in read:
        ...
    read.head  # complete up to here: `after` of a condition
    ```

    A connection that breaks is taken up again behind the last event delivered, unless nothing arrives for as long as
    the store's timeout. The answer is then complete up to `head` all the same, which may be a later one.
    """

    def __init__(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[pb.ReadRequest, pb.ReadResponse]",
        read_range: ReadRange,
        patience_seconds: float,
    ) -> None:
        self._method = method
        self._range = read_range
        self._patience_seconds = patience_seconds
        self._begun = False
        self._first: RecordedEvent | None = None
        self._last: RecordedEvent | None = None
        self._delivered = 0
        self._head: str | None = None

    @property
    def head(self) -> str:
        """The cursor up to which the answer is complete; empty if the store is empty.

        Raises:
            RuntimeError: The read has not ended, so it is not complete.
        """
        if self._head is None:
            raise RuntimeError("the read has not ended")
        return self._head

    async def __aiter__(self) -> AsyncGenerator[RecordedEvent, None]:
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def to_list(self) -> list[RecordedEvent]:
        """Read everything into memory."""
        events: list[RecordedEvent] = []
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                events += batch
        return events

    async def batches(self) -> AsyncGenerator[list[RecordedEvent], None]:
        """Iterate over the events as they arrive, many at a time: the fastest way."""
        if self._begun:
            raise RuntimeError("a read can be iterated over once")
        self._begun = True
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        give_up_at = loop.time() + self._patience_seconds
        head = ""
        while self._head is None:
            resumed_backwards = self._range.backwards and self._last is not None
            skip = 1 if resumed_backwards else 0  # `until` is inclusive: the last event comes once more
            call = self._method(self._request())
            try:
                async for response in call:
                    events = list(map(RecordedEvent, response.events))[skip:]
                    skip = 0 if response.events else skip
                    if events:
                        self._note(events)
                        yield events
                    head = response.head
                    backoff.reset()
                    give_up_at = loop.time() + self._patience_seconds
            except asyncio.CancelledError:
                if task_is_cancelled():
                    raise
                raise closed_error() from None
            except grpc.aio.AioRpcError as error:
                if not (head or self._is_cut()):
                    await _wait_for_retry(error, backoff, give_up_at)
                    continue
            finally:
                call.cancel()
            self._head = self._own_head() if resumed_backwards or not head else head

    def _request(self) -> pb.ReadRequest:
        """Return the request for what has not been delivered."""
        wanted, last = self._range, self._last
        after, until, limit = wanted.after, wanted.until, wanted.limit
        if last is not None:
            after, until = (after, last.sortable_unique_id) if wanted.backwards else (last.sortable_unique_id, until)
            limit = limit and limit - self._delivered + wanted.backwards
        return pb.ReadRequest(
            query=query_message(wanted.query),
            after=after,
            until=until,
            backwards=wanted.backwards,
            limit=limit,
            at_least=wanted.at_least,
        )

    def _note(self, events: list[RecordedEvent]) -> None:
        self._first = self._first or events[0]
        self._last = events[-1]
        self._delivered += len(events)

    def _is_cut(self) -> bool:
        return 0 < self._range.limit <= self._delivered

    def _own_head(self) -> str:
        """Return a cursor that the delivered events prove, for want of the server's."""
        newest = self._first if self._range.backwards else self._last
        return newest.sortable_unique_id if newest else ""


async def _wait_for_retry(error: grpc.aio.AioRpcError, backoff: Backoff, give_up_at: float) -> None:
    delay = backoff.next_seconds()
    if not is_retried(status_of(error)) or asyncio.get_running_loop().time() + delay >= give_up_at:
        raise rpc_error(error) from error
    await asyncio.sleep(delay)
