"""Trimming and restoring on DynamoDB Local, which remembers request tokens, by the command that an operator runs."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kudurru_server.model import Entry
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.client import DynamoDatabase, open_database
from kudurru_server.storage.dynamodb.database import Item, Key, Table
from kudurru_server.storage.dynamodb.entry_item import has_body
from kudurru_server.storage.dynamodb.store import DynamoStorage, open_storage
from kudurru_server.storage.interface import Span

from tests.aws.backend import DynamoBackend
from tests.aws.components import Component
from tests.builders import NOON, entry, event, query
from tests.server_process import Ended, run_to_end
from tests.storage.dynamodb.test_trim import trimmer
from tests.storage.test_history import read
from tests.storage.test_log import columns, everything

SECOND = 10_000_000


class Store:
    """A store on DynamoDB Local, its rows written in transactions."""

    def __init__(self, component: Component) -> None:
        self.backend = DynamoBackend(component)
        self.environment = {
            **component.environment,
            "KUDURRU_DYNAMODB_TABLE_PREFIX": self.backend.prefix,
            "KUDURRU_DYNAMODB_LEASE_SECONDS": "0.2",
            "KUDURRU_DYNAMODB_READ_TIMEOUT_SECONDS": "20",
        }

    @asynccontextmanager
    async def database(self) -> AsyncIterator[DynamoDatabase]:
        async with open_database(self.backend.prefix, self.backend.connection) as database:
            yield database

    @asynccontextmanager
    async def open(self) -> AsyncIterator[DynamoStorage]:
        async with (
            self.database() as database,
            open_storage(database, None, self.backend.options, chance=random.Random()) as storage,
        ):
            yield storage

    async def fill(self, given: list[Entry]) -> None:
        async with self.backend.open() as storage:
            for one in given:
                assert await storage.put(one)
                await storage.apply([one])

    async def rows(self) -> dict[Table, list[Item]]:
        found: dict[Table, list[Item]] = {}
        async with self.database() as database:
            for table in (Table.EVENTS, Table.TAGS):
                start, items = None, []
                while True:
                    page = await database.scan(table, (), start)
                    items += page.items
                    start = page.more
                    if start is None:
                        break
                found[table] = sorted(items, key=lambda item: (str(item["pk"]), str(item["sk"])))
        return found

    def restore(self, folder: Path, *switches: str) -> Ended:
        return run_to_end("tables", "restore", *switches, cwd=folder, env=self.environment, seconds=60)


@pytest.fixture
def store(dynamodb: Component, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in dynamodb.environment.items():
        monkeypatch.setenv(name, value)
    return Store(dynamodb)


def entries() -> list[Entry]:
    given, first = [], 1
    for number in range(6):
        events = [event("AB"[number % 2], f"n:{number}", "all", data=bytes(300)) for _ in range(30)]
        given.append(entry(first, events, ticks=NOON + number * SECOND))
        first += 30
    return given


async def test_the_log_decides_and_no_token_swallows_a_row(store: Store, tmp_path: Path) -> None:
    given = entries()
    await store.fill(given[:5])
    expected = await store.rows()
    await store.fill(given[5:])
    async with store.database() as database:  # the log loses its last entry, and other tables lose rows of all of them
        await database.delete(Table.LOG, keys.log_key(6, store.backend.options.stripes))
        for one in given:
            stored = one.stored(one.first + 3)
            await database.delete(Table.EVENTS, keys.event_key(stored.event_id))
            await database.delete(Table.TAGS, Key("TAG#all", f"{stored.ticks:019d}{one.first:011d}#{one.ids[0]}"))

    refused = store.restore(tmp_path)
    assert refused.code == 1
    assert "the log of " in refused.stdout
    done = store.restore(tmp_path, "--yes")
    assert (done.code, done.stderr) == (0, "")
    assert "ends with entry 5, position 150" in done.stdout
    assert "rows of 5 entries were written again, 29 rows of events and 59 of tags were deleted" in done.stdout
    assert await store.rows() == expected
    async with store.open() as storage:
        assert columns(await everything(storage)) == columns(given[:5])
        assert await storage.applied() == 150
        again = entry(151, [event("Z", "n:9")], ticks=NOON + 9 * SECOND)
        assert await storage.put(again)


async def test_a_trimmed_log_is_read_and_restored(store: Store, tmp_path: Path) -> None:
    given = entries()
    await store.fill(given)
    async with store.database() as database:
        applied = await database.get(Table.LOG, keys.meta_key("applied"), consistent=True) or {}
        holder = str(applied["holder"])
        assert await trimmer(database, holder=holder, now=NOON + 4 * SECOND).step() == 4
    expected = await store.rows()
    frames = b"".join(frame for one in given for frame in one.frames)
    async with store.open() as storage:
        assert columns(await everything(storage)) == columns(given)
        assert await read(storage, query(), Span(0, 180), 1000, 1 << 20) == frames
    lost = given[5].ids[0], given[0].ids[0]
    async with store.database() as database:
        items = [await database.get(Table.LOG, keys.log_key(number, 4), consistent=True) for number in range(1, 7)]
        assert [has_body(item or {}) for item in items] == [False] * 4 + [True] * 2
        await database.delete(Table.EVENTS, keys.event_key(lost[0]))
    assert store.restore(tmp_path, "--yes").code == 0
    assert await store.rows() == expected
    async with store.database() as database:
        await database.delete(Table.EVENTS, keys.event_key(lost[1]))
    failed = store.restore(tmp_path, "--yes")
    assert failed.code == 1
    assert "positions 1\n" in failed.stderr
