"""What reading history on DynamoDB asks for: a read that goes on does not search for its place again."""

import asyncio
import random

import pytest
from kudurru_server.model import Query
from kudurru_server.storage.dynamodb.database import Item, Key, Table
from kudurru_server.storage.dynamodb.store import DynamoOptions, open_storage
from kudurru_server.storage.interface import Span

from tests.builders import NOON, entry, event, query
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


@pytest.fixture
async def tables() -> FakeTables:
    """Return 300 events in 100 entries, all with a tag."""
    filled = FakeTables(asyncio.get_running_loop().time, random.Random(1))
    async with open_storage(database(filled), None, DynamoOptions(), chance=random.Random(1)) as storage:
        for number in range(100):
            events = [event("A", "a") for _ in range(3)]
            given = entry(3 * number + 1, events[:2], events[2:], ticks=NOON + number // 2)
            assert await storage.put(given)
            await storage.apply([given])
    return filled


@pytest.mark.parametrize("max_events", [1000, 20])
async def test_a_read_of_the_log_searches_for_its_beginning_only(tables: FakeTables, max_events: int) -> None:
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


@pytest.mark.parametrize("asked", [Query(), query(((), ["a"]))])
async def test_a_read_of_rows_searches_for_its_ends_only(
    tables: FakeTables, monkeypatch: pytest.MonkeyPatch, asked: Query
) -> None:
    for size in ("_TAG_PAGE", "_INDEX_PAGE"):
        monkeypatch.setattr(f"kudurru_server.storage.dynamodb.history.{size}", 10)
    counting = database(tables)
    async with open_storage(counting, None, DynamoOptions(prefer_index=True), chance=random.Random(2)) as storage:
        span = Span(100, 290)
        searches = []
        while span.after < span.until:
            counting.gets = 0
            batch = await storage.history(asked, span, 1000, 1 << 20)
            searches.append(counting.gets)
            span = span.beyond(batch.reached)
        assert len(searches) > 2
        assert searches[0] > 0
        assert set(searches[1:]) == {0}
