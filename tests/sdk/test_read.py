"""Reads: what is delivered, up to where it is complete, and what a broken connection changes: nothing."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import kudurru
import pytest
from kudurru import Event, EventStore, Query, Reason, RecordedEvent
from kudurru._proto import event_store_service_pb2 as pb

from .fake_server import Context, FakeServer, OnRead, cursor, fail, refused


def positions(events: list[RecordedEvent]) -> list[int]:
    """Return the events' positions."""
    return [event.position for event in events]


@pytest.fixture(autouse=True)
def seven_events(server: FakeServer) -> None:
    """Record seven events; the odd ones are of type A."""
    server.record(*(Event("AB"[n % 2], tags=[f"n:{n}"]) for n in range(7)))


def breaking_after(server: FakeServer, messages: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> OnRead:
    """Answer a read with so many messages and break."""

    async def script(request: pb.ReadRequest, context: Context) -> AsyncIterator[pb.ReadResponse]:
        for response in server.read(request)[:messages]:
            yield response
        await fail(context, refused(code))

    return script


async def test_a_read_delivers_what_matches_and_says_up_to_where(store: EventStore) -> None:
    read = store.read(Query.of(types=["A"]))
    assert [event.position async for event in read] == [1, 3, 5, 7]
    assert read.head == cursor(7)


async def test_every_bound_of_a_read_is_kept(server: FakeServer, store: EventStore) -> None:
    read = store.read(after=cursor(1), until=cursor(5), backwards=True, limit=3, at_least=cursor(2))
    assert positions(await read.to_list()) == [5, 4, 3]
    assert server.reads[0] == pb.ReadRequest(
        after=cursor(1), until=cursor(5), backwards=True, limit=3, at_least=cursor(2)
    )


async def test_batches_are_the_messages_as_they_arrive(store: EventStore) -> None:
    assert [positions(batch) async for batch in store.read().batches()] == [[1, 2], [3, 4], [5, 6], [7]]


async def test_queries_are_ors_of_items(server: FakeServer, store: EventStore) -> None:
    query = Query.of(types=["B"], tags=["n:3"]) | Query.of(tags=["n:6"])
    assert positions(await store.read(query).to_list()) == [4, 7]
    items = server.reads[0].query.items
    assert [(list(item.event_types), list(item.tags)) for item in items] == [(["B"], ["n:3"]), ([], ["n:6"])]


async def test_the_head_of_an_empty_store_is_empty(server: FakeServer, store: EventStore) -> None:
    server.forget()
    read = store.read()
    assert await read.to_list() == []
    assert read.head == ""


async def test_the_head_is_not_told_before_the_end(store: EventStore) -> None:
    read = store.read()
    async for _ in read:
        with pytest.raises(RuntimeError, match="not ended"):
            _ = read.head
    assert read.head == cursor(7)


async def test_a_read_is_iterated_over_once(store: EventStore) -> None:
    read = store.read()
    await read.to_list()
    with pytest.raises(RuntimeError, match="once"):
        await read.to_list()


async def test_a_broken_read_goes_on_behind_the_last_event(server: FakeServer, store: EventStore) -> None:
    server.on_read += [breaking_after(server, 0), breaking_after(server, 2), breaking_after(server, 1)]
    read = store.read()
    assert positions(await read.to_list()) == [1, 2, 3, 4, 5, 6, 7]
    assert read.head == cursor(7)
    assert [request.after for request in server.reads] == ["", "", cursor(4), cursor(6)]


async def test_a_broken_read_keeps_its_limit(server: FakeServer, store: EventStore) -> None:
    server.on_read.append(breaking_after(server, 2))
    read = store.read(limit=5)
    assert positions(await read.to_list()) == [1, 2, 3, 4, 5]
    assert read.head == cursor(5)
    assert [request.limit for request in server.reads] == [5, 1]


async def test_a_read_that_breaks_when_its_limit_is_reached_is_complete(server: FakeServer, store: EventStore) -> None:
    server.on_read.append(breaking_after(server, 2))
    read = store.read(limit=4)
    assert positions(await read.to_list()) == [1, 2, 3, 4]
    assert read.head == cursor(4)
    assert len(server.reads) == 1


async def test_a_broken_backwards_read_goes_on_behind_the_last_event(server: FakeServer, store: EventStore) -> None:
    server.on_read += [breaking_after(server, 1), breaking_after(server, 2)]
    read = store.read(backwards=True, limit=6)
    assert positions(await read.to_list()) == [7, 6, 5, 4, 3, 2]
    assert read.head == cursor(7)


async def test_other_errors_end_a_read(server: FakeServer, store: EventStore) -> None:
    server.on_read.append(breaking_after(server, 1, grpc.StatusCode.OUT_OF_RANGE))
    with pytest.raises(kudurru.CursorOutOfRangeError):
        await store.read().to_list()


async def test_a_read_gives_up_when_nobody_answers(server: FakeServer) -> None:
    await server.stop()
    async with kudurru.connect(server.target, timeout=0.3) as store:
        with pytest.raises(kudurru.UnavailableError):
            await store.read().to_list()


async def test_closing_the_store_cuts_reads_off_with_an_error(server: FakeServer) -> None:
    async def endless(_: pb.ReadRequest, __: Context) -> AsyncIterator[pb.ReadResponse]:
        yield pb.ReadResponse(events=server.recorded[:1])
        await asyncio.Event().wait()

    server.on_read.append(endless)
    async with kudurru.connect(server.target) as store:
        batches = store.read().batches()
        await anext(batches)
        reading = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
    with pytest.raises(kudurru.UnavailableError, match="the store is closed"):
        await reading


async def test_one_event_is_found_by_its_id(server: FakeServer, store: EventStore) -> None:
    assert (await store.get_event(server.ids[2])).position == 3
    with pytest.raises(kudurru.NotFoundError) as raised:
        await store.get_event("nobody")
    assert raised.value.reason is Reason.EVENT_NOT_FOUND


async def test_the_head_of_the_store_is_told(store: EventStore) -> None:
    assert await store.head() == kudurru.Head(cursor(7), 7)


async def test_calls_with_one_answer_are_retried(server: FakeServer, store: EventStore) -> None:
    server.on_head += [refused(grpc.StatusCode.UNAVAILABLE)] * 2
    assert (await store.head()).position == 7


async def test_a_reason_that_is_not_known_yet_is_kept(server: FakeServer, store: EventStore) -> None:
    server.on_head.append(refused(grpc.StatusCode.INTERNAL, "QUANTUM_FLUCTUATION"))
    with pytest.raises(kudurru.ServerError) as raised:
        await store.head()
    assert raised.value.reason == "QUANTUM_FLUCTUATION"


async def test_a_tag_is_told_about(store: EventStore) -> None:
    assert await store.tag("n:3") == kudurru.TagInfo(
        exists=True, first_sortable_unique_id=cursor(4), last_sortable_unique_id=cursor(4), count=None
    )
    assert (await store.tag("n:3", count=True)).count == 1
    assert not (await store.tag("n:9")).exists


async def test_tags_are_listed_over_pages(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A", tags=["plain", "m:1"]))
    assert [tag async for tag in store.tags()] == ["m:1", *(f"n:{n}" for n in range(7)), "plain"]
    assert [tag async for tag in store.tags("m")] == ["m:1"]
    assert [tag async for tag in store.tags("")] == ["plain"]
