"""Subscribe: every matching event once and in order, for as long as anybody listens."""

import asyncio
from asyncio import CancelledError
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Self

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from kudurru._append import query_message
from kudurru._backoff import Backoff
from kudurru._call import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, task_is_cancelled
from kudurru._cursor import position_of
from kudurru._model import RecordedEvent
from kudurru._proto import event_store_service_pb2 as pb
from kudurru._query import Query
from kudurru._status import is_lost, rpc_error, status_of

_SILENT_HEARTBEATS = 3
_FIRST_MESSAGE_SECONDS = 10.0  # however short the heartbeat: connecting takes its time


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """History is delivered up to `sortable_unique_id`; what follows is live."""

    sortable_unique_id: str


@dataclass(frozen=True, slots=True)
class FellBehind:
    """This subscriber was too slow: what follows `sortable_unique_id` is history again, without a gap."""

    sortable_unique_id: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far the subscription is, whether or not events matched.

    Attributes:
        sortable_unique_id: Everything up to here has been considered: a later subscription may begin `after` it.
        head: The store's head.
        lag: How many events of the store, matching or not, lie between the two.
    """

    sortable_unique_id: str
    head: str
    lag: int


Message = RecordedEvent | CaughtUp | FellBehind | Checkpoint


class Subscription:
    """Matching events, first from history and then live; it never ends by itself.

    Iterate over it for the events, or over `messages()` for the signals, too. Whatever breaks on the way, it goes on
    behind the last event delivered or the last checkpoint, without a gap and without a repeat, for as long as the
    server is away. Breaking out of the loop ends the call; iterating again goes on where the last loop ended.

    `async with` waits until the server has said where the subscription begins. With `from_now` that is the way to know
    that whatever is recorded from here on will be delivered:

    ```python
    async with store.subscribe(query, from_now=True) as subscription:
        await store.append(event)
        async for event in subscription: ...
    ```

    A connection that dies before the server has said anything leaves no trace of where "now" was, and the subscription
    begins with the connection that succeeds.
    """

    def __init__(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[pb.SubscribeRequest, pb.SubscribeResponse]",
        query: Query | None,
        after: str,
        *,
        from_now: bool,
        heartbeat_seconds: float,
    ) -> None:
        if from_now and after:
            raise ValueError("a subscription begins after a cursor or from now, not both")
        self._method = method
        self._query = query_message(query)
        self._from_now = from_now
        self._heartbeat_seconds = heartbeat_seconds
        self._mark = after
        self._last: RecordedEvent | None = None  # delivered after the mark
        self._lag: int | None = None
        self._caught_up = asyncio.Event()
        self._source: AsyncGenerator[pb.SubscribeResponse, None] | None = None
        self._ahead: pb.SubscribeResponse | None = None
        self._call: grpc.aio.UnaryStreamCall[pb.SubscribeRequest, pb.SubscribeResponse] | None = None
        self._closing = asyncio.Event()

    @property
    def cursor(self) -> str:
        """The last event delivered or the last checkpoint, whichever is later: save it, and begin `after` it again."""
        return self._last.sortable_unique_id if self._last is not None else self._mark

    @property
    def position(self) -> int:
        """The position in `cursor`."""
        return position_of(self.cursor)

    @property
    def lag(self) -> int | None:
        """How many events of the store lay between the last checkpoint and the head; None before the first one."""
        return self._lag

    async def caught_up(self) -> None:
        """Wait until history is delivered, while another task iterates."""
        await self._caught_up.wait()

    async def __aiter__(self) -> AsyncGenerator[RecordedEvent, None]:
        async with aclosing(self.messages()) as messages:
            async for message in messages:
                if isinstance(message, RecordedEvent):
                    yield message

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Iterate over the events and the signals between them."""
        source, response = self._source or self._responses(), self._ahead
        self._source = self._ahead = None
        async with aclosing(source):
            while (response := response or await anext(source, None)) is not None:
                for message in response.events:
                    self._last = event = RecordedEvent(message)
                    yield event
                if (signal := self._signal(response)) is not None:
                    yield signal
                response = None

    async def aclose(self) -> None:
        """End the subscription; a loop over it ends, too."""
        self._closing.set()
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        self._source = self._responses()
        self._ahead = await anext(self._source, None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
        if self._source is not None:
            await self._source.aclose()

    def _signal(self, response: pb.SubscribeResponse) -> CaughtUp | FellBehind | Checkpoint | None:
        signal: CaughtUp | FellBehind | Checkpoint
        match response.WhichOneof("signal"):
            case "caught_up":
                signal = CaughtUp(response.caught_up.sortable_unique_id)
                self._caught_up.set()
            case "fell_behind":
                signal = FellBehind(response.fell_behind.sortable_unique_id)
                self._caught_up.clear()
            case "checkpoint":
                checkpoint = response.checkpoint
                signal = Checkpoint(checkpoint.sortable_unique_id, checkpoint.head, checkpoint.lag)
                self._lag = signal.lag
            case _:
                return None
        self._from_now = False
        if signal.sortable_unique_id >= self.cursor:
            self._mark, self._last = signal.sortable_unique_id, None
        return signal

    async def _responses(self) -> AsyncGenerator[pb.SubscribeResponse, None]:
        """Yield what the server sends, over one connection after the other."""
        backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        while not self._closing.is_set():
            try:
                call = self._call = self._method(self._request())
            except grpc.aio.UsageError:
                return  # the store was closed in the meantime
            patience_seconds = max(_FIRST_MESSAGE_SECONDS, _SILENT_HEARTBEATS * self._heartbeat_seconds)
            responses = aiter(call)
            try:
                while True:
                    async with asyncio.timeout(patience_seconds):
                        response = await anext(responses)
                    yield response
                    patience_seconds = _SILENT_HEARTBEATS * self._heartbeat_seconds
                    backoff.reset()
            except (TimeoutError, StopAsyncIteration):
                pass  # silent for too long, or ended by a server that is going away
            except grpc.aio.AioRpcError as error:
                if not is_lost(status_of(error)):
                    raise rpc_error(error) from error
            except CancelledError:
                if task_is_cancelled():
                    raise
                return  # aclose, of the subscription or of the store
            finally:
                call.cancel()
            self._caught_up.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_seconds()):
                    await self._closing.wait()

    def _request(self) -> pb.SubscribeRequest:
        heartbeat = Duration()
        heartbeat.FromNanoseconds(int(self._heartbeat_seconds * 1e9))
        cursor = self.cursor
        request = pb.SubscribeRequest(query=self._query, heartbeat_interval=heartbeat)
        if self._from_now and not cursor:
            request.from_now = True
        else:
            request.after = cursor
        return request
