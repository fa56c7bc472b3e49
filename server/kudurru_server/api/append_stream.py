"""AppendStream: messages are read ahead while earlier ones are decided; outcomes go out in order, many together."""

import asyncio
from collections.abc import AsyncIterator

from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api import rpc
from kudurru_server.api.convert import Converter
from kudurru_server.api.neighbours import HANDED_TO
from kudurru_server.api.outcome import encode_outcome
from kudurru_server.api.rpc import Context
from kudurru_server.engine.engine import Engine
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import InvalidRequestError, KudurruError, ShuttingDownError
from kudurru_server.model import Append

_AHEAD = 8  # messages of a stream whose outcomes are not sent; more would only move the queue into the server
_RESPONSE_BYTES = 1 << 20

_Message = asyncio.Task[list[bytes]]


class AppendStream:
    """One stream."""

    def __init__(self, engine: Engine, converter: Converter, context: Context) -> None:
        self._engine = engine
        self._converter = converter
        self._context = context
        metadata = context.invocation_metadata() or ()
        self._handed_to = next((str(value) for key, value in metadata if key == HANDED_TO), None)
        self._places = asyncio.Semaphore(_AHEAD)
        self._messages: asyncio.Queue[_Message | KudurruError | None] = asyncio.Queue()
        """Messages in order, each with a place; last, why the stream ends (None: the client has said all)."""

    async def serve(self, requests: AsyncIterator[bytes]) -> None:
        """Serve until the client ends the stream, a message breaks a limit, or the server shuts down.

        Raises:
            InvalidRequestError: a message breaks a limit; everything before it is answered.
            ShuttingDownError: everything the server has taken in is answered; the rest had no effect.
        """
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._receive(requests, tasks))
            closing = tasks.create_task(self._end_on_shutdown(reading))
            end = await self._send()
            closing.cancel()
        if end is not None:
            raise end

    async def _receive(self, requests: AsyncIterator[bytes], tasks: asyncio.TaskGroup) -> None:
        end: KudurruError | None = None
        try:
            async for data in requests:
                request = rpc.parse(pb.AppendStreamRequest, data)
                if self._handed_to is None:
                    self._converter.check_message(request)
                appends, outcomes = self._convert(request)
                if self._handed_to is None:  # another node's limits are its own, and each append was checked there
                    self._converter.check_message_bytes(list(appends.values()))
                await self._places.acquire()
                self._messages.put_nowait(tasks.create_task(self._decide(appends, outcomes)))
        except InvalidRequestError as error:
            end = error
        self._messages.put_nowait(end)

    async def _end_on_shutdown(self, reading: asyncio.Task[None]) -> None:
        await self._engine.closing.wait()
        reading.cancel()
        self._messages.put_nowait(ShuttingDownError())

    def _convert(self, request: pb.AppendStreamRequest) -> tuple[dict[int, Append], list[Outcome | None]]:
        """Return the appends that keep the limits, by their place, and the refusals of the others at theirs."""
        appends: dict[int, Append] = {}
        outcomes: list[Outcome | None] = [None] * len(request.appends)
        for place, one in enumerate(request.appends):
            try:
                appends[place] = self._converter.append(one)
            except InvalidRequestError as error:
                outcomes[place] = error
        return appends, outcomes

    async def _decide(self, appends: dict[int, Append], outcomes: list[Outcome | None]) -> list[bytes]:
        try:
            decided = await self._engine.append(list(appends.values()), handed_to=self._handed_to)
        except KudurruError as error:
            decided = [error] * len(appends)
        for place, outcome in zip(appends, decided, strict=True):
            outcomes[place] = outcome
        return [
            encode_outcome(appends.get(place), outcome) for place, outcome in enumerate(outcomes) if outcome is not None
        ]

    async def _send(self) -> KudurruError | None:
        """Send outcomes until the stream ends; return why it does."""
        while True:
            message = await self._messages.get()
            outcomes: list[bytes] = []
            taken = 0
            while isinstance(message, asyncio.Task):
                outcomes += await message
                taken += 1
                if self._messages.empty():
                    break
                message = self._messages.get_nowait()
                if isinstance(message, asyncio.Task) and not message.done():
                    await self._write(outcomes)
                    outcomes = []
            await self._write(outcomes)
            for _ in range(taken):
                self._places.release()
            if not isinstance(message, asyncio.Task):
                return message

    async def _write(self, outcomes: list[bytes]) -> None:
        start = size = 0
        for stop, outcome in enumerate(outcomes, 1):
            size += len(outcome)
            if size >= _RESPONSE_BYTES or stop == len(outcomes):
                await self._context.write(b"".join(outcomes[start:stop]))
                start, size = stop, 0
