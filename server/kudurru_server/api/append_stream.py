"""AppendStream: messages are read ahead while earlier ones are decided; outcomes go out in order, many together."""

import asyncio
from collections.abc import AsyncIterator

from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api import rpc
from kudurru_server.api.convert import Converter
from kudurru_server.api.outcome import to_outcome
from kudurru_server.api.rpc import Context
from kudurru_server.engine.engine import Engine
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import InvalidRequestError, KudurruError, ShuttingDownError
from kudurru_server.model import Append

_AHEAD = 8  # messages of a stream that are decided at once; more would only move the queue into the server
_RESPONSE_BYTES = 1 << 20

_Decided = asyncio.Task[list[pb.AppendOutcome]]


class AppendStream:
    """Serves the streams of one engine."""

    def __init__(self, engine: Engine, converter: Converter) -> None:
        self._engine = engine
        self._converter = converter

    async def serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve one stream until the client ends it, a message breaks a limit, or the server shuts down.

        Raises:
            InvalidRequestError: a message breaks a limit; everything before it is answered.
            ShuttingDownError: messages that are not answered had no effect, or an unknown one.
        """
        decided: asyncio.Queue[_Decided | KudurruError | None] = asyncio.Queue(_AHEAD)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._receive(requests, decided, tasks))
            closing = tasks.create_task(self._end_on_shutdown(reading, decided))
            end = await self._send(decided, context)
            closing.cancel()
        if end is not None:
            raise end

    async def _receive(
        self,
        requests: AsyncIterator[bytes],
        decided: asyncio.Queue[_Decided | KudurruError | None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        end: KudurruError | None = None
        try:
            async for data in requests:
                request = rpc.parse(pb.AppendStreamRequest, data)
                self._converter.check_message(request)
                appends, outcomes = self._convert(request)
                self._converter.check_message_bytes(list(appends.values()))
                await decided.put(tasks.create_task(self._decide(appends, outcomes)))
        except InvalidRequestError as error:
            end = error
        await decided.put(end)

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

    async def _decide(self, appends: dict[int, Append], outcomes: list[Outcome | None]) -> list[pb.AppendOutcome]:
        try:
            decided = await self._engine.append(list(appends.values()))
        except KudurruError as error:
            decided = [error] * len(appends)
        for place, outcome in zip(appends, decided, strict=True):
            outcomes[place] = outcome
        return [
            to_outcome(appends.get(place), outcome) for place, outcome in enumerate(outcomes) if outcome is not None
        ]

    async def _end_on_shutdown(
        self, reading: asyncio.Task[None], decided: asyncio.Queue[_Decided | KudurruError | None]
    ) -> None:
        await self._engine.closing.wait()
        reading.cancel()
        await decided.put(ShuttingDownError())

    async def _send(
        self, decided: asyncio.Queue[_Decided | KudurruError | None], context: Context
    ) -> KudurruError | None:
        """Send outcomes until the end of the queue; return why it ended."""
        while True:
            following = await decided.get()
            outcomes: list[pb.AppendOutcome] = []
            while isinstance(following, asyncio.Task):
                outcomes += await following
                if decided.empty():
                    break
                following = decided.get_nowait()
                if isinstance(following, asyncio.Task) and not following.done():
                    await self._write(outcomes, context)
                    outcomes = []
            await self._write(outcomes, context)
            if not isinstance(following, asyncio.Task):
                return following

    @staticmethod
    async def _write(outcomes: list[pb.AppendOutcome], context: Context) -> None:
        message = pb.AppendStreamResponse()
        size = 0
        for outcome in outcomes:
            message.outcomes.append(outcome)
            size += outcome.ByteSize()
            if size >= _RESPONSE_BYTES:
                await context.write(message.SerializeToString())
                message, size = pb.AppendStreamResponse(), 0
        if message.outcomes:
            await context.write(message.SerializeToString())
