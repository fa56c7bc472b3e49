"""The cost of a call, in its trailers, for who asks: whether it answers once, streams or fails."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.convert import same_content
from kudurru_server.cost import spend
from kudurru_server.engine.engine import run_engine
from kudurru_server.metrics import Metrics
from kudurru_server.model import Entry
from kudurru_server.storage.interface import Storage
from kudurru_server.storage.sqlite.store import open_storage

from tests.api.nodes import PATIENCE_SECONDS, Stub, failure_of, listen, make_stub
from tests.builders import event, uuid7
from tests.builders import request as append_request

ASK = (("kudurru-cost", "1"),)


class Charging:
    """The embedded store, as if a put cost 3 write units, and looking for ids half a read unit."""

    def __init__(self, real: Storage) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the rest is the real store's
        return getattr(self._real, name)

    async def put(self, entry: Entry) -> bool:
        spend("log", 0.0, 3.0)
        return await self._real.put(entry)

    async def find(self, event_ids: list[str], until: int) -> Any:  # noqa: ANN401
        spend("events", 0.5, 0.0)
        return await self._real.find(event_ids, until)


@asynccontextmanager
async def serving(folder: Path, metrics: Metrics, *, charging: bool = True) -> AsyncIterator[Stub]:
    async with open_storage(folder) as real:
        storage = cast("Storage", Charging(real)) if charging else real
        async with (
            run_engine(storage, same_content) as engine,
            listen(engine, metrics=metrics) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield make_stub(channel)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def charging(tmp_path: Path, metrics: Metrics) -> AsyncIterator[Stub]:
    async with serving(tmp_path / "data", metrics) as stub:
        yield stub


def cost(trailers: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str | bytes]:
    return {key: value for key, value in trailers or () if key.startswith("kudurru-")}


def units(read: str, write: str) -> dict[str, str]:
    return {"kudurru-read-units": read, "kudurru-write-units": write}


async def test_a_call_that_answers_once_says_its_cost(charging: Stub, metrics: Metrics) -> None:
    call = charging.Append(append_request(event()), metadata=ASK, timeout=PATIENCE_SECONDS)
    await call
    assert cost(await call.trailing_metadata()) == units("0", "3")
    labels = {"account": "Append", "table": "log"}
    assert metrics.registry.get_sample_value("kudurru_write_units_total", labels) == 3.0


async def test_a_stream_of_appends_says_the_sum_at_its_end(charging: Stub) -> None:
    stream = charging.AppendStream(metadata=ASK, timeout=PATIENCE_SECONDS)
    for _ in range(3):
        await stream.write(pb.AppendStreamRequest(appends=[append_request(event()), append_request(event())]))
        await stream.read()
    await stream.done_writing()
    assert await stream.read() == grpc.aio.EOF
    assert cost(await stream.trailing_metadata()) == units("0", "9")


async def test_a_read_says_its_cost_at_its_end(charging: Stub) -> None:
    await charging.Append(append_request(event()))
    read = charging.Read(pb.ReadRequest(), metadata=ASK, timeout=PATIENCE_SECONDS)
    assert sum([len(message.events) async for message in read]) == 1
    assert cost(await read.trailing_metadata()) == units("0", "0")


async def test_a_call_that_fails_says_its_cost_and_why(charging: Stub) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        await charging.GetEvent(pb.GetEventRequest(event_id=uuid7()), metadata=ASK, timeout=PATIENCE_SECONDS)
    assert failure_of(failed.value).reason == "EVENT_NOT_FOUND"
    assert isinstance(failed.value, grpc.aio.AioRpcError)
    assert cost(failed.value.trailing_metadata()) == units("0.5", "0")


async def test_a_stream_that_fails_says_its_cost_and_why(charging: Stub) -> None:
    stream = charging.AppendStream(metadata=ASK, timeout=PATIENCE_SECONDS)
    await stream.write(pb.AppendStreamRequest(appends=[append_request(event())]))
    await stream.read()
    await stream.write(pb.AppendStreamRequest(appends=[append_request()] * 1025))
    with pytest.raises(grpc.RpcError) as failed:
        await stream.read()
    assert failure_of(failed.value).code == grpc.StatusCode.INVALID_ARGUMENT
    assert cost(await stream.trailing_metadata()) == units("0", "3")


@pytest.mark.parametrize("metadata", [(), (("kudurru-cost", "0"),)])
async def test_who_does_not_ask_is_not_told(charging: Stub, metadata: tuple[tuple[str, str], ...]) -> None:
    call = charging.Append(append_request(event()), metadata=metadata, timeout=PATIENCE_SECONDS)
    await call
    assert cost(await call.trailing_metadata()) == {}


async def test_the_embedded_store_costs_nothing(tmp_path: Path, metrics: Metrics) -> None:
    async with serving(tmp_path / "data", metrics, charging=False) as stub:
        call = stub.Append(append_request(event()), metadata=ASK, timeout=PATIENCE_SECONDS)
        await call
        assert cost(await call.trailing_metadata()) == units("0", "0")
