"""What reading history on DynamoDB asks for: a read that goes on does not search for its place again."""

import asyncio
import random

import pytest
from kudurru_server.model import Query
from kudurru_server.storage.dynamodb.database import Item, Key, Table
from kudurru_server.storage.dynamodb.store import DynamoOptions, open_storage
from kudurru_server.storage.interface import Span

from tests.builders import entry, event
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables


class Counting(FakeDatabase):
    """Tables in memory that count look-ups of single items."""

    gets = 0

    async def get(self, table: Table, key: Key, *, consistent: bool) -> Item | None:
        self.gets += 1
        return await super().get(table, key, consistent=consistent)


def database(tables: FakeTables) -> Counting:
    return Counting(tables, "node", Faults(delay_seconds=0.0), random.Random(1))


@pytest.mark.parametrize("max_events", [1000, 20])
async def test_a_read_of_the_log_searches_for_its_beginning_only(max_events: int) -> None:
    tables = FakeTables(asyncio.get_running_loop().time, random.Random(1))
    async with open_storage(database(tables), None, DynamoOptions(), chance=random.Random(1)) as storage:
        for number in range(100):
            given = entry(3 * number + 1, [event(), event()], [event()])
            assert await storage.put(given)
            await storage.apply([given])
    counting = database(tables)
    async with open_storage(counting, None, DynamoOptions(), chance=random.Random(2)) as storage:
        counting.gets, found, span = 0, 0, Span(0, 300)
        while span.after < span.until:
            batch = await storage.history(Query(), span, max_events, 1 << 20)
            found += batch.count
            span = span.beyond(batch.reached)
        assert found == 300
        assert counting.gets == 0
        await storage.history(Query(), Span(101, 300), max_events, 1 << 20)
        assert counting.gets == 0
    async with open_storage(counting, None, DynamoOptions(), chance=random.Random(3)) as storage:
        counting.gets = 0
        await storage.history(Query(), Span(101, 300), max_events, 1 << 20)
        assert 0 < counting.gets <= 8
