"""A server on a loop in a thread, for tests that are not coroutines: it can be stopped and started on the same data."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from kudurru_server._proto.event_store_service_pb2_grpc import EventStoreServiceStub
from kudurru_server.engine.engine import Engine, EngineOptions

from tests.api.nodes import PATIENCE_SECONDS, listen, run_engine_in
from tests.builders import held

_T = TypeVar("_T")


class ThreadedServer:
    """A server with a synchronous stub; its clock is what `clock` says."""

    def __init__(self, folder: Path, clock: Callable[[], int], tail_bytes: int) -> None:
        self._folder = folder
        self._options = EngineOptions(tail_bytes=tail_bytes, clock=clock)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.stub: EventStoreServiceStub
        self.engine: Engine

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_SECONDS)
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def start(self) -> None:
        """Open the store and listen."""
        self._stack = AsyncExitStack()
        address = self.run(self._start())
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = EventStoreServiceStub(self._channel)

    async def _start(self) -> str:
        self.engine = await self._stack.enter_async_context(held(run_engine_in(self._folder, self._options)))
        return await self._stack.enter_async_context(listen(self.engine))

    def stop(self) -> None:
        """Stop listening and close the store."""
        self._channel.close()
        self.run(self._stack.aclose())

    def restart(self) -> None:
        """Do both."""
        self.stop()
        self.start()
