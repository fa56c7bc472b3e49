"""Several nodes on one store: what one of them records, all of them show and judge by."""

import asyncio

from kudurru_server.errors import ConditionFailedError
from kudurru_server.model import Appended, Cursor

from tests.builders import append, event, events_of, query, unless
from tests.engine.cluster import CALM, cluster, read_all
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
