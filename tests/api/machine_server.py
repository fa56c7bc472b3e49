"""Servers on the loop of a thread, for tests that are not coroutines; each can be stopped and started again."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import grpc
from kudurru_server._proto.event_store_service_pb2_grpc import EventStoreServiceStub
from kudurru_server.api.convert import same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.storage.interface import Storage

from tests.api.nodes import listen
from tests.builders import held
from tests.loop_thread import LoopThread


class ThreadedServer:
    """A server on the loop of a thread, with a synchronous stub."""

    def __init__(
        self, thread: LoopThread, store: Callable[[], AbstractAsyncContextManager[Storage]], options: EngineOptions
    ) -> None:
        self._thread = thread
        self._store = store
        self._options = options
        self.stub: EventStoreServiceStub
        self.engine: Engine

    def start(self) -> None:
        """Open the store and listen."""
        self._stack = AsyncExitStack()
        address = self._thread.run(self._start())
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = EventStoreServiceStub(self._channel)

    async def _start(self) -> str:
        async with AsyncExitStack() as stack:
            storage = await stack.enter_async_context(held(self._store()))
            self.engine = await stack.enter_async_context(held(run_engine(storage, same_content, self._options)))
            address = await stack.enter_async_context(listen(self.engine))
            self._stack = stack.pop_all()
            return address

    def stop(self) -> None:
        """Stop listening and close the store."""
        self._channel.close()
        self._thread.run(self._stack.aclose())
