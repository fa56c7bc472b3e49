"""`python -m bench`: every workload on a fresh store, as a table."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.table import Table

from bench import workloads
from bench.server import Server
from bench.workloads import Result

_OPTIONS = [("grpc.max_receive_message_length", 8 << 20)]


def main(
    seconds: Annotated[float, typer.Option(help="How long each append workload runs.")] = 10.0,
    only: Annotated[str, typer.Option(help="Run only the workloads with this in their name.")] = "",
) -> None:
    """Measure a server on this machine."""
    Path(".cache").mkdir(exist_ok=True)
    table = Table(title=f"Kudurru, {seconds:g} s a workload")
    for column in ("workload", "rate/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "CPU us/event", "RSS MiB"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    asyncio.run(_measure(table, seconds, only))
    Console().print(table)


async def _measure(table: Table, seconds: float, only: str) -> None:
    for name, run in (
        ("append 100 conditional, 16 at once", lambda c: workloads.unary_appends(c, seconds, events=100, at_once=16)),
        ("append 1 conditional, 1 at once", lambda c: workloads.unary_appends(c, seconds / 3, events=1, at_once=1)),
        ("append 1 conditional, 64 at once", lambda c: workloads.unary_appends(c, seconds / 3, events=1, at_once=64)),
        ("AppendStream 64 x 1 conditional", lambda c: workloads.packed_appends(c, seconds, appends=64, window=4)),
    ):
        if only not in name:
            continue
        with Server() as server:
            async with grpc.aio.insecure_channel(server.address, options=_OPTIONS) as channel:
                before = server.cpu_seconds
                result = await run(channel)
                _row(table, name, result, server.cpu_seconds - before, server)
                if name.startswith("append 100"):
                    disk = server.disk_bytes / result.events
                    before = server.cpu_seconds
                    scan = await workloads.read_all(channel, result.events)
                    _row(table, f"read all {result.events:,} (disk {disk:.0f} B/event)", scan, server.cpu_seconds - before, server)
                    before = server.cpu_seconds
                    tags = await workloads.tag_reads(channel, seconds / 2, at_once=64)
                    _row(table, "read one tag, 64 at once", tags, server.cpu_seconds - before, server)
            if name.startswith("append 100"):
                server.kill()
                begin = time.perf_counter()
                server.start()
                table.add_row("start after SIGKILL", f"{time.perf_counter() - begin:.2f} s")


def _row(table: Table, name: str, result: Result, cpu_seconds: float, server: Server) -> None:
    latencies = [f"{result.percentile(share):.1f}" for share in (0.5, 0.99, 0.999, 1)] if result.latencies else [""] * 4
    cpu = f"{cpu_seconds / max(1, result.events) * 1e6:.1f}"
    table.add_row(name, f"{result.rate:,.0f}", *latencies, cpu, f"{server.resident_mib:.0f}")


if __name__ == "__main__":
    typer.run(main)
