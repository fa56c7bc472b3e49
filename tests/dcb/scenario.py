"""Given, when, then: what happened, what somebody wants, and what has happened then, told to a real server.

Nothing runs before `then`. It starts a server on an empty store, records what is given, runs the command with a client
and compares what was recorded. In a race each command has a client of its own, and none appends before all have read.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec

import kudurru
from kudurru import Appended, Condition, Event, EventStore, KudurruError, RecordedEvent
from kudurru_server.api.convert import same_content
from kudurru_server.app import add_services, bind, make_server
from kudurru_server.engine.engine import EngineOptions, run_engine
from kudurru_server.metrics import Metrics
from kudurru_server.settings import Settings
from kudurru_server.storage.sqlite.store import open_storage

from tests.server_process import run_server

P = ParamSpec("P")
Command = Callable[[EventStore], Awaitable[object]]

_TIMEOUT_SECONDS = 10.0


class RefusedError(Exception):
    """A model says no; the base of every such error here."""


class Given:
    """Where a scenario begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *events: Event) -> "Past":
        """Say what happened before, in one append."""
        return Past(self._folder, events)


@dataclass(frozen=True, slots=True)
class Past:
    """What happened before."""

    folder: Path
    events: tuple[Event, ...]

    def when(
        self, command: Callable[Concatenate[EventStore, P], Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> "When":
        """Say what somebody wants: a function of the store and its arguments."""
        return When(self, lambda store: command(store, *args, **kwargs))

    def when_racing(self, *commands: Command) -> "Race":
        """Say what several want at the same time."""
        return Race(self, commands)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it.

    Attributes:
        recorded: What was recorded, in the order of the store.
        refusals: What those were told who did not get what they wanted.
        conflicts: How many appends came too late and had to be decided again, or given up.
    """

    recorded: list[Event]
    refusals: list[Exception]
    conflicts: int


@dataclass(frozen=True, slots=True)
class When:
    """What somebody wants."""

    past: Past
    command: Command

    async def then(self, *expected: Event) -> None:
        """Exactly these events are recorded."""
        result = await self._result()
        assert result.refusals == []
        assert result.recorded == list(expected)

    async def then_nothing(self) -> None:
        """It is as wanted already: nothing is recorded, and nobody is refused."""
        await self.then()

    async def then_refused(self, error: type[Exception]) -> None:
        """It is refused, and nothing is recorded."""
        result = await self._result()
        assert [type(refusal) for refusal in result.refusals] == [error]
        assert result.recorded == []

    async def _result(self) -> Result:
        async with _server_in_this_process(self.past.folder) as address:
            return await _run(address, self.past.events, (self.command,))


@dataclass(frozen=True, slots=True)
class Race:
    """What several want at the same time."""

    past: Past
    commands: tuple[Command, ...]

    async def then_one_wins(self, *, others: type[Exception]) -> Event:
        """One event is recorded, everybody else is refused; return the event."""
        result = await self.result()
        assert [type(refusal) for refusal in result.refusals] == [others] * (len(self.commands) - 1)
        assert len(result.recorded) == 1
        return result.recorded[0]

    async def then_all_win(self) -> Result:
        """Nobody is refused."""
        result = await self.result()
        assert result.refusals == []
        return result

    async def result(self) -> Result:
        """Run the race against a server in a process of its own."""
        async with run_server(self.past.folder) as server:
            return await _run(server.address, self.past.events, self.commands)


async def _run(address: str, past: tuple[Event, ...], commands: tuple[Command, ...]) -> Result:
    barrier = asyncio.Barrier(len(commands))
    racers = [_Racer(address, barrier) for _ in commands]
    async with kudurru.connect(address, timeout=_TIMEOUT_SECONDS) as store:
        head = (await store.append(past)).head if past else ""
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(racer.run(command)) for racer, command in zip(racers, commands, strict=True)]
        recorded = [_stated(event) for event in await store.read(after=head).to_list()]
    refusals = [refusal for run in runs if (refusal := run.result())]
    return Result(recorded, refusals, sum(racer.conflicts for racer in racers))


class _Racer(EventStore):
    """A client whose first append waits until every racer is about to append: all have read, none has written."""

    def __init__(self, address: str, barrier: asyncio.Barrier) -> None:
        super().__init__(address, _TIMEOUT_SECONDS)
        self._barrier: asyncio.Barrier | None = barrier
        self.conflicts = 0

    async def run(self, command: Command) -> Exception | None:
        """Run a command; return the refusal, if it is one.

        Raises:
            BrokenBarrierError: Somebody else was done without an append, so that this one would wait for ever.
        """
        async with self:
            try:
                await command(self)
            except (RefusedError, KudurruError) as refusal:
                return refusal
            finally:
                if self._barrier:
                    await self._barrier.abort()
            return None

    async def append(
        self,
        events: Event | Iterable[Event],
        *,
        condition: Condition | Iterable[Condition] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature it overrides
    ) -> Appended:
        barrier, self._barrier = self._barrier, None
        if barrier:
            await barrier.wait()
        try:
            return await super().append(events, condition=condition, timeout=timeout)
        except kudurru.ConditionFailedError:
            self.conflicts += 1
            raise


def _stated(recorded: RecordedEvent) -> Event:
    """Return the event without what the store gave it, to be compared with one that was only stated."""
    return Event(
        recorded.event_type,
        recorded.data,
        tags=recorded.tags,
        content_type=recorded.content_type,
        metadata=recorded.metadata,
        event_id=recorded.event_id,
    )


@asynccontextmanager
async def _server_in_this_process(folder: Path) -> AsyncIterator[str]:
    """Run a server that starts in milliseconds; a process takes up to a second, too long for each rule."""
    async with (
        open_storage(folder / "data") as storage,
        run_engine(storage, same_content, EngineOptions()) as engine,
    ):
        server = make_server(Settings(data_dir=folder))
        add_services(server, engine, Settings(data_dir=folder), Metrics())
        address = bind(server, "127.0.0.1:0")
        await server.start()
        try:
            yield address
        finally:
            await server.stop(None)
