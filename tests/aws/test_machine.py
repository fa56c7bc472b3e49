"""The state machine on DynamoDB Local: two nodes, also over a network with faults and little patience."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.api.machine import Setup, run_machine
from tests.aws.backend import DynamoBackend
from tests.aws.components import Component
from tests.aws.fault_proxy import FaultProxy, fault_proxy
from tests.aws.faults import EVERYTHING
from tests.builders import held
from tests.loop_thread import LoopThread
from tests.storage.backends import IN_BATCHES, IN_TRANSACTIONS, Backend

_FAULTS = replace(EVERYTHING, longest_delay_seconds=0.03, longest_late_seconds=0.5, index_lag_seconds=(0.0, 0.1))
_IMPATIENT_SECONDS = 0.03
"""So short that calls fail: an append whose outcome is unknown is repeated, perhaps at the other node."""


@pytest.fixture(autouse=True)
def environment(dynamodb: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dynamodb.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(dynamodb: Component) -> Iterator[FaultProxy]:
    """Return a proxy with faults, whose seed a failure shows."""
    seed = int(os.environ.get("KUDURRU_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KUDURRU_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    with LoopThread() as thread:
        proxying = held(fault_proxy(dynamodb, seed, _FAULTS))
        yield thread.run(proxying.__aenter__())
        thread.run(proxying.__aexit__(None, None, None))


def test_two_nodes_on_dynamodb_local_answer_as_the_reference_does(dynamodb: Component) -> None:
    backends: list[Callable[[Path], Backend]] = [
        lambda _: DynamoBackend(dynamodb, IN_TRANSACTIONS),
        lambda _: DynamoBackend(dynamodb, IN_BATCHES),
    ]
    run_machine(Setup(backends, nodes=2, follow_seconds=(0.01, 60.0), apply_delay_seconds=0.01), max_examples=6)


def test_two_nodes_behind_a_network_with_faults_answer_as_the_reference_does(
    dynamodb: Component, proxy: FaultProxy
) -> None:
    impatient = [replace(options, patience_seconds=_IMPATIENT_SECONDS) for options in (IN_TRANSACTIONS, IN_BATCHES)]
    backends: list[Callable[[Path], Backend]] = [
        lambda _, options=options: DynamoBackend(dynamodb, options, proxy.endpoint)  # type: ignore[misc]
        for options in impatient
    ]
    setup = Setup(backends, nodes=2, follow_seconds=(0.01, 0.5), apply_delay_seconds=0.01, has_faults=True)
    assert run_machine(setup, max_examples=6) > 0
    assert len(proxy.counts) > 8, proxy.counts
