"""Every test of the contract takes `storage`, or `backend` to open it several times, once per backend."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from kudurru_server.storage.interface import Storage

from tests.aws.backend import DynamoBackend
from tests.storage.backends import BACKENDS, Backend


@pytest.fixture(params=[*sorted(BACKENDS), pytest.param("dynamodb-local", marks=pytest.mark.components)])
def backends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Backend]]:
    """Return what makes empty stores."""
    if request.param == "dynamodb-local":
        component = request.getfixturevalue("dynamodb")
        for name, value in component.environment.items():
            monkeypatch.setenv(name, value)
        yield lambda: DynamoBackend(component)
        return
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
