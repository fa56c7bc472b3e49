"""Several nodes on one store: one order, conditions that hold, nothing lost or repeated, whatever the network does."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from kudurru_server.api.convert import same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.errors import ConditionFailedError, KudurruError, UnavailableError
from kudurru_server.model import START, Append, Appended, Batch, Cursor, Query
from kudurru_server.storage.dynamodb.store import DynamoOptions, open_storage

from tests.builders import append, event, events_of, query, unless
from tests.engine.nodes import PATIENCE_SECONDS, until
from tests.memory_database import Faults, MemoryDatabase, Tables

CALM = Faults(delay_seconds=0.002)
STORM = Faults(
    lost_request=0.05,
    lost_answer=0.08,
    late_effect=0.04,
    repeated_late=0.05,
    throttled=0.05,
    partial=0.1,
    delay_seconds=0.004,
    late_seconds=0.5,
    index_lag_seconds=0.3,
)
OPTIONS = EngineOptions(tail_bytes=1, follow_busy_seconds=0.01, follow_idle_seconds=0.03, apply_delay_seconds=0.02)


@dataclass
class Cluster:
    """Nodes on shared tables."""

    engines: list[Engine]
    databases: list[MemoryDatabase]
    tables: Tables
    storms: list[Faults] = field(default_factory=list)

    def calm(self) -> None:
        """End all faults."""
        for database in self.databases:
            database.faults = CALM

    async def settled(self) -> Cursor:
        """Wait until every node has the same head and has seen it applied; return it."""
        heads = [engine.head for engine in self.engines]
        await until(lambda: len({str(engine.head) for engine in self.engines}) == 1)
        heads = [engine.head for engine in self.engines]
        await until(lambda: all(engine._tail.applied == heads[0].position for engine in self.engines))  # noqa: SLF001
        return heads[0]


@asynccontextmanager
async def cluster(size: int, seed: int, faults: Faults, *, prefer_index: bool = False) -> AsyncIterator[Cluster]:
    tables = Tables()
    databases = [MemoryDatabase(tables, random.Random(seed * 100 + number)) for number in range(size)]
    options = DynamoOptions(
        stripes=2, write_shard_count=3, lease_seconds=0.2, poll_seconds=0.02, prefer_index=prefer_index
    )
    async with AsyncExitStack() as stack:
        engines: list[Engine] = []
        for number, database in enumerate(databases):
            chance = random.Random(seed * 100 + 50 + number)
            storage = await stack.enter_async_context(open_storage(database, None, options, chance=chance))
            engines.append(await stack.enter_async_context(run_engine(storage, same_content, OPTIONS)))
        for database in databases:
            database.faults = faults
        yield Cluster(engines, databases, tables)


async def read_all(engine: Engine, asked: Query | None = None) -> bytes:
    span, _ = await engine.span(START, None, backwards=False)
    return b"".join([batch.frames async for batch in engine.read(asked or Query(), span, 0)])


async def follow(engine: Engine, into: list[bytes]) -> None:
    async for message in await engine.subscribe(Query(), START, 1.0):
        if isinstance(message, Batch):
            into.append(message.frames)  # noqa: PERF401 - it is read while it grows


async def test_every_node_shows_what_any_node_recorded() -> None:
    async with cluster(3, 1, CALM) as nodes, asyncio.timeout(PATIENCE_SECONDS):
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
    async with cluster(2, 2, CALM) as nodes, asyncio.timeout(PATIENCE_SECONDS):
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
    async with cluster(2, 3, CALM) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        one, other = nodes.engines
        for _ in range(10):
            (outcome,) = await one.append([append(event("A", "t"))])
            assert isinstance(outcome, Appended)
            condition = unless(((), ("t",)), after=str(Cursor(outcome.ticks, outcome.first)))
            (next_outcome,) = await other.append([append(event("A", "t"), conditions=[condition])])
            assert isinstance(next_outcome, Appended)


async def test_rows_are_written_by_another_node_when_the_one_that_wrote_them_is_gone() -> None:
    async with cluster(2, 4, CALM) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        await nodes.engines[0].append([append(event("A"))])
        await nodes.settled()
        for database in nodes.databases:  # whoever holds the lease can write nothing any more
            database.faults = Faults(throttled=1.0) if _holds_lease(nodes, database) else CALM
        other = next(number for number, database in enumerate(nodes.databases) if not database.faults.throttled)
        await nodes.engines[other].append([append(event("B"))])
        await until(lambda: nodes.engines[other]._tail.applied == 2)  # noqa: SLF001
        nodes.calm()


def _holds_lease(nodes: Cluster, database: MemoryDatabase) -> bool:
    updates = [one.calls.get("transact", 0) for one in nodes.databases]
    return database.calls.get("transact", 0) == max(updates)


@pytest.mark.parametrize("prefer_index", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_lost_repeated_or_out_of_order_in_a_storm(seed: int, prefer_index: bool) -> None:  # noqa: FBT001
    rng = random.Random(seed)
    recorded: dict[str, Appended] = {}
    firsts: dict[str, str] = {}
    async with cluster(3, seed, STORM, prefer_index=prefer_index) as nodes, asyncio.timeout(6 * PATIENCE_SECONDS):
        streams: list[list[bytes]] = [[] for _ in nodes.engines]
        followers = [
            asyncio.ensure_future(follow(engine, into)) for engine, into in zip(nodes.engines, streams, strict=True)
        ]

        async def client(number: int) -> None:
            for step in range(8):
                name = f"name:{rng.randrange(12)}"
                events = [event("A", name, f"client:{number}") for _ in range(rng.choice((1, 1, 3)))]
                wants_first = rng.random() < 0.5
                one = append(*events, conditions=[unless(((), (name,)))] if wants_first else [])
                outcome = await persist(nodes.engines, one, rng)
                if isinstance(outcome, Appended):
                    recorded[one.ids[0]] = outcome
                    if wants_first:
                        assert name not in firsts, f"{name} was taken twice, at last in step {step}"
                        firsts[name] = one.ids[0]

        await asyncio.gather(*(client(number) for number in range(8)))
        nodes.calm()
        head = await nodes.settled()
        frames = {await read_all(engine) for engine in nodes.engines}
        assert len(frames) == 1
        events = events_of(frames.pop())
        assert [one.position for one in events] == list(range(1, head.position + 1))
        assert [one.sortable_unique_id for one in events] == sorted(one.sortable_unique_id for one in events)
        places = {one.event.event_id: one.position for one in events}
        assert len(places) == len(events)
        for event_id, outcome in recorded.items():
            assert places[event_id] == outcome.first
        for name, event_id in firsts.items():
            assert next(one.event.event_id for one in events if name in one.event.tags) == event_id
        for into, follower in zip(streams, followers, strict=True):
            await until(lambda into=into: sum(len(events_of(piece)) for piece in into) >= len(events))  # type: ignore[misc]
            assert b"".join(into) == await read_all(nodes.engines[0])
            follower.cancel()


async def persist(engines: list[Engine], one: Append, rng: random.Random) -> Appended | KudurruError:
    """Try on any node until the outcome is known, with the same ids."""
    while True:
        (outcome,) = await rng.choice(engines).append([one])
        if not isinstance(outcome, UnavailableError):
            return outcome
