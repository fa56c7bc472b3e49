"""Large payloads are kept before an append joins an entry: what goes wrong with one concerns no other append."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from kudurru_server.api.convert import same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import Appended
from kudurru_server.storage.interface import Storage
from kudurru_server.storage.sqlite.store import open_storage
from structlog.testing import capture_logs

from tests.builders import append, event
from tests.engine.nodes import Scripted

Keep = Callable[[Sequence[bytes]], Awaitable[None]]


class Keeper(Scripted):
    """A store that keeps large payloads as it is told."""

    def __init__(self, real: Storage, keep: Keep) -> None:
        super().__init__(real)
        self.keep = keep


@asynccontextmanager
async def node(folder: Path, keep: Keep, pending_bytes: int = 64 << 20) -> AsyncIterator[Engine]:
    options = EngineOptions(keep_above_bytes=1000, pending_bytes=pending_bytes)
    async with open_storage(folder) as real:
        storage = cast("Storage", Keeper(real, keep))
        async with run_engine(storage, same_content, options) as engine:
            yield engine


async def test_what_cannot_be_kept_fails_alone_and_is_logged_once(tmp_path: Path) -> None:
    failing = True

    async def keep(_: Sequence[bytes]) -> None:
        if failing:
            raise StorageUnavailableError("no bucket")

    async with node(tmp_path, keep) as engine:
        with capture_logs() as logs:
            for _ in range(3):
                large, small = await engine.append([append(event(data=bytes(2000))), append(event(data=bytes(500)))])
                assert isinstance(large, StorageUnavailableError)
                assert isinstance(small, Appended)
            failing = False
            (large,) = await engine.append([append(event(data=bytes(2000)))])
            assert isinstance(large, Appended)
            assert large.first == 4
    assert [(line["event"], line.get("after")) for line in logs] == [
        ("keep_failed", None),
        ("works_again", "keep_failed"),
    ]


async def test_small_appends_do_not_wait_for_what_is_being_kept(tmp_path: Path) -> None:
    may_go_on = asyncio.Event()

    async def keep(_: Sequence[bytes]) -> None:
        await may_go_on.wait()

    async with node(tmp_path, keep) as engine:
        waiting = asyncio.create_task(engine.append([append(event(data=bytes(2000)))]))
        (small,) = await engine.append([append(event())])
        assert isinstance(small, Appended)
        assert not waiting.done()
        may_go_on.set()
        (large,) = await waiting
        assert isinstance(large, Appended)
        assert large.first == 2


async def test_a_caller_who_leaves_while_it_is_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def keep(_: Sequence[bytes]) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with node(tmp_path, keep, pending_bytes=3000) as engine:
        leaving = asyncio.create_task(engine.append([append(event(data=bytes(2500)))]))
        await begun.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        (small,) = await engine.append([append(event(data=bytes(900)))])  # else too much would be waiting
        assert isinstance(small, Appended)
        assert engine.head.position == 1


async def test_a_caller_who_leaves_before_anything_is_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    async def keep(_: Sequence[bytes]) -> None:
        await asyncio.Event().wait()

    async with node(tmp_path, keep) as engine:
        large = [append(event(data=bytes(2500))) for _ in range(3)]
        leaving = asyncio.create_task(engine.append(large))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert engine.pending_bytes == 0
        async with asyncio.timeout(10):
            await engine.drain()
