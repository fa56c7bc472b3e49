"""Closing, crashing and reopening change no answer, and lose no row that was applied."""

import asyncio

from hypothesis import given, settings
from kudurru_server.model import Query
from kudurru_server.storage.interface import Span

from tests.builders import entry, event, events_of, query
from tests.storage.backends import Backend
from tests.storage.conftest import Backends
from tests.storage.test_history import Given, fill, logs, look_up, queries, read
from tests.storage.test_log import everything


async def test_the_watermark_survives_reopening(backend: Backend) -> None:
    async with backend.open() as storage:
        for number in range(3):
            await storage.put(entry(number + 1, [event("A", "x")]))
        await storage.apply((await everything(storage))[:2])
        assert await storage.applied() == 2
    async with backend.open() as storage:
        assert await storage.applied() == 2
        await storage.apply(await storage.entries(2))
        assert await storage.applied() == 3
    async with backend.open() as storage:
        assert (await storage.history(query(((), ("x",))), Span(0, 3), 10, 1000)).count == 3


def test_answers_are_the_same_after_a_crash(backends: Backends) -> None:
    async def check(log: Given, asked: Query) -> None:
        backend = backends.new()
        async with backend.open() as storage:
            head = await fill(storage, log)
            crashed = backend.crashed()
        for again in (backend, crashed):
            async with again.open() as storage:
                assert await storage.applied() == head
                await look_up(storage, log, [asked], head)
                expected = [log.frame(position) for position in log.matching(asked, Span(0, head))]
                assert await read(storage, asked, Span(0, head), 5, 1000) == b"".join(expected)

    @settings(max_examples=backends.examples // 2)
    @given(log=logs(), asked=queries)
    def run(log: Given, asked: Query) -> None:
        asyncio.run(check(log, asked))

    run()


async def test_a_crash_while_rows_are_applied_leaves_a_watermark_that_is_true(backend: Backend) -> None:
    async with backend.open() as storage:
        crashes = []
        for number in range(20):
            await storage.put(entry(number * 20 + 1, [event("A", "x", f"n:{at}") for at in range(20)]))
        for _ in range(20):
            batch = (await storage.entries(await storage.applied()))[:1]
            applying = asyncio.ensure_future(storage.apply(batch))
            crashes.append(await asyncio.to_thread(backend.crashed))
            await applying
    for crash in crashes:
        async with crash.open() as storage:
            applied = await storage.applied()
            summary = await storage.tag("x", applied, with_count=True)
            assert (summary.count if summary else 0) == applied
            if applied < 400:
                await storage.apply(await storage.entries(applied))
            assert len(await storage.tags("n", None, 100)) == 20


async def test_concurrent_reads_are_exact_during_apply_and_merge(backend: Backend) -> None:
    async with backend.open() as storage:
        for number in range(100):
            await storage.put(entry(number * 3 + 1, [event("A", "x"), event("B", "y"), event("A", "x", "y")]))
        done = False

        async def reader() -> int:
            reads = 0
            while not done:
                applied = await storage.applied()
                for asked, share in ((query(((), ("x",))), 2), (query((("B",), ("y",))), 1), (query(), 3)):
                    frames = await read(storage, asked, Span(0, applied), 1000, 1 << 20)
                    assert len(events_of(frames)) == applied // 3 * share
                await asyncio.sleep(0)
                reads += 1
            return reads

        readers = [asyncio.ensure_future(reader()) for _ in range(3)]
        for number in range(100):
            await storage.apply((await storage.entries(number * 3))[:1])
        done = True
        assert min(await asyncio.gather(*readers)) > 0
