"""Appends: batching, retries, and what is known when one fails."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import kudurru
import pytest
from kudurru import Condition, Event, EventStore, Query, Reason
from kudurru import _append_stream as append_stream
from kudurru._proto import event_store_service_pb2 as pb

from .fake_server import Appends, Context, FakeServer, OnAppend, cursor, fail, refused

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ANYTHING = Query.all()


def answering(code: grpc.StatusCode, reason: str = "", **metadata: str) -> OnAppend:
    """Refuse an append."""
    return lambda _: pb.AppendOutcome(error=refused(code, reason, **metadata))


async def test_an_append_says_where_its_events_are(server: FakeServer, store: EventStore) -> None:
    server.record(Event("Earlier"))
    first, second = Event("A"), Event("B")
    appended = await store.append([first, second])
    assert appended.event_ids == (first.event_id, second.event_id)
    assert appended.sortable_unique_ids == (cursor(2), cursor(3))
    assert appended.head == cursor(3)
    assert appended.last_position == 3
    assert not appended.already_committed


async def test_every_field_of_an_event_arrives(server: FakeServer, store: EventStore) -> None:
    event = Event("A", b"\x00\xff", tags=["b:2", "a:1"], content_type="x/y", metadata={"k": "v"})
    await store.append(event)
    recorded = await store.get_event(event.event_id)
    assert (recorded.event_id, recorded.event_type, recorded.tags, recorded.data, recorded.content_type) == (
        event.event_id,
        "A",
        ("b:2", "a:1"),
        b"\x00\xff",
        "x/y",
    )
    assert recorded.metadata == {"k": "v"}
    assert recorded.position == 1
    assert server.ids == [event.event_id]


async def test_appending_the_same_event_again_is_recognised(store: EventStore) -> None:
    event = Event("A")
    first = await store.append(event)
    again = await store.append(event)
    assert again.already_committed
    assert again.sortable_unique_ids == first.sortable_unique_ids


async def test_one_append_goes_at_once(server: FakeServer, store: EventStore) -> None:
    await store.append(Event("A"))
    await store.append(Event("B"))
    assert [len(message.appends) for message in server.messages] == [1, 1]


async def test_concurrent_appends_travel_together(server: FakeServer, store: EventStore) -> None:
    appended = await asyncio.gather(*(store.append(Event(str(n))) for n in range(3000)))
    assert [one.last_position for one in appended] == list(range(1, 3001))
    assert [len(message.appends) for message in server.messages] == [1024, 1024, 952]


async def test_a_message_stays_under_four_mebibytes(server: FakeServer, store: EventStore) -> None:
    await asyncio.gather(*(store.append(Event("A", bytes(1_000_000))) for _ in range(10)))
    assert [len(message.appends) for message in server.messages] == [4, 4, 2]
    assert max(message.ByteSize() for message in server.messages) <= append_stream.MAX_MESSAGE_BYTES


async def test_an_append_too_large_for_a_stream_message_fails_alone(server: FakeServer, store: EventStore) -> None:
    large = store.append([Event("Large", bytes(1_048_576)) for _ in range(4)])
    outcome, small = await asyncio.gather(large, store.append(Event("Small")), return_exceptions=True)
    assert isinstance(outcome, kudurru.OverloadedError)  # gRPC's own limit; the real server raises it
    assert isinstance(small, kudurru.Appended)
    assert [event.event.event_type for event in server.recorded] == ["Small"]


async def test_outcomes_may_be_split_over_messages(server: FakeServer, store: EventStore) -> None:
    async def one_by_one(appends: Appends, _: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        async for message in appends:
            for one in message.appends:
                yield pb.AppendStreamResponse(outcomes=[server.append(one)])

    server.on_append_stream.append(one_by_one)
    appended = await asyncio.gather(*(store.append(Event(str(n))) for n in range(100)))
    assert [one.last_position for one in appended] == list(range(1, 101))


async def test_few_messages_are_under_way_at_a_time(server: FakeServer, store: EventStore) -> None:
    received: list[int] = []
    go_on = asyncio.Event()

    async def stalled(appends: Appends, _: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        waiting = []
        async for message in appends:
            received.append(len(message.appends))
            waiting.append(message)
            if len(received) == 4:
                await go_on.wait()
            if len(received) >= 4:
                while waiting:
                    yield pb.AppendStreamResponse(outcomes=map(server.append, waiting.pop(0).appends))

    server.on_append_stream.append(stalled)
    appends = []
    for n in range(4):
        appends.append(asyncio.ensure_future(store.append(Event(str(n)))))
        async with asyncio.timeout(5):
            while len(received) <= n:  # noqa: ASYNC110 - the server's list
                await asyncio.sleep(0)
    appends += [asyncio.ensure_future(store.append(Event(str(n)))) for n in range(4, 50)]
    go_on.set()
    await asyncio.gather(*appends)
    assert received == [1, 1, 1, 1, 46]


async def test_a_conflict_fails_only_its_own_append(server: FakeServer, store: EventStore) -> None:
    server.record(Event("CourseDefined", tags=["course:c1"]))
    defined = Query.of(types=["CourseDefined"], tags=["course:c1"])
    conflict, fine = await asyncio.gather(
        store.append(Event("CourseDefined"), condition=[Condition(Query.of(types=["Never"])), Condition(defined)]),
        store.append(Event("Other"), condition=Condition(defined, after=cursor(1))),
        return_exceptions=True,
    )
    assert isinstance(conflict, kudurru.ConditionFailedError)
    assert conflict.reason is Reason.CONDITION_FAILED
    assert (conflict.condition_index, conflict.position, conflict.sortable_unique_id) == (1, 1, cursor(1))
    assert (conflict.event_id, conflict.event_type) == (server.ids[0], "CourseDefined")
    assert isinstance(fine, kudurru.Appended)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_EXISTS", kudurru.EventIdExistsError),
        (grpc.StatusCode.INVALID_ARGUMENT, "TAG_INVALID", kudurru.InvalidRequestError),
        (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_OUT_OF_RANGE", kudurru.CursorOutOfRangeError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", kudurru.OverloadedError),
    ],
)
async def test_a_refusal_is_raised_at_once(
    server: FakeServer, store: EventStore, code: grpc.StatusCode, reason: str, kind: type[kudurru.KudurruError]
) -> None:
    server.on_append.append(answering(code, reason, event_index="0"))
    with pytest.raises(kind) as raised:
        await store.append(Event("A"))
    assert raised.value.reason is Reason(reason)
    assert raised.value.metadata == {"event_index": "0"}


async def test_unavailable_is_retried_with_the_same_ids(server: FakeServer, store: EventStore) -> None:
    server.on_append += [answering(UNAVAILABLE, "STORAGE_UNAVAILABLE"), answering(UNAVAILABLE)]
    event = Event("A")
    assert not (await store.append(event)).already_committed
    assert [message.appends[0].events[0].event_id for message in server.messages] == [event.event_id] * 3


async def test_a_stream_that_breaks_after_the_write_took_effect_records_once(
    server: FakeServer, store: EventStore
) -> None:
    async def record_and_break(appends: Appends, context: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        message = await anext(appends)
        yield pb.AppendStreamResponse(outcomes=[server.append(message.appends[0])])
        server.append(message.appends[1])
        await fail(context, refused(UNAVAILABLE))

    server.on_append_stream.append(record_and_break)
    events = [Event("A"), Event("B"), Event("C")]
    appended = await asyncio.gather(*map(store.append, events))
    assert [one.already_committed for one in appended] == [False, True, False]
    assert server.ids == [event.event_id for event in events]


async def test_a_server_that_comes_back_is_found_again(server: FakeServer, store: EventStore) -> None:
    await store.append(Event("A"))
    await server.stop()
    waiting = [asyncio.ensure_future(store.append(Event(str(n)))) for n in range(10)]
    await server.start(server.target)
    assert {one.last_position for one in await asyncio.gather(*waiting)} == set(range(2, 12))


async def test_a_stream_that_ends_cleanly_is_replaced(server: FakeServer, store: EventStore) -> None:
    async def one_message(appends: Appends, _: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        message = await anext(appends)
        yield pb.AppendStreamResponse(outcomes=map(server.append, message.appends))

    server.on_append_stream += [one_message, one_message]
    for n in range(3):
        assert (await store.append(Event(str(n)))).last_position == n + 1


async def test_a_stream_without_a_word_is_replaced(
    server: FakeServer, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_stream, "_SILENCE_SECONDS", 0.1)

    async def silent(appends: Appends, _: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        async for _message in appends:
            pass
        yield pb.AppendStreamResponse()

    server.on_append_stream.append(silent)
    assert (await store.append(Event("A"))).last_position == 1


@pytest.mark.parametrize(
    "refusal",
    [
        answering(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        answering(grpc.StatusCode.INVALID_ARGUMENT, "EVENT_ID_IN_FUTURE"),
        answering(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_OUT_OF_RANGE"),
        answering(grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_EXISTS"),
        answering(grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_a_refusal_after_an_unknown_outcome_leaves_it_unknown(
    server: FakeServer, store: EventStore, refusal: OnAppend
) -> None:
    server.on_append += [answering(UNAVAILABLE), refusal]
    with pytest.raises(kudurru.OutcomeUnknownError):
        await store.append(Event("A"))


async def test_a_refusal_after_a_broken_stream_leaves_the_outcome_unknown(
    server: FakeServer, store: EventStore
) -> None:
    async def swallow(appends: Appends, context: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        await anext(appends)
        await fail(context, refused(UNAVAILABLE))
        yield pb.AppendStreamResponse()

    server.on_append_stream.append(swallow)
    server.on_append.append(answering(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"))
    with pytest.raises(kudurru.OutcomeUnknownError) as raised:
        await store.append(Event("A"))
    assert raised.value.reason is Reason.OVERLOADED


async def test_a_conflict_after_an_unknown_outcome_settles_it(server: FakeServer, store: EventStore) -> None:
    server.record(Event("A"))
    server.on_append += [answering(UNAVAILABLE)]
    with pytest.raises(kudurru.ConditionFailedError):
        await store.append(Event("B"), condition=Condition(ANYTHING))


async def test_an_acknowledgement_after_an_unknown_outcome_settles_it(server: FakeServer, store: EventStore) -> None:
    def record_and_lose(request: pb.AppendRequest) -> pb.AppendOutcome:
        server.append(request)
        return pb.AppendOutcome(error=refused(UNAVAILABLE))

    server.on_append.append(record_and_lose)
    appended = await store.append(Event("B"), condition=Condition(ANYTHING))
    assert appended.already_committed


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL]
)
async def test_other_unknown_outcomes_are_the_callers_to_retry(
    server: FakeServer, store: EventStore, code: grpc.StatusCode
) -> None:
    server.on_append.append(answering(code))
    with pytest.raises(kudurru.OutcomeUnknownError):
        await store.append(Event("A"))
    assert len(server.messages) == 1


async def test_a_timeout_on_the_way_is_an_unknown_outcome(server: FakeServer, store: EventStore) -> None:
    await store.append(Event("A"))
    asked = asyncio.Event()

    async def never(_: pb.AppendRequest) -> pb.AppendOutcome:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    server.on_append.append(never)
    with pytest.raises(kudurru.OutcomeUnknownError, match=r"no outcome within 0\.2 s"):
        await store.append(Event("B"), timeout=0.2)
    assert asked.is_set()


async def test_a_timeout_before_anything_was_sent_is_a_known_outcome(server: FakeServer, store: EventStore) -> None:
    await server.stop()
    with pytest.raises(kudurru.UnavailableError, match="nothing was sent"):
        await store.append(Event("A"), timeout=0.3)


async def test_retries_end_with_the_timeout(server: FakeServer, store: EventStore) -> None:
    server.on_append += [answering(UNAVAILABLE, "STORAGE_UNAVAILABLE")] * 100
    with pytest.raises(kudurru.OutcomeUnknownError) as raised:
        await store.append(Event("A"), timeout=0.3)
    assert raised.value.reason is Reason.STORAGE_UNAVAILABLE


async def test_a_caller_that_leaves_disturbs_no_other(server: FakeServer, store: EventStore) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def stall(request: pb.AppendRequest) -> pb.AppendOutcome:
        asked.set()
        await go_on.wait()
        return server.append(request)

    server.on_append.append(stall)
    sent = [asyncio.ensure_future(store.append(Event("first")))]
    await asked.wait()
    sent += [asyncio.ensure_future(store.append(Event(str(n)))) for n in range(20)]
    late = asyncio.ensure_future(store.append(Event("late"), timeout=0.01))
    with pytest.raises(kudurru.OutcomeUnknownError):
        await late
    for task in sent[0:21:3]:
        task.cancel()
    go_on.set()
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in outcomes] == [n % 3 == 0 for n in range(21)]
    kept = {one.event_ids[0]: one.last_position for one in outcomes if isinstance(one, kudurru.Appended)}
    assert kept == {event_id: n for n, event_id in enumerate(server.ids, 1) if event_id in kept}


async def test_an_append_that_is_abandoned_before_it_was_sent_is_never_sent(
    server: FakeServer, store: EventStore
) -> None:
    await server.stop()
    abandoned = asyncio.ensure_future(store.append(Event("abandoned")))
    kept = asyncio.ensure_future(store.append(Event("kept")))
    await asyncio.sleep(0)
    abandoned.cancel()
    await server.start(server.target)
    await kept
    assert [event.event.event_type for event in server.recorded] == ["kept"]


async def test_closing_the_store_tells_what_is_known(server: FakeServer) -> None:
    asked = asyncio.Event()

    async def never(_: pb.AppendRequest) -> pb.AppendOutcome:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    server.on_append.append(never)
    async with kudurru.connect(server.target) as store:
        on_the_way = asyncio.ensure_future(store.append(Event("A")))
        await asked.wait()
    with pytest.raises(kudurru.OutcomeUnknownError, match="the store is closed"):
        await on_the_way
    with pytest.raises(RuntimeError, match="not open"):
        await store.append(Event("B"))


async def test_a_write_to_a_connection_that_was_just_lost_is_retried(server: FakeServer, store: EventStore) -> None:
    async def lost(appends: Appends, context: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        await anext(appends)
        await context.abort(grpc.StatusCode.INTERNAL, "as grpc.aio reports it: without details")
        yield pb.AppendStreamResponse()

    server.on_append_stream.append(lost)
    assert (await store.append(Event("A"))).last_position == 1


async def test_a_fault_of_the_server_is_not_retried(server: FakeServer, store: EventStore) -> None:
    async def fault(appends: Appends, context: Context) -> AsyncIterator[pb.AppendStreamResponse]:
        await anext(appends)
        await fail(context, refused(grpc.StatusCode.INTERNAL, "INTERNAL"))
        yield pb.AppendStreamResponse()

    server.on_append_stream.append(fault)
    with pytest.raises(kudurru.OutcomeUnknownError) as raised:
        await store.append(Event("A"))
    assert raised.value.reason is Reason.INTERNAL


async def test_appends_go_through_a_socket_file(tmp_path: Path) -> None:
    server = FakeServer()
    await server.start(f"unix:{tmp_path}/socket")
    async with kudurru.connect(server.target) as store:
        assert (await store.append(Event("A"))).last_position == 1
    await server.stop()


async def test_a_server_of_another_kind_is_not_retried() -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    async with kudurru.connect(f"127.0.0.1:{port}") as store:
        with pytest.raises(kudurru.ServerError):
            await store.append(Event("A"))
    await other.stop(None)
