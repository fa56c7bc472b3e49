"""pytest-grpc's fixtures, with the server and the channel made for aio; the stub is the one pytest-grpc makes."""

from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import pytest_asyncio
from kudurru_server.engine.engine import Engine

from tests.api.nodes import Node, Stub, listen, make_stub, run_engine_in
from tests.builders import held


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_servicer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """Return the engine that is served: one store for a module."""
    async with held(run_engine_in(tmp_path_factory.mktemp("api") / "data")) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_server(grpc_servicer: Engine) -> AsyncIterator[Node]:
    """Serve it."""
    async with listen(grpc_servicer) as address:
        yield Node(grpc_servicer, address)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_channel(grpc_server: Node) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to it."""
    async with grpc.aio.insecure_channel(grpc_server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def grpc_stub_cls() -> Callable[[grpc.aio.Channel], Stub]:
    """Return what pytest-grpc makes its `grpc_stub` of."""
    return make_stub


@pytest.fixture
def stub(grpc_stub: Stub) -> Stub:
    """Return pytest-grpc's stub under a shorter name, with its type."""
    return grpc_stub
