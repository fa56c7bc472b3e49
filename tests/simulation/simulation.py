"""One schedule from its seed: a cluster, clients, a network and a chaos; then peace, and the verdict."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from kudurru_server.engine.engine import Engine
from kudurru_server.errors import KudurruError
from kudurru_server.model import START, Query
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.store import DynamoOptions

from tests.reference import OutOfRangeError, Recorded
from tests.simulation.checker import check
from tests.simulation.clients import Client
from tests.simulation.cluster import TICKS, GoneError, Nature, Node, bury
from tests.simulation.draws import World
from tests.simulation.fake_blobs import FakeBlobs
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables
from tests.simulation.history import History
from tests.simulation.loop import Process, SimulatedLoop, StuckError, run
from tests.simulation.restoring import Restoring, cut_back, watch_of, world_of
from tests.simulation.rows import RowsWatch, check_rows

_LIMIT_SECONDS = 3_000.0
_SETTLE_SECONDS = 12.0
_YEAR = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes wrong."""

    faults: Faults = field(default_factory=Faults)
    crashes: float = 0.0
    pauses: float = 0.0
    jumps: float = 0.0
    outages: float = 0.0
    index_lag_seconds: float = 0.0
    is_restored: bool = False
    """Tables are cut back to points in time, restored, and used again."""


FAULTY = Faults(
    slow=0.05,
    lost=0.04,
    unanswered=0.04,
    late=0.04,
    repeated=0.04,
    throttled=0.05,
    conflicting=0.05,
    partial=0.2,
    stale_seconds=0.5,
)
SCENARIOS = {
    "calm": Scenario(),
    "faulty network": Scenario(FAULTY, outages=0.3),
    "outages": Scenario(Faults(late=0.05), outages=1.0),
    "crashes": Scenario(Faults(late=0.05, repeated=0.05), crashes=1.0),
    "pauses": Scenario(Faults(late=0.05, repeated=0.05), pauses=1.0),
    "clock jumps": Scenario(Faults(partial=0.1), jumps=1.0),
    "index lag": Scenario(Faults(stale_seconds=2.0, partial=0.2), index_lag_seconds=6.0),
    "restore": Scenario(
        Faults(lost=0.01, late=0.02, repeated=0.02, partial=0.1), crashes=0.3, index_lag_seconds=1.0, is_restored=True
    ),
    "everything": Scenario(FAULTY, crashes=0.5, pauses=0.5, jumps=0.5, outages=0.3, index_lag_seconds=4.0),
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a schedule went."""

    problems: list[str]
    events: int
    trimmed: int
    effects: int
    seconds: float


def simulate(seed: str, scenario: Scenario) -> Result:
    """Run the schedule of a seed; the same seed is the same schedule."""
    simulation = _Simulation(seed, scenario)
    try:
        run(simulation.main, simulation.clean_up, limit_seconds=_LIMIT_SECONDS)
    except (StuckError, GoneError, OutOfRangeError, KudurruError) as error:
        simulation.problems.append(f"no verdict: {error!r}")
    tables = simulation.tables
    return Result(simulation.problems, simulation.events, simulation.trimmed, len(tables.journal), tables.now())


class _Simulation:
    def __init__(self, seed: str, scenario: Scenario) -> None:
        self._seed = seed
        self._scenario = scenario
        self.problems: list[str] = []
        self.events = 0
        self.trimmed = 0
        self.tables: FakeTables
        self._nodes: list[Node] = []
        self._peers: dict[str, Node] = {}
        self._gone: list[Node] = []
        self._restores: list[tuple[Process, FakeDatabase]] = []
        self._faults = Faults()
        self._pace = 0.0
        self._blobs: FakeBlobs | None = None

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self._seed}/{what}")

    async def main(self, loop: SimulatedLoop) -> None:
        chance = self._chance("shape")
        lag = self._scenario.index_lag_seconds
        self.tables = FakeTables(loop.time, self._chance("tables"), lag)
        dynamo = DynamoOptions(
            stripes=chance.randint(1, 3),
            write_shard_count=chance.randint(1, 3),
            in_transactions=chance.random() < 0.7,
            prefer_index=chance.random() < 0.5,
            writes_at_once=chance.choice((1, 4)),
            payload_threshold_bytes=200,
            patience_seconds=chance.choice((0.5, 4.0)),
            lease_seconds=chance.choice((0.4, 3.0)),
        )
        self._faults = replace(self._scenario.faults, delay_seconds=chance.choice((0.004, 0.03, 0.15)))
        self._pace = chance.choice((0.05, 0.2, 0.6))
        fails = self._faults.lost
        self._blobs = FakeBlobs({}, fails, self._chance("blobs")) if chance.random() < 0.5 else None
        natures: list[Nature] = []
        knows_others = chance.random() < 0.6
        for number in range(chance.randint(2, 3)):
            own = replace(dynamo, write_shard_count=dynamo.write_shard_count + chance.choice((0, 0, 2)))
            tail_bytes, delay_seconds = chance.choice((1, 4_000)), chance.choice((None, 0.02, 0.5))
            retention_seconds = self._chance(f"retention {number}").choice((None, 0.1, 1.0))
            nature = Nature(
                own,
                tail_bytes=tail_bytes,
                apply_delay_seconds=delay_seconds,
                blobs=self._blobs,
                knows_others=knows_others,
                is_reachable=chance.random() < 0.8,
                retention_seconds=retention_seconds,
            )
            natures.append(nature)
        watch = RowsWatch(self.tables)
        world = World([], History())
        recorded = await self._live(loop, natures, world, watch)
        if self._scenario.is_restored:
            if self._blobs is not None:
                self._blobs.fails = fails
            await self._restore(loop, natures, world, recorded)
        self.problems += loop.faults

    async def _live(
        self,
        loop: SimulatedLoop,
        natures: Sequence[Nature],
        world: World,
        watch: RowsWatch,
        *,
        life: str = "",
    ) -> dict[bytes, Recorded]:
        """Let nodes and clients live until there is peace; judge, and return what is recorded."""
        self.tables.watch = watch.see
        for number, nature in enumerate(natures):
            world.nodes.append(self._node(loop, f"{life}n{number}", nature, self._faults))
        self._nodes = list(world.nodes)
        chance = self._chance(f"{life}operations")
        clients = [Client(world, self._chance(f"{life}client {number}"), self._pace) for number in range(4)]
        following = [asyncio.ensure_future(client.follow()) for client in clients[:2]]
        chaos = asyncio.ensure_future(self._chaos(self._chance(f"{life}chaos")))
        await asyncio.gather(*(client.run(chance.randint(10, 25)) for client in clients))
        chaos.cancel()
        await asyncio.wait([chaos])
        world.done = True
        for node in self._nodes:
            node.resume()
            node.heal()
        if self._blobs is not None:
            self._blobs.fails = 0.0
        await asyncio.gather(*following)
        await asyncio.sleep(_SETTLE_SECONDS)
        frames = await self._read_again(loop, natures[0].dynamo, life)
        recorded = self._judge(world.history, watch, frames)
        self.events += len(recorded)
        self.trimmed += len(watch.trimmed)
        for node in self._nodes:
            await node.stop()
            self.problems += node.failures
        self._gone += self._nodes
        return recorded

    async def _restore(
        self,
        loop: SimulatedLoop,
        natures: Sequence[Nature],
        world: World,
        recorded: dict[bytes, Recorded],
    ) -> None:
        """Cut the tables back, restore them, and go on."""
        chance = self._chance("restore")
        self.tables = cut_back(self.tables, chance)
        restoring = Restoring(loop, self.tables, self._blobs, self._faults, chance)
        left = await restoring.run(natures[0].dynamo, recorded)
        self.problems += restoring.problems
        self._restores += restoring.processes
        if restoring.is_whole:
            await self._live(loop, natures, world_of(world, left), watch_of(self.tables), life="restored ")

    async def clean_up(self) -> None:
        """End what is still there of any node."""
        for node in dict.fromkeys([*self._gone, *self._nodes]):
            node.crash()
            await node.bury()
        for process, database in self._restores:
            await bury(process, database)

    def _node(self, loop: SimulatedLoop, name: str, nature: Nature, faults: Faults) -> Node:
        return Node(name, loop, self.tables, nature, faults, self._chance(name), self._peers)

    async def _read_again(self, loop: SimulatedLoop, dynamo: DynamoOptions, life: str) -> bytes:
        """Read everything on fresh nodes, in each of the ways there are, once all rows are written."""
        answers: list[bytes] = []
        for prefer_index in (False, True):
            nature = Nature(replace(dynamo, prefer_index=prefer_index), blobs=self._blobs)
            node = self._node(loop, f"{life}fresh {prefer_index}", nature, Faults())
            self._nodes.append(node)
            answers.append(await node.ask(_read_all, 100.0))
            await node.ask(self._applied, 100.0)
            answers.append(await node.ask(_read_all, 100.0))
        if len(set(answers)) > 1:
            self.problems.append(f"fresh nodes read different bytes: {list(map(len, answers))}")
        return answers[0]

    async def _applied(self, engine: Engine) -> None:
        """Wait until the watermark is at the head."""
        while True:
            item = self.tables.item(Table.LOG, keys.meta_key("applied"))
            if (0 if item is None else item["position"]) == engine.head.position:
                return
            await asyncio.sleep(0.05)

    def _judge(self, history: History, watch: RowsWatch, frames: bytes) -> dict[bytes, Recorded]:
        recorded, problems = check(history, frames, self.tables)
        self.problems += [*problems, *watch.problems, *check_rows(self.tables, recorded)]
        return recorded

    async def _chaos(self, chance: random.Random) -> None:
        scenario = self._scenario
        actions = (self._crash, self._pause, self._jump, self._outage)
        weights = (scenario.crashes, scenario.pauses, scenario.jumps, scenario.outages)
        while any(weights):
            await asyncio.sleep(chance.uniform(0, 1.5))
            action = chance.choices(actions, weights)[0]
            await action(chance.choice(self._nodes), chance)

    async def _crash(self, node: Node, chance: random.Random) -> None:
        if chance.random() < 0.2:
            stopping = asyncio.ensure_future(node.stop())
            await asyncio.wait([stopping], timeout=5.0)
            stopping.cancel()
        node.crash()
        try:
            await asyncio.sleep(chance.random() ** 2 * 3)
        finally:
            node.start()

    async def _pause(self, node: Node, chance: random.Random) -> None:
        node.pause()
        try:
            await asyncio.sleep(chance.choice((0.01, 0.3, 6.0)) * chance.random())
        finally:
            node.resume()

    async def _jump(self, node: Node, chance: random.Random) -> None:
        node.skew_ticks += chance.choice((-_YEAR, -300, -61, -1, 1, 61, 300, _YEAR)) * TICKS
        if chance.random() < 0.3:
            node.skew_ticks = 0

    async def _outage(self, node: Node, chance: random.Random) -> None:
        node.faults = node.database.faults = replace(self._faults, lost=0.95, unanswered=0.2, late=0.5, slow=0.5)
        await asyncio.sleep(chance.random() * 4)
        node.faults = node.database.faults = self._faults


async def _read_all(engine: Engine) -> bytes:
    span, _ = await engine.span(START, None, backwards=False)
    reading = engine.read(Query(), span, 0)
    async with aclosing(reading):
        return b"".join([batch.frames async for batch in reading])
