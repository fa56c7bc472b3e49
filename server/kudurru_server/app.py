"""The composition root: builds every part of a server, and takes it down in order.

Stop accepting → answer what runs → cut what is left → stop the background work → close the storage.
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from secrets import token_hex
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kudurru_server.api.convert import Converter, same_content
from kudurru_server.api.event_store import SERVICE, EventStoreApi
from kudurru_server.api.health import Health
from kudurru_server.api.neighbours import open_channels
from kudurru_server.cost import Bill
from kudurru_server.engine.engine import Engine, run_engine
from kudurru_server.engine.leadership import Neighbours
from kudurru_server.metrics import Metrics
from kudurru_server.metrics_endpoint import serve_metrics
from kudurru_server.settings import Settings
from kudurru_server.storage.observed import ObservedStorage
from kudurru_server.stores import open_store

_logger = structlog.get_logger()


_LEAST_RECEIVED_BYTES = 8 << 20  # queries have their own limits
_LAST_PORT = 65535
_LINGER_SECONDS = 0.2
"""Between the last answer and the end: calls on their way are refused with a reason, where gRPC would cancel them."""


class ListenError(Exception):
    """The address cannot be listened on."""


async def serve(settings: Settings) -> None:
    """Run a server until SIGTERM or SIGINT.

    Raises:
        DataDirectoryError: the store cannot be used.
        StorageUnavailableError: it does not answer, or is not as it must be.
        ListenError: the address cannot be listened on.
    """
    gc.set_threshold(200_000, 20, 100)  # the tail is large and has no cycles
    sys.setswitchinterval(0.001)  # threads that come back from the disk wait less for the event loop: 3 % more appends
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = make_server(settings)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        address = bind(server, settings.listen)
        scraped = {}
        if settings.metrics_listen is not None:
            scraped["metrics"] = stack.enter_context(_serve_metrics(metrics, settings.metrics_listen))
        stack.enter_context(Bill(metrics.account("other")))
        store = await stack.enter_async_context(open_store(settings, metrics.database_called))
        storage = ObservedStorage(store.storage, metrics)
        neighbours = None
        if store.leader_record is not None:
            channels = await stack.enter_async_context(open_channels())
            lease_seconds = settings.dynamodb_lease_seconds
            own = settings.advertise and _with_port(settings.advertise, address)
            neighbours = Neighbours(store.leader_record, channels.forward, token_hex(8), own, lease_seconds)
        running = run_engine(storage, same_content, store.engine_options, neighbours)
        engine = await stack.enter_async_context(running)
        _show(engine, metrics)
        healthy = add_services(server, engine, settings, metrics)
        await server.start()
        await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        await healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        _logger.info(
            "serving",
            listen=address,
            storage=settings.storage,
            head=engine.head.position,
            **store.where,
            **scraped,
        )
        grace_seconds = 0.0  # unless it ends because it was asked to
        try:
            await stop.wait()
            grace_seconds = settings.shutdown_grace_seconds
        finally:
            _logger.info("stopping", grace_seconds=grace_seconds)
            await healthy.enter_graceful_shutdown()
            await _stop(server, engine, grace_seconds)
    _logger.info("stopped")


def make_server(settings: Settings) -> grpc.aio.Server:
    """Make a server without services."""
    options: list[tuple[str, Any]] = [
        (
            "grpc.max_receive_message_length",
            max(_LEAST_RECEIVED_BYTES, 2 * settings.max_append_bytes, 2 * settings.max_message_bytes),
        ),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
        # A burst waits for its turn: gRPC's own limits would cancel calls, which tells the caller nothing.
        ("grpc.server.max_pending_requests", 1_000_000),
        ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
    ]
    return grpc.aio.server(options=options)


def add_services(server: grpc.aio.Server, engine: Engine, settings: Settings, metrics: Metrics) -> Health:
    """Add every service to a server that is not started; return the one that tells about them."""
    server.add_generic_rpc_handlers((EventStoreApi(engine, Converter(settings.limits()), metrics).handlers(),))
    healthy = Health(engine.closing)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return healthy


def bind(server: grpc.aio.Server, listen: str) -> str:
    """Bind the server; return the address with the port it got.

    Raises:
        ListenError: it is in use, or not an address.
    """
    path = listen.removeprefix("unix:")
    if path != listen and _somebody_listens(path):
        raise ListenError(f"cannot listen on {listen}: another process does")
    port = "" if path != listen else listen.rpartition(":")[2]
    if port and not (port.isdecimal() and int(port) <= _LAST_PORT):
        raise ListenError(f"cannot listen on {listen}: {port} is not a port")
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {listen}: it is in use, or not an address of this machine") from error
    return f"{listen.removesuffix(port)}{bound}" if port else listen


def _with_port(advertised: str, bound: str) -> str:
    """Return the advertised address; port 0 in it stands for that of the bound one.

    Raises:
        ListenError: the bound one has none.
    """
    host, _, port = advertised.rpartition(":")
    if port != "0":
        return advertised
    if bound.startswith("unix:"):
        raise ListenError(f"cannot advertise {advertised}: a Unix socket has no port")
    return f"{host}:{bound.rpartition(':')[2]}"


@contextmanager
def _serve_metrics(metrics: Metrics, listen: str) -> Iterator[str]:
    """Serve the metrics; yield the address with the port it got.

    Raises:
        ListenError: it is in use, or not an address.
    """
    with ExitStack() as stack:
        try:
            address = stack.enter_context(serve_metrics(metrics, listen))
        except (OSError, ValueError) as error:
            raise ListenError(f"cannot serve metrics on {listen}: {error}") from error
        yield address


def _show(engine: Engine, metrics: Metrics) -> None:
    """Let the gauges read the engine."""
    metrics.head_position.set_function(lambda: engine.head.position)
    metrics.applied_position.set_function(lambda: engine.applied)
    metrics.unapplied_bytes.set_function(lambda: engine.unapplied_bytes)
    metrics.pending_bytes.set_function(lambda: engine.pending_bytes)


def _somebody_listens(path: str) -> bool:
    # gRPC takes a socket file away from whoever listens on it, so it must be asked first.
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1)
        try:
            caller.connect(path)
        except OSError:
            return False
        return True


async def _stop(server: grpc.aio.Server, engine: Engine, grace_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + grace_seconds
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            await engine.drain()
            await asyncio.sleep(_LINGER_SECONDS)
    await server.stop(max(0.0, end - loop.time()))
