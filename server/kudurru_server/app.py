"""The composition root: builds every part of a server, and takes it down in order.

Stop accepting → answer what runs → cut what is left → stop the background work → close the storage.
"""

import asyncio
import gc
import signal
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kudurru_server.api.convert import Converter, same_content
from kudurru_server.api.event_store import SERVICE, EventStoreApi
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.settings import Settings
from kudurru_server.storage.interface import Storage
from kudurru_server.storage.sqlite.store import open_storage

_logger = structlog.get_logger()


class ListenError(Exception):
    """The address cannot be listened on."""


async def serve(settings: Settings) -> None:
    """Run a server until SIGTERM or SIGINT.

    Raises:
        DataDirectoryError: the storage cannot be opened.
        ListenError: the address cannot be listened on.
    """
    gc.set_threshold(200_000, 20, 100)  # the tail is large and has no cycles: fewer looks at it, 19 % more appends
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        storage: Storage = await stack.enter_async_context(open_storage(settings.data_dir))
        options = EngineOptions(
            tail_bytes=settings.tail_bytes,
            pending_bytes=settings.max_pending_bytes,
            unapplied_bytes=settings.max_unapplied_bytes,
        )
        engine = await stack.enter_async_context(run_engine(storage, same_content, options))
        server, healthy = build_server(engine, settings)
        address = bind(server, settings.listen)
        await server.start()
        await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        await healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        _logger.info(
            "serving",
            listen=address,
            storage=settings.storage,
            data_dir=str(settings.data_dir),
            head=engine.head.position,
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


def build_server(engine: Engine, settings: Settings) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """Build a server with every service on it, not started."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", 2 * max(settings.max_append_bytes, settings.max_message_bytes)),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((EventStoreApi(engine, Converter(settings.limits())).handlers(),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, healthy


def bind(server: grpc.aio.Server, listen: str) -> str:
    """Bind the server; return the address with the port it got.

    Raises:
        ListenError: it is in use, or not an address.
    """
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {listen}: it is in use, or not an address of this machine") from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


async def _stop(server: grpc.aio.Server, engine: Engine, grace_seconds: float) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.stop(grace_seconds))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await engine.drain()
