"""`python -m bench.leader`: puts that busy nodes lose to each other, on DynamoDB Local, with a leader and without."""

import asyncio
import os
import statistics
import time
from contextlib import AsyncExitStack, ExitStack
from typing import Annotated
from uuid import uuid4

import grpc
import typer
from rich.console import Console
from rich.table import Table

from bench import requests
from bench.server import Server
from examples.local_aws.components import dynamodb_local

_APPEND = "/kudurru.v1.EventStoreService/Append"
_CALLERS = 8


def main(
    seconds: Annotated[float, typer.Option(help="How long each run lasts, once a leader had time to be found.")] = 20.0,
    settle_seconds: Annotated[float, typer.Option(help="How long nodes append before it is counted.")] = 8.0,
) -> None:
    """Let four nodes append one event at a time, by eight callers each, and count."""
    table = Table("nodes", "leader", "puts", "lost", "lost %", "appends/s", "events a put", "p50 ms", "p99 ms")
    with dynamodb_local() as component:
        os.environ.update(component.environment)
        for nodes in (2, 4):
            for leads in (False, True):
                table.add_row(*asyncio.run(_run(nodes, settle_seconds, seconds, leads=leads)))
    Console(width=110).print(table)


async def _run(nodes: int, settle_seconds: float, seconds: float, *, leads: bool) -> tuple[str, ...]:
    settings = {
        "storage": "dynamodb",
        "dynamodb_table_prefix": f"bench-{uuid4().hex[:8]}-",
        "dynamodb_create_tables": "true",
        "dynamodb_apply_delay_seconds": "5",  # Local does one thing at a time: rows would take turns with puts
        **({"advertise": "127.0.0.1:0"} if leads else {}),
    }
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(**settings)) for _ in range(nodes)]
        async with AsyncExitStack() as channels:
            latencies: list[float] = []
            stop = asyncio.Event()
            callers = []
            for server in servers:
                channel = await channels.enter_async_context(grpc.aio.insecure_channel(server.address))
                callers += [asyncio.ensure_future(_append(channel, latencies, stop)) for _ in range(_CALLERS)]
            await asyncio.sleep(settle_seconds)
            before = await asyncio.to_thread(_puts, servers)
            latencies.clear()
            begin = time.perf_counter()
            await asyncio.sleep(seconds)
            rate = len(latencies) / (time.perf_counter() - begin)
            after = await asyncio.to_thread(_puts, servers)
            stop.set()
            await asyncio.gather(*callers)
    won, lost = (new - old for new, old in zip(after, before, strict=True))
    ordered = sorted(latencies)
    return (
        str(nodes),
        "yes" if leads else "no",
        f"{won + lost:.0f}",
        f"{lost:.0f}",
        f"{lost / (won + lost):.1%}",
        f"{rate:,.0f}",
        f"{len(latencies) / won:.1f}",
        f"{statistics.median(ordered) * 1e3:.0f}",
        f"{ordered[int(len(ordered) * 0.99)] * 1e3:.0f}",
    )


async def _append(channel: grpc.aio.Channel, latencies: list[float], stop: asyncio.Event) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_APPEND)
    while not stop.is_set():
        begin = time.perf_counter()
        await call(requests.append(1, conditional=False))
        latencies.append(time.perf_counter() - begin)


def _puts(servers: list[Server]) -> tuple[float, float]:
    """Return how many puts all servers together have won and lost."""
    won, lost = (
        sum(server.metric(f'kudurru_log_puts_total{{outcome="{outcome}"}}') for server in servers)
        for outcome in ("won", "lost")
    )
    return won, lost


if __name__ == "__main__":
    typer.run(main)
