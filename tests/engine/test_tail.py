"""The tail against a linear scan, staged events that vanish without a trace, and memory that stays bounded."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from kudurru_server.engine.tail import Tail
from kudurru_server.model import Entry, Query
from kudurru_server.storage.interface import Span

from tests.builders import NOON, entry, event, fact_of, query, reference_query, uuid4
from tests.reference import matches
from tests.storage.test_history import Given, logs, queries


def known(tail: Tail, ids: list[str]) -> dict[str, int]:
    return tail.known(ids, min(ids))


def loaded(log: Given) -> Tail:
    tail = Tail(1 << 20)
    for one in log.entries:
        tail.load(one)
    return tail


@given(log=logs(), asked=queries, data=st.data())
def test_batches_and_matches_are_those_of_a_linear_scan(log: Given, asked: Query, data: st.DataObject) -> None:
    tail, head = loaded(log), len(log.events)
    after = data.draw(st.integers(0, head))
    span = Span(after, data.draw(st.integers(after, head)), data.draw(st.booleans()))
    max_events, max_bytes = data.draw(st.sampled_from((1, 2, 7, 1000))), data.draw(st.sampled_from((1, 300, 1 << 20)))
    assert tail.positions(asked, Span(after, span.until)) == log.matching(asked, Span(after, span.until))
    hit = tail.any_match(asked, after)
    hits = log.matching(asked, Span(after, head))
    assert (hit in hits) if hit else not hits
    expected, frames = [log.frame(position) for position in log.matching(asked, span)], b""
    while span.after < span.until:
        batch = tail.batch(asked, span, max_events, max_bytes)
        assert batch.count <= max_events
        sizes = list(map(len, expected[: batch.count]))
        assert sum(sizes[:-1]) < max_bytes
        assert batch.frames == b"".join(expected[: batch.count])
        del expected[: batch.count]
        rest = span.beyond(batch.reached)
        assert rest.until - rest.after < span.until - span.after
        frames, span = frames + batch.frames, rest
    assert not expected


@given(log=logs(), more=logs(), asked=queries)
def test_unstaging_leaves_no_trace(log: Given, more: Given, asked: Query) -> None:
    tail, head = loaded(log), len(log.events)
    ids, labels = [uuid4() for _ in more.events], [label for one in more.entries for label in one.labels]
    before = tail.any_match(asked, 0)
    tail.stage(ids[:1], labels[:1])
    if ids[1:]:
        tail.stage(ids[1:], labels[1:])
    staged = [one for one in more.events if matches(reference_query(asked), fact_of(one))]
    assert bool(tail.any_match(asked, head)) == bool(staged)
    assert known(tail, ids) == {event_id: position for position, event_id in enumerate(ids, head + 1)}
    assert tail.head.position == head
    assert tail.positions(asked, Span(0, head)) == log.matching(asked, Span(0, head))
    assert tail.unapplied_tags() == {tag for one in log.events for tag in one.tags}
    tail.unstage(ids)
    assert tail.any_match(asked, 0) == before
    assert tail.any_match(asked, head) is None
    assert known(tail, ids) == {}
    next_entry = entry(head + 1, [event("A", "x")], ticks=NOON + 10**7)
    tail.load(next_entry)
    assert tail.positions(query(((), ("x",))), Span(head, head + 1)) == [head + 1]


def test_nothing_matches_in_an_empty_tail_behind_applied_events() -> None:
    tail = Tail(budget_bytes=1)
    for first in (1, 5):
        tail.load(entry(first, [event("A", "x") for _ in range(4)]))
        tail.mark_applied(first + 3)
    assert (tail.start, tail.left.position) == (9, 8)
    assert tail.any_match(query(((), ("x",))), 0) is None
    assert tail.any_match(Query(), 0) is None


def test_applied_generations_are_dropped_oldest_first_when_the_budget_is_spent() -> None:
    tail = Tail(budget_bytes=4_000)
    for first in range(1, 41, 4):
        tail.load(entry(first, [event("A", "x") for _ in range(4)]))
    assert tail.start == 1
    tail.mark_applied(20)
    assert tail.start == 21
    assert tail.left.position == 20
    assert tail.unapplied_bytes > 0


def test_subscribers_who_ask_the_same_get_the_same_bytes() -> None:
    tail = Tail(1 << 20)
    tail.load(entry(1, [event("A", "x"), event("B", "x")]))
    asked, span = query(((), ("x",))), Span(0, 2)
    first, second = tail.shared_batch(asked, span, 1 << 20), tail.shared_batch(asked, span, 1 << 20)
    assert first.frames is second.frames
    tail.load(entry(3, [event("A", "x")]))
    assert tail.shared_batch(asked, Span(0, 3), 1 << 20).count == 3


def test_batches_for_subscribers_do_not_pile_up_while_nothing_is_recorded() -> None:
    tail = Tail(64 << 20)
    entries: list[Entry] = [
        entry(at * 4 + 1, [event("A", "x", data=bytes(100_000)) for _ in range(4)]) for at in range(5)
    ]
    for one in entries:
        tail.load(one)
    tracemalloc.start()
    try:
        for number in range(60):
            tail.shared_batch(query(((), ("x",)), ((), (f"own:{number}",))), Span(0, 20), 1 << 20)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 32 << 20
