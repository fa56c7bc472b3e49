"""Subscriptions: every matching event once and in order, whatever breaks, and an end that is one."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import kudurru
import pytest
from kudurru import CaughtUp, Checkpoint, Event, EventStore, FellBehind, Query, RecordedEvent, Subscription
from kudurru import _subscribe as subscribe
from kudurru._proto import event_store_service_pb2 as pb

from .fake_server import Context, FakeServer, OnSubscribe, cursor, fail, refused


def sending(*responses: pb.SubscribeResponse, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> OnSubscribe:
    """Send messages and break."""

    async def script(_: pb.SubscribeRequest, context: Context) -> AsyncIterator[pb.SubscribeResponse]:
        for response in responses:
            yield response
        await fail(context, refused(code))

    return script


def checkpoint(at: int, head: int) -> pb.SubscribeResponse:
    """Make a checkpoint."""
    return pb.SubscribeResponse(
        checkpoint=pb.Checkpoint(sortable_unique_id=cursor(at), head=cursor(head), lag=head - at)
    )


def events(server: FakeServer, *positions: int) -> pb.SubscribeResponse:
    """Make a message of recorded events."""
    return pb.SubscribeResponse(events=[server.recorded[position - 1] for position in positions])


async def take(subscription: Subscription, count: int) -> list[int]:
    """Return the positions of the next events."""
    positions = []
    async with asyncio.timeout(10):
        async for event in subscription:
            positions.append(event.position)
            if len(positions) == count:
                break
    return positions


async def test_history_comes_first_and_then_what_is_recorded(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"), Event("B"))
    seen: list[object] = []
    async for message in store.subscribe().messages():
        seen.append(message.position if isinstance(message, RecordedEvent) else message)
        if isinstance(message, CaughtUp):
            server.record(Event("C"))
        if message == 3 or len(seen) == 4:
            break
    assert seen == [1, 2, CaughtUp(cursor(2)), 3]


async def test_the_request_says_what_was_asked_for(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"), Event("A"))
    assert await take(store.subscribe(Query.of(types=["A"]), after=cursor(1), heartbeat=0.5), 1) == [2]
    request = server.subscribes[0]
    assert request.query.items[0].event_types == ["A"]
    assert request.after == cursor(1)
    assert request.heartbeat_interval.ToMilliseconds() == 500


async def test_a_broken_subscription_has_no_gap_and_no_repeat(server: FakeServer, store: EventStore) -> None:
    server.record(*(Event("A") for _ in range(6)))
    server.on_subscribe += [
        sending(),
        sending(events(server, 1, 2), events(server, 3)),
        sending(),
        sending(events(server, 4)),
    ]
    assert await take(store.subscribe(), 6) == [1, 2, 3, 4, 5, 6]
    assert [request.after for request in server.subscribes] == ["", "", cursor(3), cursor(3), cursor(4)]


async def test_a_checkpoint_moves_the_point_of_resumption(server: FakeServer, store: EventStore) -> None:
    server.record(*(Event("A") for _ in range(9)))
    server.on_subscribe.append(sending(events(server, 1), checkpoint(5, 9)))
    subscription = store.subscribe(Query.of(types=["A"]))
    assert await take(subscription, 2) == [1, 6]
    assert [request.after for request in server.subscribes] == ["", cursor(5)]


async def test_progress_can_be_asked_for(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"), Event("A"), Event("A"))
    server.on_subscribe.append(sending(events(server, 1), checkpoint(2, 3)))
    subscription = store.subscribe()
    assert (subscription.cursor, subscription.position, subscription.lag) == ("", 0, None)
    seen: list[tuple[str, int, int | None]] = []
    async for message in subscription.messages():
        seen.append((subscription.cursor, subscription.position, subscription.lag))
        if message == Checkpoint(cursor(2), cursor(3), 1):
            break
    assert seen == [(cursor(1), 1, None), (cursor(2), 2, 1)]


async def test_signals_are_messages(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"))
    fell_behind = pb.SubscribeResponse(fell_behind=pb.FellBehind(sortable_unique_id=cursor(1)))
    server.on_subscribe.append(sending(events(server, 1), fell_behind))
    messages = store.subscribe().messages()
    assert isinstance(await anext(messages), RecordedEvent)
    assert await anext(messages) == FellBehind(cursor(1))
    await messages.aclose()


async def test_another_task_can_wait_until_history_is_delivered(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"))
    subscription = store.subscribe()
    seen: list[int] = []

    async def follow() -> None:
        async for event in subscription:
            seen.append(event.position)  # noqa: PERF401 - it never ends

    following = asyncio.ensure_future(follow())
    await subscription.caught_up()
    assert seen == [1]
    await subscription.aclose()
    await following


async def test_from_now_begins_when_the_server_says_so(server: FakeServer, store: EventStore) -> None:
    server.record(Event("before"))
    async with store.subscribe(from_now=True) as subscription:
        server.record(Event("after"))
        assert await take(subscription, 1) == [2]
    assert server.subscribes[0].from_now


async def test_from_now_resumes_where_it_began(server: FakeServer, store: EventStore) -> None:
    server.record(Event("before"))

    async def begin_and_break(_: pb.SubscribeRequest, context: Context) -> AsyncIterator[pb.SubscribeResponse]:
        yield pb.SubscribeResponse(caught_up=pb.CaughtUp(sortable_unique_id=cursor(1)))
        server.record(Event("while nobody was connected"))
        await fail(context, refused(grpc.StatusCode.UNAVAILABLE))

    server.on_subscribe.append(begin_and_break)
    assert await take(store.subscribe(from_now=True), 1) == [2]
    assert [(request.from_now, request.after) for request in server.subscribes] == [(True, ""), (False, cursor(1))]


async def test_from_now_on_an_empty_store_resumes_with_the_first_event(server: FakeServer, store: EventStore) -> None:
    async def begin_and_break(_: pb.SubscribeRequest, context: Context) -> AsyncIterator[pb.SubscribeResponse]:
        yield pb.SubscribeResponse(caught_up=pb.CaughtUp())
        server.record(Event("first"))
        await fail(context, refused(grpc.StatusCode.UNAVAILABLE))

    server.on_subscribe.append(begin_and_break)
    assert await take(store.subscribe(from_now=True), 1) == [1]


async def test_from_now_that_never_began_begins_with_the_connection_that_succeeds(
    server: FakeServer, store: EventStore
) -> None:
    server.on_subscribe.append(sending())
    async with store.subscribe(from_now=True) as subscription:
        server.record(Event("A"))
        assert await take(subscription, 1) == [1]
    assert [request.from_now for request in server.subscribes] == [True, True]


async def test_a_silent_server_is_replaced(
    server: FakeServer, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.record(Event("A"), Event("B"), Event("C"))

    async def silent(*sent: pb.SubscribeResponse) -> AsyncIterator[pb.SubscribeResponse]:
        for response in sent:
            yield response
        await asyncio.Event().wait()

    monkeypatch.setattr(subscribe, "_FIRST_MESSAGE_SECONDS", 0.2)
    server.on_subscribe += [lambda *_: silent(), lambda *_: silent(events(server, 1), events(server, 2))]
    assert await take(store.subscribe(heartbeat=0.02), 3) == [1, 2, 3]


async def test_a_server_that_is_away_is_waited_for(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"))
    subscription = store.subscribe()
    assert await take(subscription, 1) == [1]
    await server.stop()
    following = asyncio.ensure_future(take(subscription, 1))
    server.record(Event("B"))
    await server.start(server.target)
    assert await following == [2]


async def test_iterating_again_goes_on_where_the_last_loop_ended(server: FakeServer, store: EventStore) -> None:
    server.record(*(Event("A") for _ in range(5)))
    subscription = store.subscribe()
    assert await take(subscription, 2) == [1, 2]
    assert await take(subscription, 3) == [3, 4, 5]


async def test_other_errors_end_a_subscription(server: FakeServer, store: EventStore) -> None:
    server.on_subscribe.append(sending(code=grpc.StatusCode.OUT_OF_RANGE))
    with pytest.raises(kudurru.CursorOutOfRangeError):
        await take(store.subscribe(after=cursor(9)), 1)


async def test_breaking_out_of_the_loop_ends_the_call(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"))
    async for _ in store.subscribe():
        break
    async with asyncio.timeout(5):
        await server.cancelled.wait()


async def test_cancelling_the_task_ends_the_call(server: FakeServer, store: EventStore) -> None:
    subscription = store.subscribe()
    following = asyncio.ensure_future(take(subscription, 1))
    await subscription.caught_up()
    following.cancel()
    async with asyncio.timeout(5):
        await server.cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_closing_ends_the_loop(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"))
    subscription = store.subscribe()
    following = asyncio.ensure_future(take(subscription, 2))
    await subscription.caught_up()
    await subscription.aclose()
    assert await following == [1]
    async with asyncio.timeout(5):
        await server.cancelled.wait()


async def test_closing_ends_the_loop_while_the_server_is_away(server: FakeServer, store: EventStore) -> None:
    subscription = store.subscribe()
    following = asyncio.ensure_future(take(subscription, 1))
    await subscription.caught_up()
    await server.stop()
    await subscription.aclose()
    async with asyncio.timeout(5):
        assert await following == []


async def test_closing_the_store_ends_the_loop(server: FakeServer) -> None:
    server.record(Event("A"))
    async with kudurru.connect(server.target) as store:
        subscription = store.subscribe()
        following = asyncio.ensure_future(take(subscription, 2))
        await subscription.caught_up()
    assert await following == [1]


async def test_a_subscription_begins_in_one_place(store: EventStore) -> None:
    with pytest.raises(ValueError, match="not both"):
        store.subscribe(after=cursor(1), from_now=True)
