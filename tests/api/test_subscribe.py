"""Subscribe through the wire: events once and in order, and news in between."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.engine.engine import EngineOptions, run_engine
from kudurru_server.settings import Settings
from kudurru_server.storage.sqlite.store import open_storage

from tests.api.nodes import PATIENCE_SECONDS, Stub, failure_of, listen, make_stub, positions, serve
from tests.builders import event, query_message, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

TICK = Duration(nanos=20_000_000)


async def take(call: AsyncIterator[pb.SubscribeResponse], until: str | int) -> list[pb.SubscribeResponse]:
    """Take messages until there are so many events or until this signal comes."""
    found: list[pb.SubscribeResponse] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for message in call:
            found.append(message)
            signal = message.WhichOneof("signal")
            if signal == until or sum(len(one.events) for one in found) == until:
                break
    return found


async def test_history_caught_up_live_and_checkpoints(stub: Stub) -> None:
    own = f"own:{uuid.uuid4()}"
    asked = query_message(((frozenset(), frozenset((own,))),))
    events = [event("A", own) for _ in range(3)]
    first = await stub.Append(request(*events, event("Other")))
    call = stub.Subscribe(pb.SubscribeRequest(query=asked, heartbeat_interval=TICK))
    messages = await take(aiter(call), "caught_up")
    assert [one.event for message in messages for one in message.events] == events
    assert messages[-1].caught_up.sortable_unique_id == first.sortable_unique_ids[-1]
    live = await stub.Append(request(event("B", own), event("Other")))
    messages = await take(aiter(call), 1)
    assert positions(messages[-1].events) == [live.last_position - 1]
    (*_, last) = await take(aiter(call), "checkpoint")
    assert last.checkpoint.sortable_unique_id == last.checkpoint.head == live.sortable_unique_ids[-1]
    assert last.checkpoint.lag == 0
    call.cancel()


async def test_from_now_and_after_say_where_to_begin(stub: Stub) -> None:
    first = await stub.Append(request(event("A"), event("B")))
    now = stub.Subscribe(pb.SubscribeRequest(from_now=True))
    after = stub.Subscribe(pb.SubscribeRequest(after=first.sortable_unique_ids[0]))
    (caught_up,) = await take(aiter(now), "caught_up")
    assert caught_up.caught_up.sortable_unique_id == first.sortable_unique_ids[1]
    messages = await take(aiter(after), "caught_up")
    assert [position for one in messages for position in positions(one.events)] == [first.last_position]
    from_start = stub.Subscribe(pb.SubscribeRequest(from_now=False))
    messages = await take(aiter(from_start), "caught_up")
    assert [position for one in messages for position in positions(one.events)] == list(
        range(1, first.last_position + 1)
    )
    for call in (now, after, from_start):
        call.cancel()


async def test_a_heartbeat_below_ten_milliseconds_is_refused(stub: Stub) -> None:
    for interval in (Duration(), Duration(nanos=9_999_999), Duration(seconds=-1)):
        with pytest.raises(grpc.RpcError) as error:
            await stub.Subscribe(pb.SubscribeRequest(heartbeat_interval=interval)).read()
        failure = failure_of(error.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
        assert failure.metadata["field"] == "heartbeat_interval"
    for interval in (Duration(nanos=10_000_000), Duration(seconds=315_576_000_000)):
        call = stub.Subscribe(pb.SubscribeRequest(heartbeat_interval=interval))
        await take(aiter(call), "caught_up")
        call.cancel()


async def test_many_subscribers_get_everything_while_some_leave(tmp_path: Path) -> None:
    async with serve(tmp_path / "data", EngineOptions(tail_bytes=1)) as stub:
        calls = [stub.Subscribe(pb.SubscribeRequest(heartbeat_interval=TICK)) for _ in range(30)]
        readers = [asyncio.ensure_future(take(aiter(call), 300)) for call in calls]
        for number in range(100):
            await stub.Append(request(event(), event(), event()))
            if number % 10 == 5:
                calls[number // 10].cancel()
        for number, reader in enumerate(readers):
            if number < 10:
                await asyncio.wait([reader], timeout=PATIENCE_SECONDS)
                continue
            got = [position for one in await reader for position in positions(one.events)]
            assert got == list(range(1, 301))
            calls[number].cancel()


async def test_shutting_down_ends_subscriptions_and_waiting_reads(tmp_path: Path) -> None:
    async with (
        open_storage(tmp_path / "data") as storage,
        run_engine(storage, bytes.__eq__) as engine,
        listen(engine, Settings()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = make_stub(channel)
        call = stub.Subscribe(pb.SubscribeRequest())
        await take(aiter(call), "caught_up")
        waiting = stub.Read(pb.ReadRequest(at_least="9" * 30), timeout=PATIENCE_SECONDS)
        reading = asyncio.ensure_future(waiting.read())
        await stub.GetHead(pb.GetHeadRequest())
        await engine.drain()
        for one in (asyncio.ensure_future(take(aiter(call), "checkpoint")), reading):
            with pytest.raises(grpc.RpcError) as error:
                await asyncio.wait_for(one, PATIENCE_SECONDS)
            failure = failure_of(error.value)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_health_knows_no_service_that_is_not_there(grpc_channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(grpc_channel)
    with pytest.raises(grpc.RpcError) as error:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody.knows"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_every_service(grpc_channel: grpc.aio.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(grpc_channel)  # type: ignore[arg-type]

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="kudurru.v1.EventStoreService")

    answers = [answer async for answer in stub.ServerReflectionInfo(requests(), timeout=PATIENCE_SECONDS)]
    assert {"kudurru.v1.EventStoreService", "grpc.health.v1.Health"} <= {
        service.name for service in answers[0].list_services_response.service
    }
    assert answers[1].file_descriptor_response.file_descriptor_proto
