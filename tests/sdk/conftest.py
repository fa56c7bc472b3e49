"""A fake server for each test, and a store that is connected to it."""

from collections.abc import AsyncIterator

import kudurru
import pytest
from kudurru import EventStore

from .fake_server import FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """Start a server that behaves until it is told otherwise."""
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def store(server: FakeServer) -> AsyncIterator[EventStore]:
    """Connect to the server."""
    async with kudurru.connect(server.target, timeout=10) as store:
        yield store
