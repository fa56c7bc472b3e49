"""Every test of the contract takes `storage`, or `backend` to open it several times, once per backend."""

import os
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kudurru_server.storage.interface import Storage

from tests.aws.backend import DynamoBackend
from tests.aws.fault_proxy import fault_proxy
from tests.aws.faults import EVERYTHING
from tests.builders import held
from tests.loop_thread import LoopThread
from tests.storage.backends import BACKENDS, IN_BATCHES, Backend

_EXAMPLES = 60
_LOCAL = {"dynamodb-local": 12, "dynamodb-local-faults": 6}
"""How many examples of a property: each takes about half a second for its tables alone."""
_FAULTS = replace(EVERYTHING, longest_delay_seconds=0.03, longest_late_seconds=1.0, index_lag_seconds=(0.0, 0.3))
_PATIENT = replace(IN_BATCHES, patience_seconds=60.0)
"""Whatever happens, no call fails. Batches, which may be done in part, and the index, which lags."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Makes empty stores."""

    new: Callable[[], Backend]
    examples: int
    """How many examples of a property are worth their time here."""


@pytest.fixture(
    params=[*sorted(BACKENDS), *(pytest.param(name, marks=pytest.mark.components) for name in sorted(_LOCAL))]
)
def backends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backends]:
    """Return what makes empty stores."""
    with ExitStack() as stack:
        if request.param not in _LOCAL:
            for name in ("_BUSY_SECONDS", "_IDLE_SECONDS"):  # where the log is trimmed, it is at once
                monkeypatch.setattr(f"kudurru_server.storage.dynamodb.trim.{name}", 0.0)
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            yield Backends(lambda: BACKENDS[request.param](Path(tempfile.mkdtemp(dir=folder))), _EXAMPLES)
            return
        calm = request.node.get_closest_marker("calm")
        if calm and request.param == "dynamodb-local-faults":
            pytest.skip(calm.args[0])
        component = request.getfixturevalue("dynamodb")
        for name, value in component.environment.items():
            monkeypatch.setenv(name, value)
        if request.param == "dynamodb-local":
            yield Backends(lambda: DynamoBackend(component), _LOCAL[request.param])
            return
        seed = int(os.environ.get("KUDURRU_TEST_SEED") or random.SystemRandom().randrange(2**32))
        print(f"KUDURRU_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
        thread = stack.enter_context(LoopThread())
        proxying = held(fault_proxy(component, seed, _FAULTS))
        endpoint = thread.run(proxying.__aenter__()).endpoint
        stack.callback(lambda: thread.run(proxying.__aexit__(None, None, None)))
        yield Backends(lambda: DynamoBackend(component, _PATIENT, endpoint), _LOCAL[request.param])


@pytest.fixture
def backend(backends: Backends) -> Backend:
    """Return an empty store, closed."""
    return backends.new()


@pytest.fixture
async def storage(backend: Backend) -> AsyncIterator[Storage]:
    """Return an empty store, open."""
    async with backend.open() as opened:
        yield opened
