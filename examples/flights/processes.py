"""The demo's two other processes: the server on a store of its own, and the projector.

Both live in process groups of their own, so that Ctrl-C reaches the demo alone, which ends them in the right order.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from examples.flights.stores import Store
from examples.flights.year import Year

_START_SECONDS = 30
_STOP_SECONDS = 30
_MAX_STATE_BYTES = 64 * 1024 * 1024


class ProcessError(Exception):
    """A process ended, or took too long, while it was needed."""


@asynccontextmanager
async def serving(store: Store) -> AsyncIterator[str]:
    """Run a server on a store and yield its address; at the end of the block it has ended.

    Raises:
        ProcessError: It did not come to serve, or ended within the block.
    """
    arguments = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", *store.arguments]
    async with (
        _running("kudurru_server", *arguments, variables=store.environment) as (server, _),
        asyncio.TaskGroup() as tasks,
    ):
        try:
            async with asyncio.timeout(_START_SECONDS):
                first = await server.readline()
        except TimeoutError:
            raise ProcessError(f"the server does not serve after {_START_SECONDS} s") from None
        if not first:
            raise ProcessError("the server ended before it served")
        watching = tasks.create_task(_read_to_the_end(server))
        yield json.loads(first)["listen"]
        watching.cancel()


async def _read_to_the_end(server: asyncio.StreamReader) -> None:
    """Take what the server logs, so that it never waits for a full pipe, and fail when it ends."""
    async for _ in server:
        pass
    raise ProcessError("the server ended while it was needed")


class Projector:
    """A running projector. Use `projecting`."""

    def __init__(self, output: asyncio.StreamReader, input_: asyncio.StreamWriter) -> None:
        self._output = output
        self._input = input_
        self._position = 0
        self._moved = asyncio.Event()
        self._state: asyncio.Future[Year] = asyncio.get_running_loop().create_future()

    async def follow(self, folded: Callable[[int], None]) -> None:
        """Call `folded` with its position as it moves, until it ends.

        Raises:
            ProcessError: It ended without its state.
        """
        async for line in self._output:
            if line.startswith(b"{"):
                self._state.set_result(Year.from_json(line))
                return
            self._position = int(line)
            self._moved.set()
            folded(self._position)
        raise ProcessError("the projector ended too early")

    async def subscribed(self) -> None:
        """Wait until the server delivers to it."""
        await self._moved.wait()

    async def reached(self, position: int) -> None:
        """Wait until it has folded everything up to a position."""
        while self._position < position:
            self._moved.clear()
            await self._moved.wait()

    async def state(self) -> Year:
        """End it, and return what it has folded."""
        self._input.close()
        return await self._state


@asynccontextmanager
async def projecting(target: str, folded: Callable[[int], None]) -> AsyncIterator[Projector]:
    """Run a projector that is subscribed when the block begins; `folded` is called with its position as it moves."""
    async with (
        _running("examples.flights.projector", target) as (output, input_),
        asyncio.TaskGroup() as tasks,
    ):
        projector = Projector(output, input_)
        following = tasks.create_task(projector.follow(folded))
        await projector.subscribed()
        yield projector
        following.cancel()


@asynccontextmanager
async def _running(
    module: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUDURRU_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=PIPE,
        stdout=PIPE,
        env=environment | dict(variables or {}),
        process_group=0,
        limit=_MAX_STATE_BYTES,
    )
    if process.stdout is None or process.stdin is None:
        raise ProcessError(f"{module} has no pipes")
    try:
        yield process.stdout, process.stdin
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    """Let it end in its own way, and end it if it does not."""
    try:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        raise ProcessError(f"process {process.pid} does not end within {_STOP_SECONDS} s; it was killed") from None
    finally:
        if process.returncode is None:
            process.kill()
