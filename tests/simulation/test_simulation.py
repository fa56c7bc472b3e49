"""Whatever network, crashes, pauses and clocks do, the promises of the store hold: each seed is a schedule."""

import os
import random

import pytest

from tests.simulation.simulation import SCENARIOS, simulate

SCHEDULES = int(os.environ.get("KUDURRU_TEST_SCHEDULES") or 30)


@pytest.fixture
def seed() -> int:
    """Randomness whose seed a failure shows; KUDURRU_TEST_SEED repeats it."""
    seed = int(os.environ.get("KUDURRU_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KUDURRU_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return seed


@pytest.mark.parametrize("name", SCENARIOS)
def test_promises_hold(name: str, seed: int) -> None:
    events = trimmed = 0
    schedules = max(1, SCHEDULES // 2) if SCENARIOS[name].is_restored else SCHEDULES  # these are two lives each
    for number in range(schedules):
        result = simulate(f"{seed}/{name}/{number}", SCENARIOS[name])
        assert not result.problems, f"schedule {number}:\n" + "\n".join(result.problems[:10])
        events += result.events
        trimmed += result.trimmed
    assert events > schedules
    assert trimmed or schedules < 10


def test_a_seed_is_a_schedule(seed: int) -> None:
    first, second = (simulate(f"{seed}/again", SCENARIOS["everything"]) for _ in range(2))
    assert first == second
