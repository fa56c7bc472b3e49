"""Every test of the contract takes `storage`, or `backend` to open it several times, once per backend."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from kudurru_server.storage.interface import Storage

from tests.storage.backends import BACKENDS, Backend


@pytest.fixture(params=sorted(BACKENDS))
def backends(request: pytest.FixtureRequest) -> Iterator[Callable[[], Backend]]:
    """Return what makes empty stores."""
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: BACKENDS[request.param](Path(tempfile.mkdtemp(dir=folder)))


@pytest.fixture
def backend(backends: Callable[[], Backend]) -> Backend:
    """Return an empty store, closed."""
    return backends()


@pytest.fixture
async def storage(backend: Backend) -> AsyncIterator[Storage]:
    """Return an empty store, open."""
    async with backend.open() as opened:
        yield opened
