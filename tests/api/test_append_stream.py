"""AppendStream: outcomes in order, errors for their own append only, and every way a stream can end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from kudurru_server._proto import event_store_service_pb2 as pb

from tests.api.nodes import PATIENCE_SECONDS, Stub, failure_of, listen, make_stub, read, run_engine_in
from tests.builders import event, request, unless, uuid4, uuid7

pytestmark = pytest.mark.asyncio(loop_scope="module")


def message(*appends: pb.AppendRequest) -> pb.AppendStreamRequest:
    return pb.AppendStreamRequest(appends=appends)


async def send(stub: Stub, *messages: pb.AppendStreamRequest) -> list[pb.AppendOutcome]:
    """Send messages, close, and return all outcomes."""

    async def requests() -> AsyncIterator[pb.AppendStreamRequest]:
        for one in messages:
            yield one

    call = stub.AppendStream(requests(), timeout=PATIENCE_SECONDS)
    return [outcome async for answer in call for outcome in answer.outcomes]


def reasons(outcomes: Sequence[pb.AppendOutcome]) -> list[str]:
    """Return the reason of each error, and `appended` for the rest."""
    found = []
    for outcome in outcomes:
        info = error_details_pb2.ErrorInfo(reason="appended")
        if outcome.HasField("error"):
            (detail,) = outcome.error.details
            assert detail.Unpack(info)
            assert info.domain == "kudurru"
            assert outcome.error.message
        found.append(info.reason)
    return found


async def test_outcomes_come_in_the_order_of_the_appends(stub: Stub) -> None:
    appends = [[request(event("A", f"m:{number}")) for _ in range(20)] for number in range(30)]
    outcomes = await send(stub, *(message(*some) for some in appends))
    sent = [one.events[0].event_id for some in appends for one in some]
    assert [outcome.appended.event_ids[0] for outcome in outcomes] == sent


async def test_an_error_is_that_of_append_and_fails_nothing_else(stub: Stub) -> None:
    own, known = f"own:{uuid4()}", event("A", "known")
    await stub.Append(request(known, event("A", own)))
    bad = [
        request(event("")),
        request(event("B", own), conditions=[unless(((), (own,)))]),
        request(known),
        request(),
        request(event(), conditions=[unless(after="9" * 30)]),
        request(event(event_id=uuid7(10**18))),
    ]
    good = [request(event("Good")) for _ in bad]
    outcomes = await send(stub, message(*(one for pair in zip(bad, good, strict=True) for one in pair)))
    assert reasons(outcomes[1::2]) == ["appended"] * 6
    expected = []
    for one in bad:
        with pytest.raises(grpc.RpcError) as error:
            await stub.Append(one)
        expected.append((failure_of(error.value).reason, failure_of(error.value).code.value[0]))
    assert [(reason, one.error.code) for reason, one in zip(reasons(outcomes[::2]), outcomes[::2], strict=True)] == (
        expected
    )


async def test_appends_of_a_message_see_those_before_them(stub: Stub) -> None:
    own = f"own:{uuid4()}"
    same = request(event("A", own), conditions=[unless(((), (own,)))])
    outcomes = await send(stub, message(same, request(event("B"), conditions=[unless(((), (own,)))]), same))
    assert reasons(outcomes) == ["appended", "CONDITION_FAILED", "appended"]
    assert outcomes[2].appended.already_committed
    assert outcomes[2].appended.sortable_unique_ids == outcomes[0].appended.sortable_unique_ids


async def test_empty_messages_and_empty_streams_are_fine(stub: Stub) -> None:
    assert await send(stub) == []
    assert reasons(await send(stub, message(), message(request(event())), message())) == ["appended"]


@pytest.mark.parametrize("what", ["appends", "bytes"])
async def test_a_message_at_its_limit_passes_and_one_above_ends_the_stream_after_earlier_outcomes(
    stub: Stub, what: str
) -> None:
    if what == "appends":
        edge = [request(event(event_id=uuid4())) for _ in range(1024)]
        above = [*edge, request(event())]
    else:
        edge = [request(event(data=bytes(1 << 20))) for _ in range(3)]
        above = [request(event(data=bytes(1 << 20))) for _ in range(4)]
    assert reasons(await send(stub, message(*edge))) == ["appended"] * len(edge)
    before, after = request(event("Before")), request(event("After"))
    received: list[pb.AppendOutcome] = []

    async def requests() -> AsyncIterator[pb.AppendStreamRequest]:
        for one in (message(before), message(*above), message(after)):
            yield one

    call = stub.AppendStream(requests(), timeout=PATIENCE_SECONDS)
    with pytest.raises(grpc.RpcError) as error:  # noqa: PT012 - the loop is what fails
        async for answer in call:
            received += answer.outcomes
    failure = failure_of(error.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
    assert reasons(received) == ["appended"]
    with pytest.raises(grpc.RpcError):
        await stub.GetEvent(pb.GetEventRequest(event_id=after.events[0].event_id))


async def test_a_broken_message_ends_the_stream_after_earlier_outcomes(grpc_channel: grpc.aio.Channel) -> None:
    call: Any = grpc_channel.stream_stream("/kudurru.v1.EventStoreService/AppendStream")()
    await call.write(message(request(event())).SerializeToString())
    await call.write(b"\xff\xff")
    answer = pb.AppendStreamResponse.FromString(await call.read())
    assert reasons(answer.outcomes) == ["appended"]
    with pytest.raises(grpc.RpcError) as error:
        await call.read()
    assert failure_of(error.value).reason == "FIELD_INVALID"


async def test_outcomes_do_not_wait_for_later_messages(stub: Stub) -> None:
    call = stub.AppendStream(timeout=PATIENCE_SECONDS)
    for _ in range(5):
        await call.write(message(request(event())))
        answer = await call.read()
        assert isinstance(answer, pb.AppendStreamResponse)
        assert reasons(answer.outcomes) == ["appended"]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_cancelled_mid_way_fails_nobody_and_may_be_repeated(stub: Stub) -> None:
    own = f"own:{uuid4()}"
    appends = [request(event("A", own)) for _ in range(500)]
    call = stub.AppendStream(timeout=PATIENCE_SECONDS)
    others = [asyncio.ensure_future(stub.Append(request(event()), timeout=PATIENCE_SECONDS)) for _ in range(50)]
    for start in range(0, 500, 50):
        await call.write(message(*appends[start : start + 50]))
    await call.read()
    call.cancel()
    await asyncio.gather(*others)
    outcomes = await send(stub, message(*appends))
    assert reasons(outcomes) == ["appended"] * 500
    answer = await stub.GetTag(pb.GetTagRequest(tag=own, with_count=True))
    assert answer.count == 500


async def test_shutting_down_ends_the_stream_after_what_was_sent_is_answered(tmp_path: Path) -> None:
    async with (
        run_engine_in(tmp_path / "data") as engine,
        listen(engine) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = make_stub(channel).AppendStream(timeout=PATIENCE_SECONDS)
        await call.write(message(request(event())))
        answer = await call.read()
        assert isinstance(answer, pb.AppendStreamResponse)
        await engine.drain()
        with pytest.raises(grpc.RpcError) as error:
            await call.read()
        failure = failure_of(error.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        for unary in (make_stub(channel).Append(request(event())),):
            with pytest.raises(grpc.RpcError) as error:
                await unary
            assert failure_of(error.value).reason == "SHUTTING_DOWN"
        assert len((await read(make_stub(channel)))[0]) == 1
