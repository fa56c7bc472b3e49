"""Nodes in this process that share one store on tables in memory."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from kudurru_server.api.convert import same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.engine.leadership import Neighbours
from kudurru_server.model import START, Cursor, Query
from kudurru_server.storage.dynamodb.store import DynamoOptions, DynamoStorage, open_storage

from tests.engine.nodes import until
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables

CALM = Faults(delay_seconds=0.002)
OPTIONS = EngineOptions(tail_bytes=1, follow_busy_seconds=0.01, follow_idle_seconds=0.03, apply_delay_seconds=0.02)
FORGETFUL = replace(OPTIONS, tail_bytes=1 << 20, follow_busy_seconds=1000.0, follow_idle_seconds=1000.0)
"""Looks for the entries of others only when it must."""


@dataclass
class Cluster:
    """Nodes on shared tables."""

    engines: list[Engine]
    databases: list[FakeDatabase]
    tables: FakeTables

    async def settled(self) -> Cursor:
        """Wait until every node has the same head and has seen it applied; return it."""
        heads = [engine.head for engine in self.engines]
        await until(lambda: len({str(engine.head) for engine in self.engines}) == 1)
        heads = [engine.head for engine in self.engines]
        await until(lambda: all(engine._tail.applied == heads[0].position for engine in self.engines))  # noqa: SLF001
        return heads[0]


@asynccontextmanager
async def cluster(
    size: int,
    seed: int,
    *engine_options: EngineOptions,
    neighbours: Callable[[int, DynamoStorage], Neighbours | None] = lambda _number, _storage: None,
) -> AsyncIterator[Cluster]:
    """Run nodes, each with its own engine options if any are given."""
    chance = random.Random(seed)
    of_each = engine_options or [OPTIONS] * size
    tables = FakeTables(asyncio.get_running_loop().time, chance)
    databases = [FakeDatabase(tables, str(number), CALM, chance) for number in range(size)]
    options = DynamoOptions(stripes=2, write_shard_count=3, lease_seconds=0.2, poll_seconds=0.02)
    async with AsyncExitStack() as stack:
        engines: list[Engine] = []
        for number, database in enumerate(databases):
            storage = await stack.enter_async_context(open_storage(database, None, options, chance=chance))
            running = run_engine(storage, same_content, of_each[number], neighbours(number, storage))
            engines.append(await stack.enter_async_context(running))
        yield Cluster(engines, databases, tables)


async def read_all(engine: Engine, asked: Query | None = None) -> bytes:
    span, _ = await engine.span(START, None, backwards=False)
    return b"".join([batch.frames async for batch in engine.read(asked or Query(), span, 0)])
