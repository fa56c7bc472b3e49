"""What is particular to the embedded store: its index is a cache that may be lost, damaged or foreign in any part."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from kudurru_server.engine.applier import recover
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import DataDirectoryError, StorageFullError
from kudurru_server.storage.interface import Check, Span
from kudurru_server.storage.sqlite import index
from kudurru_server.storage.sqlite.store import SqliteStorage, open_storage
from xxhash import xxh3_64_intdigest

from tests.builders import NOON, entry, event, query
from tests.storage.backends import Backend, SqliteBackend
from tests.storage.test_history import Given, fill, logs, look_up, read

X = query(((), ("x",)))


@pytest.fixture
def backends(tmp_path: Path) -> Callable[[], Backend]:
    """Return what makes embedded stores."""
    numbers = count()
    return lambda: SqliteBackend(tmp_path / f"data-{next(numbers)}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def put_and_apply(folder: Path, appends: int, *, apply_up_to: int | None = None, ticks: int = NOON) -> None:
    """Record events with the tags `x` and `n:<position>`, and apply them one by one."""
    async with open_storage(folder) as storage:
        for position in range(1, appends + 1):
            one = entry(position, [event("A", "x", f"n:{position}")], ticks=ticks)
            await storage.put(one)
            if position <= (appends if apply_up_to is None else apply_up_to):
                await storage.apply([one])


async def check_whole(folder: Path, events: int) -> None:
    """Bring the watermark to the head, as a start does, and hold every answer against what was put."""
    async with open_storage(folder) as storage:
        while entries := await storage.entries(await storage.applied()):
            await storage.apply(entries)
        assert await storage.applied() == events
        summary = await storage.tag("x", events, with_count=True)
        assert summary is not None
        assert (summary.first, summary.last, summary.count) == (1, events, events)
        assert len(await storage.tags("n", None, 1000)) == events
        batch = await storage.history(X, Span(0, events), 1000, 1 << 20)
        assert (batch.count, batch.reached) == (events, events)


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "index").glob("*.run"))


@settings(max_examples=25)
@given(log=logs())
def test_merging_changes_no_answer(backends: Callable[[], Backend], log: Given) -> None:
    async def run() -> None:
        async with backends().open() as storage:
            head = await fill(storage, Given(log.entries, log.events, [1]))
            for asked in (X, query((("A",), ())), query((("A",), ("y",)), (("B",), ())), query()):
                await look_up(storage, log, [asked], head)
                expected = [log.frame(position) for position in log.matching(asked, Span(0, head))]
                assert await read(storage, asked, Span(0, head), 3, 1000) == b"".join(expected)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "FAN_OUT", 2)
        asyncio.run(run())


async def test_merges_keep_the_runs_few(folder: Path) -> None:
    await put_and_apply(folder, 100)
    assert len(runs(folder)) <= 2 * (index.FAN_OUT - 1) + index.FAN_OUT
    await check_whole(folder, 100)


async def until_merged(folder: Path) -> None:
    """Wait until the merge that is due is done."""
    for _ in range(1000):
        if len(runs(folder)) == 1:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the runs are not merged")


async def test_a_start_in_the_middle_of_a_merge_is_clean(folder: Path, tmp_path: Path) -> None:
    await put_and_apply(folder, index.FAN_OUT - 1)
    shutil.copytree(folder / "index", tmp_path / "parts")
    async with open_storage(folder) as storage:
        one = entry(index.FAN_OUT, [event("A", "x", f"n:{index.FAN_OUT}")])
        await storage.put(one)
        await storage.apply([one])
        await until_merged(folder)
    (merged,) = runs(folder)
    for part in (tmp_path / "parts").glob("*.run"):
        shutil.copy(part, folder / "index" / part.name)
    unfinished = folder / "index" / "00000000001-00000000064.unfinished"
    unfinished.write_bytes(b"half")
    await check_whole(folder, index.FAN_OUT)
    assert runs(folder) == [merged]
    assert not unfinished.exists()


async def test_a_damaged_merged_run_gives_way_to_its_parts(folder: Path, tmp_path: Path) -> None:
    await put_and_apply(folder, index.FAN_OUT - 1)
    shutil.copytree(folder / "index", tmp_path / "parts")
    async with open_storage(folder) as storage:
        one = entry(index.FAN_OUT, [event("A", "x", f"n:{index.FAN_OUT}")])
        await storage.put(one)
        await storage.apply([one])
        await until_merged(folder)
    (merged,) = runs(folder)
    merged.write_bytes(merged.read_bytes()[:-1])
    for part in (tmp_path / "parts").glob("*.run"):
        shutil.copy(part, folder / "index" / part.name)
    async with open_storage(folder) as storage:
        assert await storage.applied() == index.FAN_OUT - 1
    await check_whole(folder, index.FAN_OUT)


async def test_a_deleted_index_is_rebuilt(folder: Path) -> None:
    await put_and_apply(folder, 20)
    shutil.rmtree(folder / "index")
    await check_whole(folder, 20)


@pytest.mark.parametrize("damage", ["empty", "truncated", "too long", "another magic", "missing"])
@pytest.mark.parametrize("place", [0, 2, -1])
async def test_a_damaged_run_is_written_again(folder: Path, damage: str, place: int) -> None:
    await put_and_apply(folder, 12)
    run = runs(folder)[place]
    content = run.read_bytes()
    if damage == "missing":
        run.unlink()
    else:
        run.write_bytes(
            {
                "empty": b"",
                "truncated": content[:-5],
                "too long": content + b"\0",
                "another magic": b"X" + content[1:],
            }[damage]
        )
    await check_whole(folder, 12)


async def test_runs_beyond_the_head_are_dropped(folder: Path, tmp_path: Path) -> None:
    await put_and_apply(tmp_path / "longer", 10)
    await put_and_apply(folder, 4, apply_up_to=0)
    shutil.rmtree(folder / "index")
    shutil.copytree(tmp_path / "longer" / "index", folder / "index")
    for left in (folder / "index").glob("tags*"):
        left.unlink()
    await check_whole(folder, 4)


async def test_runs_of_another_log_are_dropped(folder: Path, tmp_path: Path) -> None:
    await put_and_apply(tmp_path / "other", 5, ticks=NOON + 1)
    await put_and_apply(folder, 5, apply_up_to=0)
    for run in runs(tmp_path / "other"):
        shutil.copy(run, folder / "index" / run.name)
    async with open_storage(folder) as storage:
        assert await storage.applied() == 0
    await check_whole(folder, 5)


async def test_tags_of_another_log_are_not_listed(folder: Path, tmp_path: Path) -> None:
    async with open_storage(tmp_path / "other") as storage:
        one = entry(1, [event("A", "foreign")], ticks=NOON + 1)
        await storage.put(one)
        await storage.apply([one])
    await put_and_apply(folder, 3, apply_up_to=0)
    shutil.rmtree(folder / "index")
    shutil.copytree(tmp_path / "other" / "index", folder / "index")
    await check_whole(folder, 3)
    async with open_storage(folder) as storage:
        assert await storage.tags("", None, 10) == ["x"]


async def test_a_lost_file_of_tag_names_is_written_again(folder: Path) -> None:
    await put_and_apply(folder, 5)
    for left in (folder / "index").glob("tags*"):
        left.unlink()
    await check_whole(folder, 5)


@settings(max_examples=25)
@given(log=logs())
def test_answers_are_exact_although_keys_collide(backends: Callable[[], Backend], log: Given) -> None:
    real_ids: Callable[..., Any] = index.id_keys

    async def run() -> None:
        async with backends().open() as storage:
            head = await fill(storage, log)
            for asked in (X, query((("A",), ())), query((("A",), ("y",)), (("B",), ())), query(((), ("never",)))):
                expected = [log.frame(position) for position in log.matching(asked, Span(0, head))]
                assert await read(storage, asked, Span(0, head), 3, 1000) == b"".join(expected)
                hits = log.matching(asked, Span(0, head))
                (found,) = await storage.first_matches([Check(asked, 0)], head)
                assert (found.position if found else 0) in (hits or [0])
            ids = [one.event_id for one in log.events]
            assert {key: one.position for key, one in (await storage.find(ids, head)).items()} == {
                one: position for position, one in enumerate(ids, 1)
            }
            for tag in ("x", "y", "never"):
                positions = log.matching(query(((), (tag,))), Span(0, head))
                summary = await storage.tag(tag, head, with_count=False)
                assert (summary and (summary.first, summary.last)) == (
                    (positions[0], positions[-1]) if positions else None
                )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "xxh3_64_intdigest", lambda data, **_: xxh3_64_intdigest(data) & 1)
        patch.setattr(index, "id_keys", lambda ids: real_ids(ids) & real_ids(ids).dtype.type(3))
        asyncio.run(run())


async def test_tags_whose_keys_collide_are_both_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "xxh3_64_intdigest", lambda *_, **__: 7)
    async with open_storage(folder) as storage:
        for position, tags in enumerate((("a", "b"), ("c",)), 1):
            one = entry(position, [event("A", *tags)])
            await storage.put(one)
            await storage.apply([one])
        assert await storage.tags(None, None, 10) == ["a", "b", "c"]


async def test_a_second_opener_is_refused_until_the_first_has_closed(folder: Path) -> None:
    async with open_storage(folder):
        with pytest.raises(DataDirectoryError, match="in use by another process"):
            async with open_storage(folder):
                pytest.fail("opened twice")
    async with open_storage(folder) as storage:
        assert await storage.entries(0) == []


async def test_a_log_of_an_unknown_format_is_refused(folder: Path) -> None:
    await put_and_apply(folder, 1)
    connection = sqlite3.connect(folder / "log.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataDirectoryError, match="format"):
        async with open_storage(folder):
            pytest.fail("opened")


async def test_a_file_that_is_no_database_is_refused_with_a_clear_error(folder: Path) -> None:
    folder.mkdir()  # noqa: ASYNC240 - a moment
    (folder / "log.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataDirectoryError):
        async with open_storage(folder):
            pytest.fail("opened")


async def test_a_full_disk_writes_nothing_and_the_next_put_finds_the_place_free(folder: Path) -> None:
    async with open_storage(folder) as storage:
        await storage.put(entry(1, [event("A")]))
        limit_pages(storage, 8)
        with pytest.raises(StorageFullError):
            await storage.put(entry(2, [event("Big", data=bytes(1 << 20))]))
        assert (await storage.head()).position == 1
        assert [one.last for one in await storage.entries(0)] == [1]
        assert await storage.put(entry(2, [event("Big", data=bytes(1 << 20))]))
    async with open_storage(folder) as storage:
        assert (await storage.head()).position == 2


def limit_pages(storage: SqliteStorage, pages: int) -> None:
    """Make the log's file as if the disk had no room for more."""
    writer = storage._log._writer  # noqa: SLF001 - a full disk cannot be asked for
    assert writer is not None
    writer.execute(f"PRAGMA max_page_count = {pages}")


@pytest.mark.parametrize(("limit_bytes", "applied"), [(1 << 20, 4), (300, 18)])
async def test_recovery_loads_what_is_not_applied_and_applies_first_what_is_too_much(
    folder: Path, limit_bytes: int, applied: int
) -> None:
    await put_and_apply(folder, 20, apply_up_to=4)
    async with open_storage(folder) as storage:
        tail = Tail(1 << 20)
        await recover(storage, tail, limit_bytes)
        assert tail.head.position == 20
        assert tail.start == await storage.applied() + 1
        assert tail.applied == await storage.applied()
        assert applied <= tail.applied <= applied + 2


async def test_an_event_id_made_to_collide_with_a_tag_hides_no_event_from_a_condition(folder: Path) -> None:
    """The keys of ids can be inverted: whoever may append can choose an id whose key is that of somebody's tag."""
    high_factor, low_factor = index._ID_FACTORS.tolist()  # noqa: SLF001 - as an attacker would, from the source
    high = int("0192a0f3" + "0000" + "7000", 16)
    low = ((index.tag_key("x") ^ high * high_factor) * pow(low_factor, -1, 1 << 64)) % (1 << 64)
    made = str(UUID(int=high << 64 | low))
    assert index.id_keys([made]).tolist() == [index.tag_key("x")]
    async with open_storage(folder) as storage:
        one = entry(1, [event("A", event_id=made), event("A", "x"), event("A", "x")])
        await storage.put(one)
        await storage.apply([one])
        found = await storage.first_matches([Check(X, after) for after in (0, 1, 2, 3)], 3)
        assert [bool(hit) for hit in found] == [True, True, True, False]
        summary = await storage.tag("x", 3, with_count=False)
        assert summary is not None
        assert (summary.first, summary.last) == (2, 3)
        assert (await storage.history(X, Span(0, 3), 100, 1 << 20)).count == 2
