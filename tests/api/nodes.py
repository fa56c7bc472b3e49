"""Servers in this process, and what their answers say."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kudurru_server._proto import error_reason_pb2, event_pb2
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server._proto.event_store_service_pb2_grpc import EventStoreServiceStub
from kudurru_server.api.convert import same_content
from kudurru_server.app import add_services, bind, make_server
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.metrics import Metrics
from kudurru_server.settings import Settings
from kudurru_server.storage.sqlite.store import open_storage

if TYPE_CHECKING:
    from kudurru_server._proto.event_store_service_pb2_grpc import EventStoreServiceAsyncStub

Stub: TypeAlias = "EventStoreServiceAsyncStub"
"""What the generated stub is on an aio channel; the name exists for type checkers only."""

PATIENCE_SECONDS = 10.0


@dataclass
class Node:
    """A server that listens."""

    engine: Engine
    address: str


@dataclass(frozen=True)
class Failure:
    """What a failed call says."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    message: str


@asynccontextmanager
async def run_engine_in(folder: Path, options: EngineOptions | None = None) -> AsyncIterator[Engine]:
    """Run an engine on the embedded store in `folder`."""
    async with open_storage(folder) as storage, run_engine(storage, same_content, options) as engine:
        yield engine


@asynccontextmanager
async def listen(
    engine: Engine, settings: Settings | None = None, metrics: Metrics | None = None
) -> AsyncIterator[str]:
    """Serve an engine; yield the address."""
    server = make_server(settings or Settings())
    add_services(server, engine, settings or Settings(), metrics or Metrics())
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


@asynccontextmanager
async def serve(
    folder: Path, options: EngineOptions | None = None, settings: Settings | None = None
) -> AsyncIterator[Stub]:
    """Serve a store of its own; yield a stub."""
    async with (
        run_engine_in(folder, options) as engine,
        listen(engine, settings) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield make_stub(channel)


def make_stub(channel: grpc.aio.Channel) -> Stub:
    """Return the generated stub, typed as what it is on an aio channel."""
    return EventStoreServiceStub(channel)


def failure_of(error: grpc.RpcError) -> Failure:
    """Read a failed call as an SDK does."""
    assert isinstance(error, grpc.aio.AioRpcError)
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert info.domain == "kudurru"
    assert f"ERROR_REASON_{info.reason}" in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum wrapper
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return Failure(error.code(), info.reason, dict(info.metadata), status.message)


async def read(stub: Stub, request: pb.ReadRequest | None = None) -> tuple[list[event_pb2.RecordedEvent], str]:
    """Return all events of a read, and the head of its last message, which is the only one with a head."""
    messages = [message async for message in stub.Read(request or pb.ReadRequest(), timeout=PATIENCE_SECONDS)]
    assert all(message.head == "" for message in messages[:-1])
    assert all(message.events for message in messages[:-1])
    return [one for message in messages for one in message.events], messages[-1].head


def positions(events: Sequence[event_pb2.RecordedEvent]) -> list[int]:
    """Return where events are."""
    return [one.position for one in events]
