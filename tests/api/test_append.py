"""Append: atomic, conditional, idempotent, and fair to everybody else."""

import asyncio
import uuid

import grpc
import pytest
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server._proto.event_pb2 import Event

from tests.api.nodes import PATIENCE_SECONDS, Node, Stub, failure_of, make_stub, read
from tests.builders import event, query_message, request, unless, uuid4, uuid7

pytestmark = pytest.mark.asyncio(loop_scope="module")


def tag() -> str:
    """Return a tag of this test's own."""
    return f"own:{uuid.uuid4()}"


def about(own: str) -> pb.ReadRequest:
    return pb.ReadRequest(query=query_message(((frozenset(), frozenset((own,))),)))


async def test_an_append_is_answered_with_ids_and_adjacent_positions(stub: Stub) -> None:
    own = tag()
    events = [event("A", own, data=b"1"), event("B", own, "é☃", data=b"2"), event("C", own)]
    answer = await stub.Append(request(*events))
    head = await stub.GetHead(pb.GetHeadRequest())
    assert list(answer.event_ids) == [one.event_id for one in events]
    assert not answer.already_committed
    assert answer.last_position == head.position
    assert answer.sortable_unique_ids[-1] == head.sortable_unique_id
    found, _ = await read(stub, about(own))
    assert [one.event for one in found] == events
    assert [one.sortable_unique_id for one in found] == list(answer.sortable_unique_ids)
    assert [one.position for one in found] == list(range(head.position - 2, head.position + 1))
    assert len({str(one.recorded_at) for one in found}) == 1


async def test_ids_that_are_missing_are_made_by_the_server(stub: Stub) -> None:
    own, given = tag(), uuid7()
    answer = await stub.Append(
        request(Event(event_type="A", tags=[own]), Event(event_type="B", tags=[own], event_id=given))
    )
    assert answer.event_ids[1] == given
    assert uuid.UUID(answer.event_ids[0]).version == 7
    found, _ = await read(stub, about(own))
    assert [one.event.event_id for one in found] == list(answer.event_ids)


async def test_upper_case_ids_are_those_in_lower_case(stub: Stub) -> None:
    one = event("A", tag())
    lower = one.event_id
    one.event_id = lower.upper()
    answer = await stub.Append(request(one))
    assert list(answer.event_ids) == [lower]
    one.event_id = lower
    assert (await stub.Append(request(one))).already_committed
    assert (await stub.GetEvent(pb.GetEventRequest(event_id=lower.upper()))).event.event.event_id == lower


async def test_a_retry_is_answered_as_the_first_attempt_was(stub: Stub) -> None:
    events = [event("A", "t:1", "t:2", data=b"d"), event("B")]
    events[0].metadata.update({"a": "1", "b": "2"})
    first = await stub.Append(request(*events))
    reordered = Event()
    reordered.CopyFrom(events[0])
    reordered.tags[:] = ["t:2", "t:1"]
    again = await stub.Append(request(reordered, events[1], conditions=[unless()]))
    assert again.already_committed
    again.already_committed = False
    assert again == first


@pytest.mark.parametrize("change", ["subset", "superset", "order", "data", "tags", "type", "content_type", "metadata"])
async def test_ids_that_are_recorded_cannot_be_used_otherwise(stub: Stub, change: str) -> None:
    own = tag()
    a, b = event("A", own, data=b"secret payload"), event("B", own)
    first = await stub.Append(request(a, b))
    other = Event()
    other.CopyFrom(a)
    if change in ("data", "type", "content_type"):
        setattr(other, {"type": "event_type"}.get(change, change), b"x" if change == "data" else "x")
    elif change == "tags":
        other.tags.append("more")
    elif change == "metadata":
        other.metadata["k"] = "v"
    events = {"subset": [a], "superset": [a, b, event()], "order": [b, a]}.get(change, [other, b])
    with pytest.raises(grpc.RpcError) as error:
        await stub.Append(request(*events))
    failure = failure_of(error.value)
    assert failure.code is grpc.StatusCode.ALREADY_EXISTS
    assert failure.reason == "EVENT_ID_EXISTS"
    assert failure.metadata["event_id"] in first.event_ids
    assert "secret" not in failure.message + str(failure.metadata)
    assert len((await read(stub, about(own)))[0]) == 2


async def test_a_conflict_tells_where_and_never_what(stub: Stub) -> None:
    own = tag()
    seat = Event(event_type="Seat", tags=[own, "private:tag"], data=b"secret payload", event_id=uuid4())
    seat.metadata["note"] = "secret"
    first = await stub.Append(request(seat))
    with pytest.raises(grpc.RpcError) as error:
        await stub.Append(request(event(), conditions=[unless((("None",), ())), unless(((), (own,)))]))
    failure = failure_of(error.value)
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "CONDITION_FAILED"
    assert failure.metadata == {
        "condition_index": "1",
        "sortable_unique_id": first.sortable_unique_ids[0],
        "position": str(first.last_position),
        "event_id": seat.event_id,
        "event_type": "Seat",
    }
    assert "secret" not in failure.message
    assert "private" not in failure.message


async def test_a_refused_append_writes_nothing(stub: Stub) -> None:
    own = tag()
    await stub.Append(request(event("A", own)))
    head = await stub.GetHead(pb.GetHeadRequest())
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            await stub.Append(request(event("B", own), event("C"), conditions=[unless(((), (own,)))]))
    assert await stub.GetHead(pb.GetHeadRequest()) == head


async def test_an_append_is_visible_at_once(stub: Stub) -> None:
    for _ in range(20):
        own = tag()
        answer = await stub.Append(request(event("A", own)))
        assert [one.position for one in (await read(stub, about(own)))[0]] == [answer.last_position]
        assert (await stub.GetEvent(pb.GetEventRequest(event_id=answer.event_ids[0]))).event.position == (
            answer.last_position
        )
        assert (await stub.GetTag(pb.GetTagRequest(tag=own, with_count=True))).count == 1


async def test_of_racers_behind_a_barrier_exactly_one_commits(grpc_server: Node) -> None:
    racers, rounds = 6, 25
    channels = [
        grpc.aio.insecure_channel(grpc_server.address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(racers)
    ]
    stubs = list(map(make_stub, channels))

    for _ in range(rounds):
        own, barrier = tag(), asyncio.Barrier(racers)
        won = await asyncio.gather(*(race(stub, own, barrier) for stub in stubs))
        assert sum(won) == 1
        assert len((await read(stubs[0], about(own)))[0]) == 1
    for channel in channels:
        await channel.close()


async def race(stub: Stub, own: str, barrier: asyncio.Barrier) -> bool:
    """Append a tag on the condition that nobody has."""
    await barrier.wait()
    try:
        await stub.Append(request(event("Seat", own), conditions=[unless(((), (own,)))]))
    except grpc.RpcError as error:
        assert failure_of(error).code is grpc.StatusCode.FAILED_PRECONDITION  # noqa: PT017 - losing is one way
        return False
    return True


async def test_clients_that_cancel_or_time_out_fail_nobody_else(stub: Stub) -> None:
    own = tag()
    given = [event("A", own) for _ in range(240)]
    calls = [
        stub.Append(request(one), timeout=0.000_01 if number % 5 == 1 else PATIENCE_SECONDS)
        for number, one in enumerate(given)
    ]
    await asyncio.sleep(0)
    for call in calls[2::5]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number % 5 not in (1, 2):
            assert isinstance(outcome, pb.AppendResponse), outcome
    # Who left may retry, and is recorded once.
    for one in given:
        await stub.Append(request(one))
    found, _ = await read(stub, about(own))
    assert sorted(one.event.event_id for one in found) == sorted(one.event_id for one in given)
