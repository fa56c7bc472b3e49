"""The log: what `put` promised stays, in order, byte for byte, through any crash."""

import asyncio
from collections.abc import Sequence

import pytest
from kudurru_server.model import START, Cursor, Entry
from kudurru_server.storage.interface import Storage

from tests.builders import NOON, entry, event
from tests.storage.backends import Backend


async def everything(storage: Storage, after: int = 0) -> list[Entry]:
    """Return all entries above `after`."""
    found: list[Entry] = []
    while entries := await storage.entries(found[-1].last if found else after):
        found += entries
    return found


def columns(entries: Sequence[Entry]) -> list[tuple[int, int, str, str, bytes, tuple[int, int]]]:
    """Return what entries say of each event, however they are cut."""
    return [
        (
            position,
            one.ticks,
            one.ids[at],
            one.labels[at],
            one.frames[at],
            next(append for append in one.appends if append[0] <= position < sum(append)),
        )
        for one in entries
        for at, position in enumerate(range(one.first, one.last + 1))
    ]


def some_entries() -> list[Entry]:
    """Return entries of several appends, of one event, of an event above any block, and of many blocks."""
    return [
        entry(1, [event("A", "t:1")], [event("B", "t:1", "u"), event("B")], ticks=NOON),
        entry(4, [event("C", data=b"x" * 100_000)], ticks=NOON),
        entry(5, [event("D", "t:2", data=bytes([at]) * 3_000) for at in range(40)], [event("E")], ticks=NOON + 7),
    ]


async def test_an_empty_store_has_no_head_and_no_entries(storage: Storage) -> None:
    assert await storage.head() == START
    assert await storage.entries(0) == []
    assert await storage.applied() == 0


async def test_the_head_is_the_cursor_of_the_last_event(storage: Storage) -> None:
    for one in some_entries():
        assert await storage.put(one)
        assert await storage.head() == Cursor(one.ticks, one.last)


async def test_entries_show_what_was_put_byte_for_byte(storage: Storage) -> None:
    given = some_entries()
    for one in given:
        await storage.put(one)
    assert columns(await everything(storage)) == columns(given)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5, 20, 44, 45])
async def test_entries_begin_right_after_any_position(storage: Storage, after: int) -> None:
    given = some_entries()
    for one in given:
        await storage.put(one)
    assert columns(await everything(storage, after)) == columns(given)[after:]


async def test_a_large_log_comes_in_bounded_amounts(storage: Storage) -> None:
    for number in range(12):
        await storage.put(entry(number * 2 + 1, [event(data=bytes(1 << 20)), event(data=bytes(1 << 20))]))
    found = await storage.entries(0)
    assert 0 < sum(len(frame) for one in found for frame in one.frames) < 12 << 20
    assert len(columns(await everything(storage))) == 24


async def test_a_put_at_a_taken_place_returns_false_and_writes_nothing(storage: Storage) -> None:
    given = some_entries()
    for one in given:
        await storage.put(one)
    for first in (1, 2, 4, 45):
        assert not await storage.put(entry(first, [event("Other")], ticks=NOON + 9))
    assert columns(await everything(storage)) == columns(given)
    assert await storage.put(entry(46, [event("Next")], ticks=NOON + 9))


async def test_the_log_survives_closing_and_opening(backend: Backend) -> None:
    given = some_entries()
    for one in given:
        async with backend.open() as storage:
            assert await storage.put(one)
    async with backend.open() as storage:
        assert await storage.head() == Cursor(NOON + 7, 45)
        assert columns(await everything(storage)) == columns(given)


async def test_the_log_survives_a_crash_after_each_put(backend: Backend) -> None:
    given = some_entries()
    async with backend.open() as storage:
        for count, one in enumerate(given, 1):
            await storage.put(one)
            async with backend.crashed().open() as reopened:
                assert await reopened.head() == Cursor(one.ticks, one.last)
                assert columns(await everything(reopened)) == columns(given[:count])


async def test_an_entry_is_there_whole_or_not_at_all_whenever_the_crash_comes(backend: Backend) -> None:
    await_first = entry(1, [event("A")])
    large = entry(2, [event("B", data=bytes(50_000)) for _ in range(60)])
    async with backend.open() as storage:
        await storage.put(await_first)
        putting = asyncio.ensure_future(storage.put(large))
        crashes = []
        while not putting.done():
            crashes.append(await asyncio.to_thread(backend.crashed))
        await putting
    for crash in crashes[:8]:
        async with crash.open() as reopened:
            assert (await reopened.head()).position in (1, 61)


async def test_events_of_one_mebibyte_are_kept(storage: Storage) -> None:
    given = entry(1, [event("A", "t:1", data=bytes(range(256)) * 4096), event("B", data=bytes(1 << 20))])
    await storage.put(given)
    assert columns(await everything(storage)) == columns([given])


async def test_ticks_at_is_the_tick_of_the_entry(storage: Storage) -> None:
    given = some_entries()
    for one in given:
        await storage.put(one)
    ticks = [await storage.ticks_at(position) for position in range(1, 46)]
    assert ticks == [one.ticks for one in given for _ in one.ids]


async def test_position_before_passes_over_all_events_of_equal_ticks(storage: Storage) -> None:
    ticks = [NOON, NOON, NOON + 1, NOON + 5, NOON + 5, NOON + 5, NOON + 6]
    for position, tick in enumerate(ticks, 1):
        await storage.put(entry(position, [event()], ticks=tick))
    for until in range(8):
        for tick in [0, NOON - 1, *range(NOON, NOON + 9), 10**19 - 1]:
            assert await storage.position_before(tick, until) == sum(one < tick for one in ticks[:until])
