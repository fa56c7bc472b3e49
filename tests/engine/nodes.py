"""Engines to test: on the real embedded store, with a clock to set and a store that can be told to misbehave."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kudurru_server._proto.event_pb2 import AppendCondition, Event
from kudurru_server.api.convert import same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.engine.judge import Outcome
from kudurru_server.model import START, Cursor, Entry, Query
from kudurru_server.storage.interface import Storage
from kudurru_server.storage.sqlite.store import open_storage

from tests.builders import NOON, append, events_of

PATIENCE_SECONDS = 10.0
Step = Callable[["Scripted", Entry], Awaitable[bool]]


class Scripted:
    """A real store whose next puts and applies follow a script."""

    def __init__(self, real: Storage) -> None:
        self.real = real
        self.puts: deque[Step] = deque()
        self.applies: deque[BaseException] = deque()
        self.entries_put: list[Entry] = []
        self.finds: list[list[str]] = []
        self.before_find: Callable[[], Awaitable[None]] | None = None
        self.before_apply: asyncio.Event | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the rest is the real store's
        return getattr(self.real, name)

    async def put(self, entry: Entry) -> bool:
        self.entries_put.append(entry)
        return await self.puts.popleft()(self, entry) if self.puts else await self.real.put(entry)

    async def apply(self, entries: Sequence[Entry]) -> None:
        if self.applies:
            raise self.applies.popleft()
        if self.before_apply is not None:
            await self.before_apply.wait()
        await self.real.apply(entries)

    async def find(self, event_ids: Sequence[str], until: int) -> Any:  # noqa: ANN401
        self.finds.append(list(event_ids))
        return await self.real.find(event_ids, until)

    async def first_matches(self, checks: Any, until: int) -> Any:  # noqa: ANN401
        found = await self.real.first_matches(checks, until)
        if self.before_find is not None:
            await self.before_find()
        return found


@dataclass
class Clock:
    """A clock that stands until it is set."""

    ticks: int = NOON

    def __call__(self) -> int:
        return self.ticks


@dataclass
class Node:
    """An engine, its store and its clock."""

    engine: Engine
    storage: Scripted
    clock: Clock

    async def append(self, *events: Event, conditions: Sequence[AppendCondition] = ()) -> Outcome:
        async with asyncio.timeout(PATIENCE_SECONDS):
            (outcome,) = await self.engine.append([append(*events, conditions=conditions)])
        return outcome

    async def read(self, query: Query | None = None) -> list[tuple[int, str, str]]:
        """Return position, id and type of what matches."""
        span, _ = await self.engine.span(START, None, backwards=False)
        frames = b"".join([batch.frames async for batch in self.engine.read(query or Query(), span, 0)])
        return [(one.position, one.event.event_id, one.event.event_type) for one in events_of(frames)]

    @property
    def left(self) -> Cursor:
        """The last event before the tail."""
        return self.engine._tail.left  # noqa: SLF001 - what the tail holds is not shown to clients

    async def applied_to(self, position: int) -> None:
        """Wait until the tail knows that everything to `position` is applied."""
        await until(lambda: self.engine._tail.applied >= position)  # noqa: SLF001


async def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what it waits for sets no event
            await asyncio.sleep(0.001)


@asynccontextmanager
async def run_node(
    folder: Path,
    *,
    clock: Clock | None = None,
    tail_bytes: int = 1,
    pending_bytes: int = 64 << 20,
    unapplied_bytes: int = 64 << 20,
    prepare: Callable[[Scripted], None] | None = None,
) -> AsyncIterator[Node]:
    """Run an engine; by default nothing that is applied stays in its tail."""
    clock = clock or Clock()
    options = EngineOptions(
        tail_bytes=tail_bytes, pending_bytes=pending_bytes, unapplied_bytes=unapplied_bytes, clock=clock
    )
    async with open_storage(folder) as real:
        storage = Scripted(real)
        if prepare is not None:
            prepare(storage)
        async with run_engine(cast("Storage", storage), same_content, options) as engine:
            yield Node(engine, storage, clock)
