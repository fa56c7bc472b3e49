"""The index of all events is spread over more shards, or fewer, while nodes go on: nobody misses an event."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
from kudurru_server.api.convert import same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.model import Appended, Query
from kudurru_server.storage.dynamodb import keys, tables
from kudurru_server.storage.dynamodb.aws import open_client
from kudurru_server.storage.dynamodb.client import open_database
from kudurru_server.storage.dynamodb.database import Database, Question, Table
from kudurru_server.storage.dynamodb.store import DynamoOptions, DynamoStorage, open_storage
from kudurru_server.storage.interface import Span

from tests.aws.backend import DynamoBackend
from tests.builders import append, event, events_of
from tests.engine.nodes import until
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables

Open = Callable[[], AbstractAsyncContextManager[Database]]
_ROUND = 60


@pytest.fixture(params=["memory", pytest.param("dynamodb-local", marks=pytest.mark.components)])
def open_one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return what opens a database for a node on tables that all nodes share."""
    if request.param == "dynamodb-local":
        component = request.getfixturevalue("dynamodb")
        for name, value in component.environment.items():
            monkeypatch.setenv(name, value)
        backend = DynamoBackend(component)

        @asynccontextmanager
        async def real() -> AsyncIterator[Database]:
            async with open_client("dynamodb", backend.connection) as client:
                await tables.create(client, backend.prefix, protect=False)
            async with open_database(backend.prefix, backend.connection) as database:
                yield database

        return real
    shared = FakeTables(time.monotonic, random.Random(1), index_lag_seconds=0.05)

    @asynccontextmanager
    async def fake() -> AsyncIterator[Database]:
        yield FakeDatabase(shared, "node", Faults(delay_seconds=0.001), random.Random(2))

    return fake


@dataclass
class Node:
    """A node that reads history from the index of all events."""

    database: Database
    storage: DynamoStorage
    engine: Engine

    @property
    def known_shards(self) -> int:
        return self.storage._history._index._layout.write_shard_count  # noqa: SLF001 - not shown to clients

    async def append(self, count: int) -> None:
        for _ in range(count):
            (outcome,) = await self.engine.append([append(event("Happened", "t"), event("Happened"))])
            assert isinstance(outcome, Appended)

    async def history(self, until_position: int) -> bytes:
        """Return everything up to a position, once it has rows, and check that it is in order and whole."""
        async with asyncio.timeout(20):
            while await self.storage.applied() < until_position:  # noqa: ASYNC110 - the watermark sets no event
                await asyncio.sleep(0.01)
        frames, reached = b"", 0
        while reached < until_position:
            batch = await self.storage.history(Query(), Span(reached, until_position), 50, 1 << 20)
            frames, reached = frames + batch.frames, batch.reached
        assert [one.position for one in events_of(frames)] == list(range(1, until_position + 1))
        return frames

    async def shard_sizes(self, shards: int) -> list[int]:
        pages = [
            await self.database.query(
                Question(Table.EVENTS, keys.shard_pk(shard), keys.FIRST_CURSOR, keys.LAST_CURSOR, index=keys.ALL_EVENTS)
            )
            for shard in range(shards)
        ]
        return [len(page.items) for page in pages]


@asynccontextmanager
async def run_node(open_one: Open, shards: int, seed: int, *, applies: bool = True) -> AsyncIterator[Node]:
    delay_seconds = 0.005 if applies else 3600.0
    options = DynamoOptions(write_shard_count=shards, prefer_index=True, lease_seconds=0.2, poll_seconds=0.02)
    async with (
        open_one() as database,
        open_storage(database, None, options, chance=random.Random(seed)) as storage,
        run_engine(
            storage, same_content, EngineOptions(follow_busy_seconds=0.005, apply_delay_seconds=delay_seconds)
        ) as engine,
    ):
        yield Node(database, storage, engine)


async def test_shards_are_added_while_a_node_that_does_not_know_appends_and_reads(open_one: Open) -> None:
    async with run_node(open_one, 2, seed=1, applies=False) as a:
        async with run_node(open_one, 2, seed=2) as writer:
            await writer.append(_ROUND)
            before = await a.history(2 * _ROUND)
        reading = asyncio.create_task(_read_on(a, 6 * _ROUND))
        async with run_node(open_one, 5, seed=3) as b:
            assert (a.known_shards, b.known_shards) == (2, 5)
            await asyncio.gather(a.append(_ROUND), b.append(_ROUND))
            whole = await b.history(6 * _ROUND)
            assert whole.startswith(before)
            assert await reading == whole
            assert all(await b.shard_sizes(5))
        assert a.known_shards == 5
        assert await a.history(6 * _ROUND) == whole


async def _read_on(node: Node, end: int) -> bytes:
    """Read the whole history again and again while it grows."""
    last = b""
    while True:
        position = node.engine.head.position
        frames = await node.history(position)
        assert frames.startswith(last)
        last = frames
        if position >= end:
            return frames


async def test_fewer_shards_are_written_and_all_are_read(open_one: Open) -> None:
    async with run_node(open_one, 5, seed=1) as many:
        await many.append(_ROUND)
        await many.history(2 * _ROUND)
        async with run_node(open_one, 1, seed=2) as few:
            assert few.known_shards == 5
            await asyncio.gather(many.append(_ROUND), few.append(_ROUND))
            await until(lambda: few.engine.head == many.engine.head)
            assert await few.history(6 * _ROUND) == await many.history(6 * _ROUND)
