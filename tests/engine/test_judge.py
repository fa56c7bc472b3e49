"""The rules of an append, one by one, in the tail and in history."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import (
    ConditionFailedError,
    CursorOutOfRangeError,
    EventIdExistsError,
    InvalidRequestError,
    KudurruError,
)
from kudurru_server.model import Appended, Cursor

from tests.builders import NOON, append, event, unless, uuid7
from tests.engine.nodes import Node, run_node

SECOND = 10_000_000


@pytest.fixture(params=["tail", "history"])
async def node(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Node]:
    """Return a node with six events, in memory or, but for none, in the store only."""
    async with run_node(folder, tail_bytes=1 if request.param == "history" else 64 << 20) as running:
        for number in range(6):
            running.clock.ticks = NOON + number
            await running.append(event("AB"[number % 2], "x", f"n:{number + 1}", event_id=uuid7(NOON)))
        await running.applied_to(4)
        yield running


def reason(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, KudurruError) else "appended"


def cursor(position: int) -> str:
    return str(Cursor(NOON + position - 1, position))


def time(ticks: int) -> str:
    return str(Cursor(ticks, 0))


@pytest.mark.parametrize("position", range(7))
async def test_a_condition_fails_exactly_if_a_match_comes_after_its_cursor(node: Node, position: int) -> None:
    after = cursor(position) if position else ""
    new = event("New", event_id=uuid7(NOON))
    outcome = await node.append(new, conditions=[unless(((), ("x",)), after=after)])
    assert reason(outcome) == ("CONDITION_FAILED" if position < 6 else "appended")


@pytest.mark.parametrize("number", range(1, 7))
async def test_a_conflict_names_the_event_and_nothing_of_its_content(node: Node, number: int) -> None:
    conditions = [unless((("Z",), ())), unless(((), (f"n:{number}",)))]
    outcome = await node.append(event("New", event_id=uuid7(NOON)), conditions=conditions)
    assert isinstance(outcome, ConditionFailedError)
    found = (await node.read())[number - 1]
    assert outcome.metadata == {
        "condition_index": "1",
        "sortable_unique_id": cursor(number),
        "position": str(number),
        "event_id": found[1],
        "event_type": found[2],
    }


async def test_no_condition_fails_without_a_match(node: Node) -> None:
    conditions = [unless((("A",), ("n:2",))), unless(((), ("x", "y"))), unless((("C",), ())), unless(((), ("n:7",)))]
    ok = await node.append(event("New", event_id=uuid7(NOON)), conditions=conditions)
    assert reason(ok) == "appended"


@pytest.mark.parametrize("after", ["", cursor(1), cursor(5)])
async def test_a_match_all_condition_fails_if_anything_follows(node: Node, after: str) -> None:
    assert reason(await node.append(event("N", event_id=uuid7(NOON)), conditions=[unless(after=after)])) == (
        "CONDITION_FAILED"
    )


async def test_a_match_all_condition_holds_at_the_head(node: Node) -> None:
    assert (
        reason(await node.append(event("N", event_id=uuid7(NOON)), conditions=[unless(after=cursor(6))])) == "appended"
    )


@pytest.mark.parametrize("position", range(1, 8))
@pytest.mark.parametrize("off", [-1, 1, SECOND])
async def test_a_cursor_whose_ticks_contradict_its_position_is_out_of_range(
    node: Node, position: int, off: int
) -> None:
    wrong = str(Cursor(NOON + position - 1 + off, position))
    node.clock.ticks = NOON + 3600 * SECOND
    outcome = await node.append(
        event("N", event_id=uuid7(node.clock.ticks)), conditions=[unless((("Z",), ()), after=wrong)]
    )
    assert isinstance(outcome, CursorOutOfRangeError)
    assert outcome.metadata["field"] == "conditions[0].after"


async def test_an_out_of_range_cursor_wins_over_a_conflict_of_an_earlier_condition(node: Node) -> None:
    conditions = [unless(((), ("n:6",))), unless(after=cursor(7))]
    assert reason(await node.append(event("N", event_id=uuid7(NOON)), conditions=conditions)) == "CURSOR_OUT_OF_RANGE"


@pytest.mark.parametrize("ticks", range(NOON - 1, NOON + 7))
async def test_a_pure_time_lets_pass_what_was_recorded_before_it(node: Node, ticks: int) -> None:
    node.clock.ticks = NOON + 20
    outcome = await node.append(event("N", event_id=uuid7(NOON)), conditions=[unless(((), ("x",)), after=time(ticks))])
    assert reason(outcome) == ("CONDITION_FAILED" if ticks <= NOON + 5 else "appended")


async def test_a_pure_time_may_be_the_tick_of_the_append_and_no_later(node: Node) -> None:
    node.clock.ticks = NOON + 20
    late = await node.append(event("N", event_id=uuid7(NOON)), conditions=[unless(after=time(NOON + 21))])
    assert reason(late) == "CURSOR_OUT_OF_RANGE"
    exact = await node.append(event("N", event_id=uuid7(NOON)), conditions=[unless(after=time(NOON + 20))])
    assert exact == Appended(7, 1, NOON + 20, already_committed=False)


async def test_ticks_never_go_back(node: Node) -> None:
    node.clock.ticks = NOON - SECOND
    assert await node.append(event("N", event_id=uuid7(NOON))) == Appended(7, 1, NOON + 5, already_committed=False)


async def test_the_appends_of_one_call_are_judged_one_after_the_other(node: Node) -> None:
    free = unless(((), ("once",)))
    appends = [append(event("N", "once", event_id=uuid7(NOON)), conditions=[free]) for _ in range(5)]
    outcomes = await node.engine.append(appends)
    assert list(map(reason, outcomes)) == ["appended", *["CONDITION_FAILED"] * 4]
    conflict = outcomes[1]
    assert isinstance(conflict, ConditionFailedError)
    assert conflict.metadata["position"] == "7"
    assert conflict.metadata["event_id"] == appends[0].ids[0]


async def test_the_60_seconds_rule_is_exact(node: Node) -> None:
    minute = 60 * SECOND
    # UUIDv7 counts milliseconds: NOON is a whole one.
    node.clock.ticks = NOON + 10 * SECOND
    assert reason(await node.append(event("N", event_id=uuid7(node.clock.ticks + minute)))) == "appended"
    refused = await node.append(event("N", event_id=uuid7(node.clock.ticks + minute + 10_000)))
    assert isinstance(refused, InvalidRequestError)
    assert refused.reason == "EVENT_ID_IN_FUTURE"
    assert refused.metadata["event_index"] == "0"


@pytest.mark.parametrize("first", [1, 4, 6])
async def test_a_repetition_gets_the_original_answer_whatever_its_conditions(node: Node, first: int) -> None:
    found = (await node.read())[first - 1]
    repeated = event(found[2], f"n:{first}", "x", event_id=found[1])
    for conditions in ([], [unless()], [unless(after=cursor(7))]):
        outcome = await node.append(repeated, conditions=conditions)
        assert outcome == Appended(first, 1, NOON + first - 1, already_committed=True)
    assert len(await node.read()) == 6


@pytest.mark.parametrize("first", [1, 6])
async def test_the_same_id_with_other_content_is_refused_and_nothing_is_written(node: Node, first: int) -> None:
    found = (await node.read())[first - 1]
    for other in (
        event("Other", "x", f"n:{first}", event_id=found[1]),
        event(found[2], "x", event_id=found[1]),
        event(found[2], "x", f"n:{first}", event_id=found[1], data=b"1"),
    ):
        outcome = await node.append(other)
        assert isinstance(outcome, EventIdExistsError)
        assert outcome.metadata == {"event_id": found[1], "position": str(first)}
    assert len(await node.read()) == 6
