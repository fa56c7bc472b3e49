"""`python -m bench`: every workload against a server on a fresh store, as a table."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.table import Table

from bench import workloads
from bench.server import Server
from bench.workloads import Result

_COLUMNS = ("workload", "rate/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "CPU us each", "RSS MiB")


def main(
    seconds: Annotated[float, typer.Option(help="How long each append workload runs.")] = 10.0,
    only: Annotated[str, typer.Option(help="Run only the workloads with this in their name.")] = "",
) -> None:
    """Measure a server on this machine and disk."""
    Path(".cache").mkdir(exist_ok=True)
    bench = Bench(seconds)
    for name, run in (
        ("batches", bench.batches),
        ("unary", bench.unary),
        ("stream", bench.stream),
        ("subscribe", bench.subscribe),
    ):
        if only in name:
            asyncio.run(run())
    Console(width=150).print(bench.table)


class Bench:
    """Runs the workloads and collects a table."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.table = Table(title=f"Kudurru, {seconds:g} s a workload")
        for column in _COLUMNS:
            self.table.add_column(column, justify="left" if column == "workload" else "right", no_wrap=True)

    async def batches(self) -> None:
        """Conditional appends of 100, then reads of what they wrote, then a start after a crash."""
        with Server() as server:
            async with _connect(server) as channel:
                name = "append 100 events conditionally, 16 at once (events)"
                written = await self._row(
                    server, name, lambda: workloads.unary_appends(channel, self._seconds, events=100, at_once=16)
                )
                disk = server.disk_bytes / written.events
                name = f"read all {written.events:,} events ({disk:.0f} bytes of disk each)"
                for _ in range(3):
                    await self._row(server, name, lambda: workloads.read_all(channel, written.events))
                await self._row(
                    server,
                    "read the events of one tag, 64 at once (reads)",
                    lambda: workloads.tag_reads(channel, self._seconds / 2, at_once=64),
                )
            server.kill()
            begin = time.perf_counter()
            server.start()
            self.table.add_row(
                f"start on {written.events:,} events after SIGKILL", f"{time.perf_counter() - begin:.2f} s"
            )

    async def unary(self) -> None:
        """One event a call."""
        for at_once in (1, 64, 256):
            with Server() as server:
                async with _connect(server) as channel:
                    await self._row(
                        server,
                        f"append 1 event conditionally, {at_once} at once",
                        lambda: workloads.unary_appends(channel, self._seconds, events=1, at_once=at_once),  # noqa: B023
                    )

    async def stream(self) -> None:
        """One event an append, many appends a message."""
        with Server() as server:
            async with _connect(server) as channel:
                await self._row(
                    server,
                    "AppendStream, 64 conditional appends of 1 event a message",
                    lambda: workloads.packed_appends(channel, self._seconds, appends=64, window=4),
                )

    async def subscribe(self) -> None:
        """From the call of an append to the delivery of its event, to each of many subscribers."""
        for subscribers in (1, 100):
            with Server() as server:
                async with _connect(server) as channel:
                    await self._row(
                        server,
                        f"append 1 event 100 times a second, deliver it to {subscribers}",
                        lambda: workloads.live(channel, self._seconds, subscribers=subscribers),  # noqa: B023
                    )

    async def _row(self, server: Server, name: str, run: Callable[[], Awaitable[Result]]) -> Result:
        before = server.cpu_seconds
        result = await run()
        cpu = (server.cpu_seconds - before) / result.events * 1e6
        latencies = [f"{result.percentile(share):.1f}" if result.latencies else "" for share in (0.5, 0.99, 0.999, 1)]
        self.table.add_row(name, f"{result.rate:,.0f}", *latencies, f"{cpu:.2f}", f"{server.resident_mib:.0f}")
        return result


@asynccontextmanager
async def _connect(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


if __name__ == "__main__":
    typer.run(main)
