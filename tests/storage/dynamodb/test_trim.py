"""A trimmed log answers as before, and wherever its trimming is cut off, it goes on from there."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from kudurru_server.model import START, Cursor, Entry
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Database, Item, Key, Table
from kudurru_server.storage.dynamodb.entry_item import has_body
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.log_reader import LogReader
from kudurru_server.storage.dynamodb.payloads import Payloads
from kudurru_server.storage.dynamodb.retries import Pauses
from kudurru_server.storage.dynamodb.roll_forward import RollForward, RollOptions
from kudurru_server.storage.dynamodb.store import DynamoOptions, DynamoStorage, open_storage
from kudurru_server.storage.dynamodb.trim import Floor, Trimmer, Trimming, read_floor
from kudurru_server.storage.interface import Span

from tests.builders import NOON, entry, event, query
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables
from tests.storage.test_history import read
from tests.storage.test_log import columns, everything

SECOND = 10_000_000


class CutOffError(Exception):
    """The process ends here."""


class CutOff:
    """A database whose user dies at a call: before it has an effect, or after."""

    def __init__(self, database: Database, calls: int, *, after: bool) -> None:
        self._database = database
        self._calls = calls
        self._after = after

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*arguments: Any, **named: Any) -> object:  # noqa: ANN401
            self._calls -= 1
            if self._calls < 0 and not self._after:
                raise CutOffError
            answer = await getattr(self._database, name)(*arguments, **named)
            if self._calls < 0:
                raise CutOffError
            return cast("object", answer)

        return call


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("log.PART_BYTES", "entry_item.PART_BYTES", "trim.PART_BYTES"):
        monkeypatch.setattr(f"kudurru_server.storage.dynamodb.{name}", 20_000)
    monkeypatch.setattr("kudurru_server.storage.dynamodb.entry_item._ENTRY_BYTES", 30_000)


def entries() -> list[Entry]:
    """Return entries a second apart; the third is spilled."""
    noise = random.Random(3).randbytes(50_000)
    given = [
        entry(1, [event("A", "x")], [event("B", "x", "y"), event("A")], ticks=NOON),
        entry(4, [event("B", "y")], ticks=NOON + SECOND),
        entry(5, [event("A", "x", data=noise), event("C")], ticks=NOON + 2 * SECOND),
        entry(7, [event("A", "y")], ticks=NOON + 3 * SECOND),
        entry(8, [event("C", "x")], ticks=NOON + 4 * SECOND),
    ]
    assert given[-1].last == 8
    return given


def database_of(tables: FakeTables) -> FakeDatabase:
    return FakeDatabase(tables, "node", Faults(delay_seconds=0.0), random.Random(1))


async def opened(stack: AsyncExitStack, tables: FakeTables, *, prefer_index: bool = False) -> DynamoStorage:
    options = DynamoOptions(prefer_index=prefer_index, lease_seconds=0.0)
    return await stack.enter_async_context(
        open_storage(database_of(tables), None, options, chance=random.Random(random.random()))
    )


async def filled(applied: int = 5) -> tuple[FakeTables, list[Entry]]:
    """Return the tables of a store whose first `applied` entries have rows."""
    tables, given = FakeTables(time.monotonic, random.Random(1)), entries()
    async with AsyncExitStack() as stack:
        storage = await opened(stack, tables)
        for one in given:
            assert await storage.put(one)
        await storage.apply(given[:applied])
    return tables, given


def trimmer(
    database: Database, *, now: int = NOON + 4 * SECOND, retention_seconds: float = 1.0, holder: str | None = None
) -> Trimmer:
    """Return the trimmer of a node that holds the lease, which is the one that wrote the rows unless given."""
    pauses, payloads = Pauses(random.Random(1)), Payloads(None, 1 << 20)
    rows = EventRows(database, payloads, pauses, 1.0)
    log = LogReader(database, payloads, rows, stripes=4)
    roll = RollForward(database, rows, payloads, pauses, RollOptions(holder or "", 4, "", True, 1, 0.0, 0.0))  # noqa: FBT003
    return Trimmer(database, rows, log, roll, Trimming(retention_seconds, lambda: now))


def holder(tables: FakeTables) -> str:
    return str((tables.item(Table.LOG, keys.meta_key("applied")) or {})["holder"])


def log_items(tables: FakeTables) -> list[Item]:
    items = tables.everything(Table.LOG)
    return [items[key] for key in sorted(items, key=lambda key: key.sk) if key.pk.startswith("LOG#")]


def spilled(tables: FakeTables) -> list[Key]:
    return [key for key in tables.everything(Table.LOG) if key.pk.startswith("SPILL#")]


async def test_old_entries_lose_their_bodies_and_keep_everything_else() -> None:
    tables, _ = await filled()
    before = log_items(tables)
    assert spilled(tables)
    assert await trimmer(database_of(tables), holder=holder(tables)).step() == 4
    bodies = {"body", "spilled_to", "spilled_parts", "checksum"}
    kept = [{name: value for name, value in item.items() if name not in bodies} for item in before[:4]]
    assert log_items(tables) == [*kept, before[4]]
    assert not spilled(tables)
    assert await trimmer(database_of(tables), holder=holder(tables)).step() == 0


async def test_what_is_young_or_has_no_rows_keeps_its_body() -> None:
    tables, _ = await filled(applied=2)
    assert await trimmer(database_of(tables), holder=holder(tables), retention_seconds=4).step() == 1
    assert await trimmer(database_of(tables), holder=holder(tables), now=NOON * 2).step() == 1
    assert [has_body(item) for item in log_items(tables)] == [False, False, True, True, True]


async def test_only_the_node_that_writes_the_rows_trims() -> None:
    tables, _ = await filled()
    assert await trimmer(database_of(tables), holder="another").step() == 0
    assert all(map(has_body, log_items(tables)))


@pytest.mark.parametrize("prefer_index", [False, True])
async def test_answers_are_the_same_over_a_trimmed_log(prefer_index: bool) -> None:  # noqa: FBT001
    tables, given = await filled()
    await trimmer(database_of(tables), holder=holder(tables)).step()
    async with AsyncExitStack() as stack:
        storage = await opened(stack, tables, prefer_index=prefer_index)
        for after in range(9):
            assert columns(await everything(storage, after)) == columns(given)[after:]
        frames = [frame for one in given for frame in one.frames]
        for low in range(8):
            for high in range(low, 9):
                expected = frames[low:high]
                assert await read(storage, query(), Span(low, high), 100, 1 << 20) == b"".join(expected)
                backwards = Span(low, high, backwards=True)
                assert await read(storage, query(), backwards, 100, 1 << 20) == b"".join(expected[::-1])
        assert await storage.ticks_at(2) == NOON
        assert await storage.position_before(NOON + 2 * SECOND, 8) == 4


@pytest.mark.parametrize("after", [False, True])
async def test_trimming_goes_on_from_a_crash_at_any_call(after: bool) -> None:  # noqa: FBT001
    calls, crashes = 0, 0
    while True:
        tables, given = await filled()
        cut = cast("Database", CutOff(database_of(tables), calls, after=after))
        try:
            await trimmer(cut, holder=holder(tables)).step()
        except CutOffError:
            crashes += 1
        else:
            assert crashes > 10
            return
        floor = await read_floor(database_of(tables), trimmer(database_of(tables))._rows)  # noqa: SLF001
        gone = [number for number, item in enumerate(log_items(tables), 1) if not has_body(item)]
        assert {*range(1, floor.trimmed + 1)} <= {*gone} <= {*range(1, floor.number + 1)}
        async with AsyncExitStack() as stack:
            assert columns(await everything(await opened(stack, tables))) == columns(given)
        await trimmer(database_of(tables), holder=holder(tables)).step()
        assert [has_body(item) for item in log_items(tables)] == [False, False, False, False, True]
        assert not spilled(tables)
        floor = await read_floor(database_of(tables), trimmer(database_of(tables))._rows)  # noqa: SLF001
        assert floor == Floor(4, 4)
        calls += 1


async def test_a_reader_whose_entry_is_trimmed_under_its_hands_takes_the_rows() -> None:
    tables, given = await filled()
    async with AsyncExitStack() as stack:
        storage = await opened(stack, tables)
        item = log_items(tables)[2]
        await trimmer(database_of(tables), holder=holder(tables)).step()
        read_again = await storage._log.reader.entry(item)  # noqa: SLF001
        assert columns([read_again]) == columns(given[2:3])


async def test_a_put_that_arrives_again_after_the_trim_writes_nothing() -> None:
    tables, given = await filled()
    await trimmer(database_of(tables), holder=holder(tables)).step()
    trimmed = log_items(tables)
    async with AsyncExitStack() as stack:
        late = await opened(stack, tables)
        for number, one in enumerate(given):
            before = given[number - 1]
            late._log.begin(number, Cursor(before.ticks, before.last) if number else START)  # noqa: SLF001
            assert not await late.put(one)
    assert log_items(tables) == trimmed


async def test_it_trims_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BUSY_SECONDS", "_IDLE_SECONDS"):
        monkeypatch.setattr(f"kudurru_server.storage.dynamodb.trim.{name}", 0.001)
    tables, given = FakeTables(time.monotonic, random.Random(1)), entries()
    done = asyncio.Event()

    def see(_: object) -> None:
        items = log_items(tables)
        if len(items) == len(given) and not any(map(has_body, items)):
            done.set()

    tables.watch = see
    trimming = Trimming(0.0, lambda: NOON * 2)
    async with open_storage(
        database_of(tables), None, DynamoOptions(), chance=random.Random(1), trimming=trimming
    ) as storage:
        for one in given:
            await storage.put(one)
        await storage.apply(given)
        async with asyncio.timeout(10):
            await done.wait()
