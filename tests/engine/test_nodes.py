"""Several nodes on one store: what one of them records, all of them show and judge by."""

import asyncio
from dataclasses import replace

from kudurru_server.errors import ConditionFailedError
from kudurru_server.model import TICKS_PER_SECOND, Appended, Cursor

from tests.builders import NOON, append, event, events_of, query, unless, uuid7
from tests.engine.cluster import CALM, FORGETFUL, cluster, read_all
from tests.engine.nodes import PATIENCE_SECONDS, until
from tests.simulation.fake_database import Faults


async def test_every_node_shows_what_any_node_recorded() -> None:
    async with cluster(3, 1) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        for number in range(12):
            (outcome,) = await nodes.engines[number % 3].append([append(event("A", f"t:{number % 2}"))])
            assert isinstance(outcome, Appended)
            for engine in nodes.engines:
                await engine.reach(Cursor(outcome.ticks, outcome.first), None)
        assert len({await read_all(engine) for engine in nodes.engines}) == 1
        await nodes.settled()
        for engine in nodes.engines:
            assert len(events_of(await read_all(engine, query(((), ("t:1",)))))) == 6


async def test_a_condition_holds_against_what_another_node_recorded_a_moment_ago() -> None:
    async with cluster(2, 2) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        for number in range(20):
            condition = unless(((), (f"name:{number}",)))
            racers = [append(event("Taken", f"name:{number}"), conditions=[condition]) for _ in range(8)]
            outcomes = await asyncio.gather(
                *(nodes.engines[place % 2].append([racer]) for place, racer in enumerate(racers))
            )
            kinds = [type(outcome) for (outcome,) in outcomes]
            assert kinds.count(Appended) == 1
            assert kinds.count(ConditionFailedError) == 7


async def test_a_cursor_from_another_node_is_one_of_this_store_at_once() -> None:
    async with cluster(2, 3) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        one, other = nodes.engines
        for _ in range(10):
            (outcome,) = await one.append([append(event("A", "t"))])
            assert isinstance(outcome, Appended)
            condition = unless(((), ("t",)), after=str(Cursor(outcome.ticks, outcome.first)))
            (next_outcome,) = await other.append([append(event("A", "t"), conditions=[condition])])
            assert isinstance(next_outcome, Appended)


async def test_a_repetition_is_recognised_by_a_node_that_is_behind_before_its_conditions_are_judged() -> None:
    async with cluster(2, 5, FORGETFUL, FORGETFUL) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        one, other = nodes.engines
        await other.append([append(event("A", "t"))])
        repeated = event("B")
        await one.append([append(event("C"))])
        (first,) = await one.append([append(repeated)])
        (again,) = await other.append([append(repeated, conditions=[unless(((), ("t",)))])])
        assert isinstance(first, Appended)
        assert again == replace(first, already_committed=True)


async def test_a_node_that_is_behind_refuses_no_id_as_too_new_for_a_time_that_the_store_has_reached() -> None:
    ahead = replace(FORGETFUL, clock=lambda: NOON + 90 * TICKS_PER_SECOND)
    async with cluster(2, 6, ahead, replace(FORGETFUL, clock=lambda: NOON)) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        one, other = nodes.engines
        repeated = event("A", event_id=uuid7(NOON + 80 * TICKS_PER_SECOND))
        (first,) = await one.append([append(repeated)])
        (again,) = await other.append([append(repeated)])
        assert isinstance(first, Appended)
        assert again == replace(first, already_committed=True)


async def test_a_read_after_a_cursor_of_another_node_is_complete_up_to_that_cursor_at_least() -> None:
    async with cluster(2, 7, FORGETFUL, FORGETFUL) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        one, other = nodes.engines
        (outcome,) = await one.append([append(event("A"), event("B"))])
        assert isinstance(outcome, Appended)
        first, last = (Cursor(outcome.ticks, position) for position in (1, 2))
        span, head = await other.span(first, None, backwards=False)
        assert (span.after, span.until, head) == (1, 2, last)
        (outcome,) = await one.append([append(event("C"))])
        assert isinstance(outcome, Appended)
        third = Cursor(outcome.ticks, outcome.first)
        span, head = await other.span(first, third, backwards=False)
        assert (span.after, span.until, head) == (1, 3, third)


async def test_rows_are_written_by_another_node_when_the_one_that_wrote_them_is_gone() -> None:
    async with cluster(2, 4) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        await nodes.engines[0].append([append(event("A"))])
        await nodes.settled()
        holder = next(effect.node for effect in reversed(nodes.tables.journal) if effect.operation == "transact")
        nodes.databases[int(holder)].faults = Faults(throttled=1.0)  # it can write nothing any more
        other = 1 - int(holder)
        await nodes.engines[other].append([append(event("B"))])
        await until(lambda: nodes.engines[other]._tail.applied == 2)  # noqa: SLF001
        nodes.databases[int(holder)].faults = CALM


async def test_a_read_from_a_time_leaves_out_what_is_older_though_the_node_only_learns_of_it_now() -> None:
    early, late = (replace(FORGETFUL, clock=lambda at=at: NOON + at * TICKS_PER_SECOND) for at in (0, 9))  # type: ignore[misc]
    async with cluster(3, 8, early, late, FORGETFUL) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        first, second, reader = nodes.engines
        await first.append([append(event("Old", event_id=uuid7(NOON)))])
        (outcome,) = await second.append([append(event("New", event_id=uuid7(NOON)))])
        assert isinstance(outcome, Appended)
        last = Cursor(outcome.ticks, outcome.first)
        span, head = await reader.span(Cursor(NOON + TICKS_PER_SECOND, 0), last, backwards=False)
        assert (span.after, span.until, head) == (1, 2, last)
