"""Every event id is recorded once for ever, whatever clocks do and however old the first one is."""

import itertools
from pathlib import Path

import pytest
from kudurru_server._proto.event_pb2 import Event
from kudurru_server.errors import EventIdExistsError
from kudurru_server.model import Appended

from tests.builders import NOON, append, event, unless, uuid4, uuid7
from tests.engine.conftest import GENERATION
from tests.engine.nodes import Clock, Node, run_node

HOUR = 36_000_000_000
SECOND = 10_000_000


async def fill(node: Node, count: int = 8) -> None:
    """Push everything there is out of the tail."""
    for _ in range(count):
        await node.append(event("Filler", event_id=uuid7(min(NOON, node.clock.ticks))))
    await node.applied_to(node.engine.head.position - GENERATION - 1)


def make_ids(kind: str) -> list[str]:
    if kind == "mixed":
        return [uuid4(), uuid7(NOON), uuid4()]
    if kind == "v4":
        return [uuid4() for _ in range(3)]
    return [uuid7(NOON - 1000 * HOUR if kind == "v7 old" else NOON) for _ in range(3)]


@pytest.mark.parametrize("kind", ["v4", "v7 old", "v7 now", "mixed"])
@pytest.mark.parametrize("away", [0, 8, 20])
async def test_only_the_whole_append_in_its_order_is_a_repetition(folder: Path, kind: str, away: int) -> None:
    a, b, c = (event("E", "x", event_id=event_id, data=b"d") for event_id in make_ids(kind))
    async with run_node(folder) as node:
        await node.append(event("First", event_id=uuid7(NOON)))
        first = await node.append(a, b, c)
        other = event("E", "x", event_id=uuid7(NOON), data=b"d")
        await node.append(other)
        await fill(node, away)
        head = node.engine.head
        shapes: list[tuple[Event, ...]] = [
            *itertools.permutations((a, b, c)),
            (a,),
            (c,),
            (a, b),
            (b, c),
            (a, b, c, other),
        ]
        for shape in (*shapes[1:], (a, b, c, event(event_id=uuid7(NOON))), (event(event_id=uuid7(NOON)), a, b, c)):
            assert isinstance(await node.append(*shape), EventIdExistsError)
        assert first == Appended(2, 3, NOON, already_committed=False)
        assert await node.append(a, b, c) == Appended(2, 3, NOON, already_committed=True)
        assert node.engine.head == head


async def test_ids_stay_known_when_the_clock_jumps_back_and_far_ahead(folder: Path) -> None:
    async with run_node(folder) as node:
        seen: list[tuple[Event, Appended]] = []
        for jump in (0, -HOUR, 1000 * HOUR, -500 * HOUR, 1, 2000 * HOUR, 0):
            node.clock.ticks = NOON + jump
            for lead in (-1000 * HOUR, 0, 59 * SECOND):
                one = event("E", event_id=uuid7(node.clock.ticks + lead))
                outcome = await node.append(one)
                assert isinstance(outcome, Appended)
                seen.append((one, outcome))
            for one, outcome in seen:
                again = await node.append(one)
                assert again == Appended(outcome.first, 1, outcome.ticks, already_committed=True)
            await fill(node)
            for one, outcome in seen:
                again = await node.append(one)
                assert again == Appended(outcome.first, 1, outcome.ticks, already_committed=True)


async def test_ids_are_known_after_a_restart(folder: Path) -> None:
    clock = Clock()
    one, other = event("E", event_id=uuid7(NOON)), event("E", event_id=uuid4())
    for _ in range(3):
        async with run_node(folder, clock=clock) as node:
            first, second = await node.append(one), await node.append(other)
            assert isinstance(first, Appended)
            assert isinstance(second, Appended)
            assert (first.first, second.first) == (1, 2)
            clock.ticks += 50 * HOUR
            await node.append(event("Filler", event_id=uuid7(NOON)))
            assert (await node.append(one), await node.append(other)) == (
                Appended(1, 1, NOON, already_committed=True),
                Appended(2, 1, NOON, already_committed=True),
            )


async def test_a_fresh_uuid7_costs_no_look_up(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node)
        node.clock.ticks += 2 * HOUR
        node.storage.finds.clear()
        await node.append(event(event_id=uuid7(node.clock.ticks)))
        assert node.storage.finds == []


async def test_an_id_that_leaves_the_tail_after_the_store_was_asked_is_not_recorded_twice(folder: Path) -> None:
    """The store was asked about the condition only, because the tail still held the id; then the tail dropped it."""
    async with run_node(folder, tail_bytes=5_000) as node:
        for _ in range(4):
            await node.append(event("Old", "old", event_id=uuid7(NOON)))
        await fill(node, 12)
        assert node.left.position > 0
        node.clock.ticks += HOUR
        once = event("Once", event_id=uuid7(node.clock.ticks))
        first = await node.append(once)
        assert isinstance(first, Appended)
        for _ in range(3):  # seals the generation of `once`, which is applied but fits the tail
            await node.append(event("After", event_id=uuid7(node.clock.ticks)))
        await node.applied_to(first.first)
        assert node.left.position < first.first

        async def meanwhile() -> None:
            node.storage.before_find = None
            while node.left.position < first.first:
                await node.append(event("Push", event_id=uuid7(node.clock.ticks)))
                if node.engine.head.position % (GENERATION + 1) == 0:
                    await node.applied_to(node.engine.head.position)

        node.storage.before_find = meanwhile
        again = await node.append(once, conditions=[unless(((), ("no such tag",)))])
        assert again == Appended(first.first, 1, first.ticks, already_committed=True)
        assert [one[1] for one in await node.read()].count(once.event_id) == 1


async def test_server_made_ids_are_ascending_and_never_refused(folder: Path) -> None:
    made = append(*(Event(event_type="E") for _ in range(200)))
    assert made.ids == sorted(made.ids)
    async with run_node(folder, clock=Clock(made.newest_id_ticks)) as node:
        (outcome,) = await node.engine.append([made])
        assert isinstance(outcome, Appended)
