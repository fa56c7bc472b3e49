"""Tables restored to any points in time are one store again after a restore, or it says what is missing."""

import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import cast

import pytest
from kudurru_server.errors import DataDirectoryError, StorageUnavailableError
from kudurru_server.model import parts
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Database, Item, Key, Table
from kudurru_server.storage.dynamodb.layout import Layout
from kudurru_server.storage.dynamodb.log import Log
from kudurru_server.storage.dynamodb.restore import Plan, Restore, Restored, open_restore
from kudurru_server.storage.dynamodb.restore_rows import RestoreError
from kudurru_server.storage.dynamodb.roll_forward import RollForward
from kudurru_server.storage.dynamodb.store import DynamoOptions, DynamoStorage, open_storage
from kudurru_server.storage.interface import Check, Span

from tests.builders import NOON, entry, event, query
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables
from tests.storage.dynamodb.test_trim import CutOff, CutOffError, holder, trimmer
from tests.storage.test_history import read
from tests.storage.test_log import columns, everything

SECOND = 10_000_000
OPTIONS = DynamoOptions(lease_seconds=0.0)
Contents = dict[Table, dict[Key, Item]]


@pytest.fixture(autouse=True)
def nothing_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kudurru_server.storage.dynamodb.restore._LATE_SECONDS", 0.0)


def database_of(tables: FakeTables) -> FakeDatabase:
    return FakeDatabase(tables, "node", Faults(delay_seconds=0.0, partial=0.3), random.Random(1))


async def opened(stack: AsyncExitStack, tables: FakeTables) -> DynamoStorage:
    chance = random.Random(random.random())
    return await stack.enter_async_context(open_storage(database_of(tables), None, OPTIONS, chance=chance))


async def restore(tables: FakeTables, database: Database | None = None) -> tuple[Plan, Restored]:
    restoring = await open_restore(database or database_of(tables), None, OPTIONS, chance=random.Random(1))
    plan = await restoring.plan()
    return plan, await restoring.run(plan, random.randbytes(8).hex())


class Past:
    """A store and its contents after each of its entries was applied; index 0: empty."""

    def __init__(self) -> None:
        self.tables = FakeTables(time.monotonic, random.Random(1))
        self.events = [
            [event("A", "g:1"), event("B", "g:1", "x")],
            [event("A", "g:2")],
            [event("C", "x"), event("A")],
            [event("D", "h:1", "g:1")],
            [event("B", "h:1", "y")],
        ]
        firsts = (1, 3, 4, 6, 7)
        self.given = [
            entry(first, events, ticks=NOON + number * SECOND)
            for number, (first, events) in enumerate(zip(firsts, self.events, strict=True))
        ]
        self.then: list[Contents] = []

    async def live(self) -> "Past":
        async with AsyncExitStack() as stack:
            storage = await opened(stack, self.tables)
            self._note()
            for one in self.given:
                await storage.put(one)
                await storage.apply([one])
                self._note()
        return self

    def _note(self) -> None:
        self.then.append({table: dict(self.tables.everything(table)) for table in Table})

    def at(self, log: int, events: int, tags: int) -> FakeTables:
        """Return tables, each as it was after so many entries; the service still knows the request tokens."""
        tables = FakeTables(time.monotonic, random.Random(1), tokens=dict(self.tables.tokens))
        for table, number in ((Table.LOG, log), (Table.EVENTS, events), (Table.TAGS, tags)):
            for key, item in self.then[number][table].items():
                tables.write("restored", "put", table, key, item)
        return tables


def rows(tables: FakeTables) -> Mapping[Table, Mapping[Key, Item]]:
    return {table: tables.everything(table) for table in (Table.EVENTS, Table.TAGS)}


async def goes_on(tables: FakeTables, past: "Past", count: int) -> None:
    """Check that the store holds the first `count` entries, and that the next may be recorded again, at other ticks."""
    given = past.given[:count]
    async with AsyncExitStack() as stack:
        storage = await opened(stack, tables)
        assert columns(await everything(storage)) == columns(given)
        head = given[-1].last if given else 0
        assert await storage.applied() == head
        expected = b"".join(frame for one in given for frame in one.frames)
        assert await read(storage, query(), Span(0, head), 100, 1 << 20) == expected
        lost = past.events[count : count + 1] or [[event("D", "h:1", "z:1")]]
        again = entry(head + 1, *lost, ticks=NOON + 9 * SECOND)
        assert await storage.put(again)
        await storage.apply([again])
        event_type, tags = parts(again.labels[0])
        for asked in (query(((event_type,), ())), query(((), tags))):
            (found,) = await storage.first_matches([Check(asked, head)], again.last)
            assert found == again.stored(found.position if found else 0)


@pytest.mark.parametrize("log", range(6))
async def test_any_points_in_time_become_one_store(log: int) -> None:
    past = await Past().live()
    for events in range(6):
        for tags in range(6):
            tables = past.at(log, events, tags)
            plan, _ = await restore(tables)
            assert plan.head.position == (past.given[log - 1].last if log else 0)
            expected = past.then[log]
            assert rows(tables) == {table: expected[table] for table in (Table.EVENTS, Table.TAGS)}
            await goes_on(tables, past, log)


async def test_a_trimmed_log_is_restored_from_the_rows_that_are_left() -> None:
    past = await Past().live()
    calm = FakeDatabase(past.tables, "node", Faults(), random.Random(1))
    assert await trimmer(calm, holder=holder(past.tables), now=NOON + 2 * SECOND).step() == 2
    past.then[5] = {table: dict(past.tables.everything(table)) for table in Table}
    for tags in range(6):  # the table of tags may as well be empty
        tables = past.at(5, 3, tags)
        plan, _ = await restore(tables)
        assert plan.floor == 2
        assert rows(tables) == {table: past.then[5][table] for table in (Table.EVENTS, Table.TAGS)}
        await goes_on(tables, past, 5)
    with pytest.raises(RestoreError, match=r"up to 2\) are trimmed: .* positions 3$"):
        await restore(past.at(5, 1, 5))


async def test_it_may_be_cut_off_at_any_call_and_run_again() -> None:
    past = await Past().live()
    for after in (False, True):
        calls = 0
        while True:
            tables = past.at(3, 5, 2)
            cut = cast("Database", CutOff(database_of(tables), calls, after=after))
            try:
                await restore(tables, cut)
            except CutOffError:
                calls += 7  # each run is some hundred calls
            else:
                break
            layout = tables.item(Table.LOG, keys.meta_key("layout")) or {}
            if "restoring" in layout:
                with pytest.raises(DataDirectoryError, match="tables restore"):
                    async with AsyncExitStack() as stack:
                        await opened(stack, tables)
            await restore(tables)
            assert rows(tables) == {table: past.then[3][table] for table in (Table.EVENTS, Table.TAGS)}
            await goes_on(tables, past, 3)
        assert calls > 40


async def test_entries_behind_a_gap_are_named_and_deleted() -> None:
    past = await Past().live()
    tables = past.at(5, 5, 5)
    tables.write("damage", "delete", Table.LOG, keys.log_key(4, 4), None)
    plan, _ = await restore(tables)
    assert (plan.number, plan.behind) == (3, (5,))
    assert rows(tables) == {table: past.then[3][table] for table in (Table.EVENTS, Table.TAGS)}
    await goes_on(tables, past, 3)


async def test_a_hole_in_the_middle_of_the_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kudurru_server.storage.dynamodb.restore._MOST_BEHIND", 2)
    past = await Past().live()
    tables = past.at(5, 5, 5)
    tables.write("damage", "delete", Table.LOG, keys.log_key(2, 4), None)
    before = tables.everything(Table.LOG)
    with pytest.raises(RestoreError, match="log entry 2 is missing, but 3 stand behind it"):
        await restore(tables)
    assert tables.everything(Table.LOG) == before


@pytest.mark.parametrize("moment", [(Restore, "plan"), (Layout, "begin_restore"), (RollForward, "write")])
async def test_a_server_at_work_is_noticed(monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]) -> None:
    past = await Past().live()
    tables = past.at(5, 5, 5)
    holder, name = moment
    real = getattr(holder, name)

    async def move(*arguments: object) -> object:
        done = await real(*arguments)
        applied = tables.item(Table.LOG, keys.meta_key("applied")) or {}
        beat = {"beat": int(str(applied["beat"])) + 1}
        tables.write("server", "update", Table.LOG, keys.meta_key("applied"), {**applied, **beat})
        return done

    monkeypatch.setattr(holder, name, move)
    with pytest.raises(RestoreError, match="a server was at work"):
        await restore(tables)


async def test_a_server_that_writes_while_the_log_is_read_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    past = await Past().live()
    tables = past.at(4, 4, 4)
    entry_item = past.then[5][Table.LOG][keys.log_key(5, 4)]
    real = Log.catch_up
    calls = 0

    async def catch_up(self: Log) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            tables.write("server", "put", Table.LOG, keys.log_key(5, 4), entry_item)
        await real(self)

    monkeypatch.setattr(Log, "catch_up", catch_up)
    with pytest.raises(RestoreError, match="a server is at work"):
        await restore(tables)


async def test_a_log_that_is_not_a_chain_is_refused() -> None:
    past = await Past().live()
    for name, wrong in (("previous_token", b"x" * 16), ("first_position", 5)):
        tables = past.at(5, 5, 5)
        third = tables.item(Table.LOG, keys.log_key(3, 4)) or {}
        tables.write("damage", "put", Table.LOG, keys.log_key(3, 4), {**third, name: wrong})
        with pytest.raises(StorageUnavailableError, match="log entry 3 does not follow"):
            await restore(tables)


async def test_a_body_that_is_missing_above_the_floor_is_named() -> None:
    past = await Past().live()
    tables = past.at(5, 2, 5)
    third = tables.item(Table.LOG, keys.log_key(3, 4)) or {}
    bare = {name: value for name, value in third.items() if name not in {"body", "checksum"}}
    tables.write("damage", "put", Table.LOG, keys.log_key(3, 4), bare)
    with pytest.raises(StorageUnavailableError, match="log entry 3 has no body, and its event at position 4 no row"):
        await restore(tables)


@pytest.mark.parametrize("log", [0, 2, 4])
async def test_a_server_does_not_start_on_a_log_that_is_older_than_the_events(log: int) -> None:
    past = await Past().live()
    tables = past.at(log, 5, 5)
    async with AsyncExitStack() as stack:
        with pytest.raises(StorageUnavailableError, match=r"event 7 has rows, .* run `kudurru-server tables restore`"):
            await opened(stack, tables)
    await restore(tables)
    async with AsyncExitStack() as stack:
        storage = await opened(stack, tables)
        assert (await storage.head()).position == sum(map(len, past.events[:log]))


async def test_a_server_does_not_start_without_a_log_beside_events() -> None:
    past = await Past().live()
    tables = past.at(0, 5, 5)
    tables.write("damage", "delete", Table.LOG, Key("META#layout", 0), None)
    for _ in range(20):  # some pages of the index are empty and not the last
        async with AsyncExitStack() as stack:
            with pytest.raises(StorageUnavailableError, match="there are events, but no log"):
                await opened(stack, tables)
