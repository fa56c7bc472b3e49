"""Nodes that start, stop, pause and crash, each a process of its own on the tables they share."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from kudurru_server.api.convert import same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.engine.judge import Outcome
from kudurru_server.engine.leadership import Neighbours
from kudurru_server.errors import KudurruError, StorageUnavailableError, UnavailableError
from kudurru_server.model import Append, Leader
from kudurru_server.storage.dynamodb.store import DynamoOptions, DynamoStorage, open_storage
from kudurru_server.storage.dynamodb.trim import Trimming

from tests.builders import NOON
from tests.simulation.fake_blobs import FakeBlobs
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables
from tests.simulation.loop import Process, SimulatedLoop

_T = TypeVar("_T")
_RESTART_SECONDS = 0.5
_LATE_SECONDS = 5.0
TICKS = 10_000_000


class GoneError(Exception):
    """The node did not answer in time, or is gone; what it was asked to do may happen."""


@dataclass(frozen=True, slots=True)
class Nature:
    """How a node is configured."""

    dynamo: DynamoOptions
    tail_bytes: int = 1
    apply_delay_seconds: float | None = 0.02
    blobs: FakeBlobs | None = None
    knows_others: bool = False
    """Hands appends to a leader."""
    is_reachable: bool = False
    """Leads."""
    retention_seconds: float | None = None
    """Of the log; None: for ever."""


@dataclass(eq=False)
class Node:
    """A node and its successors under the same name."""

    name: str
    loop: SimulatedLoop
    tables: FakeTables
    nature: Nature
    faults: Faults
    chance: random.Random
    peers: "dict[str, Node]"
    """Every node by its name, which is its address, too."""
    skew_ticks: int = 0
    failures: list[str] = field(default_factory=list)
    floor: int = 0
    """The last position that the running process has acknowledged or shown."""
    _buried: list[tuple[Process, FakeDatabase]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generation = 0
        self.peers[self.name] = self
        self.start()

    def clock(self) -> int:
        """Return the time of this node, in ticks."""
        return NOON + int(self.loop.time() * TICKS) + self.skew_ticks

    # ── life ──

    def start(self) -> None:
        """Begin a new process."""
        self._generation += 1
        self.floor = 0
        self._process = Process(f"{self.name}.{self._generation}")
        chance = random.Random(self.chance.random())
        self.database = FakeDatabase(self.tables, self._process.name, self.faults, chance)
        self.gone = asyncio.Event()
        self._ready: asyncio.Future[Engine] = self.loop.create_future()
        self._leave = asyncio.Event()
        self.loop.create_task(self._run(self._ready, self.gone, self._leave), context=self._process.context)

    async def _run(self, ready: asyncio.Future[Engine], gone: asyncio.Event, leave: asyncio.Event) -> None:
        chance = random.Random(self.chance.random())
        options = EngineOptions(
            tail_bytes=self.nature.tail_bytes,
            follow_busy_seconds=0.025,
            follow_idle_seconds=0.1,
            apply_delay_seconds=self.nature.apply_delay_seconds,
            keep_above_bytes=self.nature.dynamo.payload_threshold_bytes if self.nature.blobs else None,
            clock=self.clock,
        )
        retention = self.nature.retention_seconds
        trimming = None if retention is None else Trimming(retention, self.clock)
        try:
            while True:
                try:
                    async with (
                        open_storage(
                            self.database, self.nature.blobs, self.nature.dynamo, chance=chance, trimming=trimming
                        ) as storage,
                        run_engine(storage, same_content, options, self._neighbours(storage)) as engine,
                    ):
                        ready.set_result(engine)
                        await leave.wait()
                except KudurruError as error:
                    if ready.done():
                        raise
                    self.failures.extend([] if "answer" in error.message else [f"{self.name}: start: {error.message}"])
                    await asyncio.sleep(_RESTART_SECONDS)
                else:
                    return
        except Exception as error:  # noqa: BLE001 - a node that ends by itself is a finding
            self.failures.append(f"{self._process.name}: {_leaves(error)}")
        finally:
            gone.set()

    def _neighbours(self, storage: DynamoStorage) -> Neighbours | None:
        if not self.nature.knows_others:
            return None
        address = self.name if self.nature.is_reachable else None
        name, lease_seconds = self._process.name, self.nature.dynamo.lease_seconds
        return Neighbours(storage.leader_record, self._forward, name, address, lease_seconds)

    async def _forward(self, leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        """Send appends to another node: what is sent arrives or not, whatever becomes of the sender."""
        sent = self.loop.create_task(self._travel(leader, [replace(append) for append in appends]), context=Context())
        return await asyncio.shield(sent)

    async def _travel(self, leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        faults, chance = self.faults, self.chance
        unknown: list[Outcome] = [StorageUnavailableError("no answer")] * len(appends)
        await asyncio.sleep(chance.random() * faults.delay_seconds)
        if chance.random() < faults.late:
            await asyncio.sleep(chance.random() * _LATE_SECONDS)
        if chance.random() < faults.lost:
            return unknown
        try:
            record = partial(_append_handed, leader.name, appends)
            outcomes = await self.peers[leader.address].ask(record, _LATE_SECONDS)
        except (GoneError, UnavailableError):
            return unknown
        await asyncio.sleep(chance.random() * faults.delay_seconds)
        return unknown if chance.random() < faults.unanswered else outcomes

    def crash(self) -> None:
        """Let nothing of the process ever run again; its requests are on their way still."""
        self._process.frozen = True
        self._buried.append((self._process, self.database))
        self.gone.set()

    def pause(self) -> None:
        """Hold everything of the process."""
        self._process.frozen = True

    def resume(self) -> None:
        """Let the process go on."""
        self.loop.thaw(self._process)

    async def stop(self) -> None:
        """Shut down in order, and wait for it."""
        self._leave.set()
        await self.gone.wait()

    def heal(self) -> None:
        """End all faults of the network."""
        self.faults = self.database.faults = Faults()

    async def bury(self) -> None:
        """End the tasks of crashed processes, without an effect on anything."""
        for process, database in self._buried:
            await bury(process, database)
        self._buried.clear()

    # ── asking ──

    async def ask(self, call: Callable[[Engine], Awaitable[_T]], seconds: float) -> _T:
        """Have the node do something.

        Raises:
            GoneError: there was no answer.
        """
        gone = self.gone

        async def answer() -> _T:
            return await call(await asyncio.shield(self._ready))

        asked = self.loop.create_task(answer(), context=self._process.context)
        asked.add_done_callback(_retrieved)
        lost = asyncio.ensure_future(gone.wait())
        await asyncio.wait([asked, lost], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        if not asked.done():
            asked.cancel()
            raise GoneError
        if asked.cancelled():
            raise GoneError
        return asked.result()


async def _append_handed(name: str, appends: Sequence[Append], engine: Engine) -> list[Outcome]:
    return await engine.append(appends, handed_to=name)


async def bury(process: Process, database: FakeDatabase) -> None:
    """End the tasks of a process, without an effect on anything."""
    database.is_closed = True
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.thaw(process)
    for _ in range(1000):
        left = [task for task in process.tasks if not task.done()]
        for task in left:
            task.cancel()
        if not left:
            break
        await asyncio.sleep(0)


def _retrieved(task: asyncio.Task[object]) -> None:
    if not task.cancelled():
        task.exception()


def _leaves(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_leaves, error.exceptions))
    return repr(error)
