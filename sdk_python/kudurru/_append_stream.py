"""The one stream on which all appends of a store travel.

A message takes everything that is waiting, and few messages are under way at a time, so what queues up in the meantime
travels together: that is the whole batching. When the stream breaks, what is unanswered goes to the front of the next
stream, with the same event ids; every such append remembers that an attempt of it has an unknown outcome.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

import grpc.aio

from kudurru._backoff import Backoff
from kudurru._call import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, task_is_cancelled
from kudurru._errors import KudurruError
from kudurru._proto.event_store_service_pb2 import AppendError, AppendOutcome, AppendStreamResponse
from kudurru._status import CALL_REFUSED, Code, error_of, is_lost, status_of

MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # the protocol's limits
MAX_MESSAGE_APPENDS = 1024
_MESSAGES_UNDER_WAY = 4  # 1 to 8 measured the same; more than one lets the server read ahead
_SILENCE_SECONDS = 20.0  # no answer for so long with appends under way: the stream is dead, whatever TCP says
_CLOSED = AppendError(code=Code.CANCELLED, message="the store is closed")

_Call = grpc.aio.StreamStreamCall[bytes, AppendStreamResponse]


class Pending:
    """An append that waits for its outcome.

    Attributes:
        encoded: The append as a field of a stream message.
        outcome: Resolved with this attempt's outcome; cancelled when the caller has left.
        sent: Whether this attempt is on the wire.
        doubt: How an attempt ended after which the append may be recorded; None if there was none.
    """

    __slots__ = ("doubt", "encoded", "outcome", "sent")

    outcome: asyncio.Future[AppendOutcome]
    doubt: KudurruError | None

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.sent = False
        self.doubt = None


class AppendStream:
    """Sends appends and matches outcomes to them, over one stream that is opened when it is needed."""

    def __init__(self, method: "grpc.aio.StreamStreamMultiCallable[bytes, AppendStreamResponse]") -> None:
        self._method = method
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Pending] = deque()
        self._unanswered: deque[Pending] = deque()
        self._message_sizes: deque[int] = deque()  # unanswered appends of each message under way
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        self._closed = False
        self._backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        self.failure: KudurruError | None = None
        """Why there is no stream; None while there is one."""

    async def attempt(self, pending: Pending) -> AppendOutcome:
        """Send the append with the next message and return what became of it, however often the stream breaks.

        Cancelling this abandons the append and disturbs no other.
        """
        pending.sent = False
        pending.outcome = self._loop.create_future()
        if self._closed:
            _resolve(pending, _CLOSED)
        self._waiting.append(pending)
        self._wake.set()
        if self._task is None and not self._closed:
            self._task = self._loop.create_task(self._run())
        return await pending.outcome

    async def aclose(self) -> None:
        """End the stream; appends that still wait end as cancelled."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for pending in (*self._unanswered, *self._waiting):
            _resolve(pending, _CLOSED)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            ended = await self._stream()
            self.failure = error_of(ended.code, ended.message, ended.details)
            self._give_back(ended)
            await asyncio.sleep(self._backoff.next_seconds())

    async def _stream(self) -> AppendError:
        """Run one stream and return what it ended with."""
        call = self._method()
        try:
            # Nothing is taken from the queue before there is a connection: what was never sent has a known outcome.
            await call.wait_for_connection()
            self.failure = None
            async with asyncio.TaskGroup() as tasks:
                side_tasks = [tasks.create_task(self._send(call)), tasks.create_task(self._watch(call))]
                ended = await self._receive(call)
                for task in side_tasks:
                    task.cancel()
        except grpc.aio.AioRpcError as error:
            return status_of(error)
        finally:
            call.cancel()
        return ended

    async def _send(self, call: _Call) -> None:
        while True:
            await self._wake.wait()
            if len(self._message_sizes) >= _MESSAGES_UNDER_WAY or not self._waiting:
                self._wake.clear()
                continue
            message = self._take()
            if not message:
                continue
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the receiving side learns why

    def _take(self) -> bytes:
        """Move what fits into one message from the waiting to the unanswered, leaving out what was abandoned."""
        if not self._unanswered:
            self._heard_at = self._loop.time()
        parts: list[bytes] = []
        size = 0
        while self._waiting and len(parts) < MAX_MESSAGE_APPENDS:
            pending = self._waiting[0]
            if not pending.outcome.done():
                size += len(pending.encoded)
                if size > MAX_MESSAGE_BYTES:
                    break
                parts.append(pending.encoded)
                pending.sent = True
                self._unanswered.append(pending)
            self._waiting.popleft()
        if parts:
            self._message_sizes.append(len(parts))
        return b"".join(parts)

    async def _receive(self, call: _Call) -> AppendError:
        try:
            async for response in call:
                if len(response.outcomes) > len(self._unanswered):
                    return AppendError(
                        code=Code.INTERNAL, message="the server sent more outcomes than there were appends"
                    )
                self._settle(response.outcomes)
        except grpc.aio.AioRpcError as error:
            return status_of(error)
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            return AppendError(code=Code.UNAVAILABLE, message=f"no answer for {_SILENCE_SECONDS:.0f} s")
        return AppendError(code=Code.UNAVAILABLE, message="the server ended the stream")

    def _settle(self, outcomes: Iterable[AppendOutcome]) -> None:
        self._heard_at = self._loop.time()
        self._backoff.reset()
        for outcome in outcomes:
            pending = self._unanswered.popleft()
            if not pending.outcome.done():
                pending.outcome.set_result(outcome)
            self._message_sizes[0] -= 1
            if not self._message_sizes[0]:
                self._message_sizes.popleft()
        self._wake.set()

    async def _watch(self, call: _Call) -> None:
        while True:
            await asyncio.sleep(_SILENCE_SECONDS / 4)
            if self._unanswered and self._loop.time() - self._heard_at > _SILENCE_SECONDS:
                call.cancel()

    def _give_back(self, ended: AppendError) -> None:
        """Queue what the broken stream left unanswered again, in order, or answer it with the stream's own status.

        A server that refuses the call itself would refuse it to those that wait, too.
        """
        unanswered, self._unanswered = self._unanswered, deque()
        self._message_sizes.clear()
        for pending in reversed(unanswered):
            if ended.code not in CALL_REFUSED:
                pending.doubt = self.failure
            if is_lost(ended):
                pending.sent = False
                self._waiting.appendleft(pending)
            else:
                _resolve(pending, ended)
        if ended.code in CALL_REFUSED:
            for pending in self._waiting:
                _resolve(pending, ended)
            self._waiting.clear()
        if self._waiting:
            self._wake.set()
        else:
            self._wake.clear()


def _resolve(pending: Pending, error: AppendError) -> None:
    if not pending.outcome.done():
        pending.outcome.set_result(AppendOutcome(error=error))
