"""Derived rows: every answer is exact up to the watermark, however entries were cut, applied and merged."""

import asyncio
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kudurru_server._proto.event_pb2 import Event
from kudurru_server.model import Entry, Query, QueryItem
from kudurru_server.storage.interface import Check, Span, Storage

from tests.builders import NOON, entry, event, events_of, fact_of, query, reference_query, uuid4
from tests.reference import matches
from tests.storage.conftest import Backends

TYPES = ("A", "B", "C")
TAGS = ("x", "y", "g:1", "g:2")
ABSENT = "never"


class Given:
    """A log, and after how many entries rows are applied."""

    def __init__(self, entries: list[Entry], events: list[Event], cuts: list[int]) -> None:
        self.entries = entries
        self.events = events
        self.cuts = cuts

    def __repr__(self) -> str:
        return f"{[one.labels for one in self.entries]} applied by {self.cuts}"

    def matching(self, asked: Query, span: Span) -> list[int]:
        """Return the positions of a span that match, in its order."""
        low, high = max(0, span.after), min(len(self.events), span.until)
        found = [
            position
            for position in range(low + 1, high + 1)
            if matches(reference_query(asked), fact_of(self.events[position - 1]))
        ]
        return found[::-1] if span.backwards else found

    def frame(self, position: int) -> bytes:
        return next(one.frames[position - one.first] for one in self.entries if position <= one.last)


@st.composite
def logs(draw: st.DrawFn) -> Given:
    """Draw a log of up to 120 events."""
    shapes = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=14))
    seed = draw(st.randoms(use_true_random=False))
    entries: list[Entry] = []
    events: list[Event] = []
    numbers = count(1)
    for shape in shapes:
        appends = [
            [
                event(
                    seed.choice(TYPES),
                    *seed.sample(TAGS, seed.choice((0, 1, 1, 2, 3))),
                    event_id=str(UUID(int=seed.getrandbits(60) << 68 | next(numbers), version=4)),
                    data=bytes(seed.choice((0, 0, 10, 5_000))),
                )
                for _ in range(size)
            ]
            for size in shape
        ]
        ticks = (entries[-1].ticks if entries else NOON) + seed.choice((0, 0, 1, 1000))
        entries.append(entry(len(events) + 1, *appends, ticks=ticks))
        events += [one for events_of_append in appends for one in events_of_append]
    cuts = draw(st.lists(st.integers(1, 3), min_size=1))
    return Given(entries, events, cuts)


names = st.sampled_from
items = st.builds(
    lambda types, tags: QueryItem(tuple(types), tuple(tags)),
    st.lists(names((*TYPES, ABSENT)), max_size=2, unique=True),
    st.lists(names((*TAGS, ABSENT)), max_size=3, unique=True),
).filter(lambda item: item.event_types or item.tags)
queries = st.builds(lambda found: Query(tuple(found)), st.lists(items, max_size=3))


async def fill(storage: Storage, log: Given) -> int:
    """Put everything, apply it in the batches of the log, and return the watermark."""
    for one in log.entries:
        assert await storage.put(one)
    start, at = 0, 0
    while start < len(log.entries):
        batch = log.entries[start : start + log.cuts[at % len(log.cuts)]]
        await storage.apply(batch)
        assert await storage.applied() == batch[-1].last
        start, at = start + len(batch), at + 1
    return await storage.applied()


async def read(storage: Storage, asked: Query, span: Span, max_events: int, max_bytes: int) -> bytes:
    """Read a whole span, and hold every batch against the contract."""
    frames = []
    while span.after < span.until:
        batch = await storage.history(asked, span, max_events, max_bytes)
        assert batch.count == len(events_of(batch.frames)) <= max_events
        rest = span.beyond(batch.reached)
        assert rest.until - rest.after < span.until - span.after
        assert rest.after >= span.after
        assert rest.until <= span.until
        frames.append(batch.frames)
        span = rest
    return b"".join(frames)


def test_every_answer_is_that_of_a_linear_scan(backends: Backends) -> None:
    async def check(log: Given, data: st.DataObject) -> None:
        async with backends.new().open() as storage:
            head = await fill(storage, log)
            asked = [data.draw(queries) for _ in range(4)]
            for one in asked:
                after = data.draw(st.integers(0, head))
                span = Span(after, data.draw(st.integers(after, head)), data.draw(st.booleans()))
                limits = (
                    data.draw(st.sampled_from((1, 2, 7, 1000))),
                    data.draw(st.sampled_from((1, 300, 6_000, 1 << 20))),
                )
                expected = [log.frame(position) for position in log.matching(one, span)]
                assert await read(storage, one, span, *limits) == b"".join(expected)
            await look_up(storage, log, asked, data.draw(st.integers(0, head)))

    @settings(max_examples=backends.examples)
    @given(log=logs(), data=st.data())
    def run(log: Given, data: st.DataObject) -> None:
        asyncio.run(check(log, data))

    run()


async def look_up(storage: Storage, log: Given, asked: list[Query], until: int) -> None:
    """Hold all other answers against a scan of the events up to `until`."""
    checks = [Check(one, after) for one in asked for after in (0, until // 2, until)]
    for check, found in zip(checks, await storage.first_matches(checks, until), strict=True):
        expected = log.matching(check.query, Span(check.after, until))
        assert (found.position in expected) if found else not expected
    ids = [one.event_id for one in log.events]
    stored = await storage.find([*ids, uuid4()], until)
    assert {key: one.position for key, one in stored.items()} == {ids[at]: at + 1 for at in range(until)}
    for one in stored.values():
        holder = next(given for given in log.entries if one.position <= given.last)
        assert one == holder.stored(one.position)
    for tag in (*TAGS, ABSENT):
        positions = log.matching(query(((), (tag,))), Span(0, until))
        for with_count in (False, True):
            summary = await storage.tag(tag, until, with_count=with_count)
            found_tag = (summary.first, summary.last, summary.count) if summary else None
            count = len(positions) if with_count else None
            assert found_tag == ((positions[0], positions[-1], count) if positions else None)


@pytest.mark.calm("a batch may end where the index lags")
async def test_a_batch_ends_soon_after_it_has_reached_max_bytes(storage: Storage) -> None:
    await storage.put(entry(1, [event("A", "x", data=bytes(30_000)) for _ in range(12)]))
    await storage.apply(await storage.entries(0))
    for asked in (query(), query((("A",), ())), query(((), ("x",)))):
        for backwards in (False, True):
            assert (await storage.history(asked, Span(0, 12, backwards), 1000, 80_000)).count in (3, 4, 5)


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_batch_of_as_many_events_as_wanted_reaches_to_the_last_of_them(
    storage: Storage, *, backwards: bool
) -> None:
    await storage.put(entry(1, [event("A", "x"), event("B", "y"), event("A", "z")]))
    await storage.apply(await storage.entries(0))
    for asked in (query((("B",), ())), query(((), ("y",))), query((("B",), ("y",))), query((("B",), ()), ((), ("y",)))):
        batch = await storage.history(asked, Span(0, 3, backwards), 1, 1 << 20)
        assert (batch.count, batch.reached) == (1, 2)


async def test_a_query_that_matches_nothing_makes_progress_to_the_end(storage: Storage) -> None:
    for number in range(10):
        await storage.put(entry(number * 300 + 1, [event("A", "x") for _ in range(300)]))
        await storage.apply(await storage.entries(number * 300))
    both = query((("B",), ("x",)))
    for backwards in (False, True):
        assert await read(storage, both, Span(0, 3000, backwards), 10, 1000) == b""


async def test_rows_past_the_watermark_are_not_needed_for_exact_answers_before_it(storage: Storage) -> None:
    await storage.put(entry(1, [event("A", "x")]))
    await storage.apply(await storage.entries(0))
    await storage.put(entry(2, [event("A", "x")]))
    assert await storage.applied() == 1
    assert (await storage.history(query(((), ("x",))), Span(0, 1), 10, 1000)).count == 1


@pytest.mark.parametrize("group", [None, "", "g", "h", "missing"])
async def test_tags_are_listed_by_group_and_then_by_tag_in_pages(storage: Storage, group: str | None) -> None:
    tags = ["b", "a", "g:2", "g:10", "g:", ":x", "h:é", "h:z", "h:\U0001f600", "h:\uffee", "g-1", "a:b:c"]
    await storage.put(entry(1, *([event("A", tag)] for tag in tags)))
    await storage.apply(await storage.entries(0))
    keys = sorted((tag.partition(":")[0] if ":" in tag else "", tag) for tag in tags)
    expected = [tag for found, tag in keys if group is None or found == group]
    for limit in (1, 2, 5, 100):
        pages: list[str] = []
        while page := await storage.tags(group, pages[-1] if pages else None, limit):
            assert len(page) <= limit
            pages += page
        assert pages == expected


async def test_a_tag_is_listed_once_however_often_it_is_applied(storage: Storage) -> None:
    for number in range(20):
        await storage.put(entry(number + 1, [event("A", "x", f"n:{number % 3}")]))
        await storage.apply(await storage.entries(number))
    assert await storage.tags(None, None, 100) == ["x", "n:0", "n:1", "n:2"]
