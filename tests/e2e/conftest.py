"""What the tests with real servers share: a time limit, randomness that a failure can repeat, a server."""

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.client import Client, connect
from tests.server_process import ServerProcess, run_server

_LIMIT_SECONDS = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound every test here that has no bound of its own."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_LIMIT_SECONDS))


@pytest.fixture
def rng() -> random.Random:
    """Randomness whose seed a failure shows; KUDURRU_TEST_SEED repeats it."""
    seed = int(os.environ.get("KUDURRU_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KUDURRU_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return random.Random(seed)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with the default settings."""
    async with run_server(tmp_path) as running:
        yield running


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[Client]:
    """A client of `server`."""
    async with connect(server.address) as connected:
        yield connected
