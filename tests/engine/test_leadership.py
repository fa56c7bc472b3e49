"""The soft leader: it saves lost puts, and whatever becomes of it, appends are recorded once and answered rightly."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from kudurru_server.engine import leadership
from kudurru_server.engine.engine import Engine
from kudurru_server.engine.judge import Outcome
from kudurru_server.engine.leadership import Neighbours
from kudurru_server.errors import (
    ConditionFailedError,
    InvalidRequestError,
    OverloadedError,
    StorageUnavailableError,
    UnavailableError,
)
from kudurru_server.model import TICKS_PER_SECOND, Append, Appended, Entry, Leader
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.store import DynamoStorage

from tests.builders import NOON, append, event, events_of, now_ticks, unless, uuid7
from tests.engine.cluster import FORGETFUL, Cluster, cluster, read_all
from tests.engine.nodes import PATIENCE_SECONDS, until

LEASE_SECONDS = 0.4


class Network:
    """Carries what nodes hand over; a node may be cut off, or its answers be lost."""

    def __init__(self) -> None:
        self.nodes: list[Engine] = []
        self.cut_off: set[str] = set()
        self.handed_over = 0
        self.on_the_way_back: Callable[[Sequence[Outcome]], Sequence[Outcome]] = lambda outcomes: outcomes

    async def forward(self, leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        if leader.address in self.cut_off:
            return lost(appends)
        self.handed_over += len(appends)
        node = self.nodes[int(leader.address)]
        return self.on_the_way_back(await node.append([replace(one) for one in appends], handed_to=leader.name))


def lost(them: Sequence[object]) -> list[Outcome]:
    return [StorageUnavailableError("no answer")] * len(them)


@asynccontextmanager
async def led(size: int) -> AsyncIterator[tuple[Cluster, Network]]:
    """Run nodes that may all lead."""
    network = Network()

    def neighbours(number: int, storage: DynamoStorage) -> Neighbours:
        return Neighbours(storage.leader_record, network.forward, f"node {number}", str(number), LEASE_SECONDS)

    async with cluster(size, 5, neighbours=neighbours) as nodes:
        network.nodes = nodes.engines
        yield nodes, network


async def keep_appending(engine: Engine, stop: asyncio.Event) -> list[Appended]:
    outcomes: list[Appended] = []
    while not stop.is_set():
        (outcome,) = await engine.append([append(event("Busy"))])
        assert isinstance(outcome, Appended)
        outcomes.append(outcome)
    return outcomes


@asynccontextmanager
async def busy(nodes: Sequence[Engine]) -> AsyncIterator[list[asyncio.Task[list[Appended]]]]:
    stop = asyncio.Event()
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        yield [tasks.create_task(keep_appending(engine, stop)) for engine in nodes]
        stop.set()


def leader_of(nodes: Cluster) -> str | None:
    item = nodes.tables.item(Table.LOG, keys.meta_key("leader"))
    return None if item is None else str(item["address"])


def writers(nodes: Cluster, low: int, high: int) -> set[str]:
    """Return who wrote the entries from `low` to `high`."""
    items = (nodes.tables.item(Table.LOG, keys.log_key(number, 2)) for number in range(low, high + 1))
    return {str(item["writer"]) for item in items if item is not None}


def entries(nodes: Cluster) -> int:
    number = 0
    while nodes.tables.item(Table.LOG, keys.log_key(number + 1, 2)) is not None:
        number += 1
    return number


async def test_nodes_that_append_at_once_find_a_leader_which_writes_every_entry() -> None:
    async with led(4) as (nodes, network):
        async with busy(nodes.engines) as running:
            await until(lambda: network.handed_over > 60)
            await until(lambda: len(writers(nodes, entries(nodes) - 20, entries(nodes))) == 1)
        outcomes = sorted((one for task in running for one in task.result()), key=lambda one: one.first)
        assert [one.first for one in outcomes] == list(range(1, len(outcomes) + 1))


async def test_where_nobody_loses_puts_nobody_leads() -> None:
    async with led(2) as (nodes, network):
        for number in range(6):
            await nodes.engines[number % 2].append([append(event())])
            await nodes.settled()
        assert leader_of(nodes) is None
        assert network.handed_over == 0


async def test_a_leader_that_nobody_needs_any_more_stops_beating() -> None:
    async with led(2) as (nodes, network):
        async with busy(nodes.engines):
            await until(lambda: network.handed_over > 5)
        record = nodes.tables.item(Table.LOG, keys.meta_key("leader"))
        await asyncio.sleep(4 * LEASE_SECONDS)
        last = nodes.tables.item(Table.LOG, keys.meta_key("leader"))
        await asyncio.sleep(2 * LEASE_SECONDS)
        assert record is not None
        assert last == nodes.tables.item(Table.LOG, keys.meta_key("leader"))


async def test_an_answer_can_be_read_on_the_node_that_gave_it() -> None:
    async with led(2) as (nodes, network), busy(nodes.engines[:1]):
        async with busy(nodes.engines):
            await until(lambda: network.handed_over > 5)
        for engine in nodes.engines:
            (outcome,) = await engine.append([append(event("Mine"))])
            assert isinstance(outcome, Appended)
            assert engine.head.position >= outcome.first
            assert events_of(await read_all(engine))[outcome.first - 1].event.event_type == "Mine"


async def test_a_leader_that_is_cut_off_is_done_without_and_then_replaced() -> None:
    async with led(3) as (nodes, network), busy(nodes.engines):
        await until(lambda: network.handed_over > 5)
        old = leader_of(nodes)
        assert old is not None
        network.cut_off.add(old)
        nodes.databases[int(old)].faults = replace(nodes.databases[int(old)].faults, lost=1.0)  # it beats no more
        await until(lambda: leader_of(nodes) != old)
        reached = network.handed_over
        await until(lambda: network.handed_over > reached + 5)
        nodes.databases[int(old)].faults = replace(nodes.databases[int(old)].faults, lost=0.0)


class Record:
    """A record in which the other node always leads."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    async def look(self) -> Leader:
        self._leader = replace(self._leader, beat=self._leader.beat + 1)
        return self._leader

    async def write(self, _leader: Leader, _seen: Leader | None) -> Leader:
        return await self.look()


@asynccontextmanager
async def follower(forward: leadership.Forward, network: Network | None = None) -> AsyncIterator[Engine]:
    """Run a node that has lost puts and hands its appends to `forward`, and another for the network."""

    def neighbours(number: int, _storage: DynamoStorage) -> Neighbours | None:
        record = Record(Leader("node 0", "0", 1))
        return Neighbours(record, forward, f"node {number}", None, LEASE_SECONDS)

    async with cluster(2, 5, neighbours=neighbours) as nodes:
        if network is not None:
            network.nodes = nodes.engines
        engine = nodes.engines[1]
        known = engine._leadership  # noqa: SLF001 - quicker than losing puts
        for _ in range(3):
            known.put_decided(lost=True)
        await until(lambda: known.is_elsewhere)
        yield engine


@pytest.mark.parametrize("ids", ["of the client", "of the server"])
async def test_what_a_leader_recorded_without_an_answer_is_recorded_once(ids: str) -> None:
    network = Network()
    network.on_the_way_back = lost
    async with follower(network.forward, network) as engine:
        wanted = append(event("Once"))
        wanted.fresh_ids = ids == "of the server"
        (outcome,) = await engine.append([wanted])
        assert isinstance(outcome, Appended)
        assert (outcome.first, outcome.already_committed) == (1, True)
        assert network.handed_over == 1
        assert engine.head.position == 1


async def test_a_refusal_after_a_lost_answer_is_no_refusal() -> None:
    calls = 0

    async def forward(_leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        nonlocal calls
        calls += 1
        return lost(appends)

    async with follower(forward) as engine:
        future = uuid7(now_ticks() + 3600 * TICKS_PER_SECOND)
        for expected in (StorageUnavailableError, InvalidRequestError):
            (outcome,) = await engine.append([append(event(event_id=future))])
            assert isinstance(outcome, expected)
        assert calls == 1  # then it is not trusted for a while


async def test_what_a_leader_refuses_without_deciding_it_is_decided_here() -> None:
    async def forward(_leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        return [OverloadedError("too much")] * len(appends)

    async with follower(forward) as engine:
        (outcome,) = await engine.append([append(event())])
        assert isinstance(outcome, Appended)
        impossible = append(event(), conditions=[unless((["A"], []), after=f"{now_ticks():019d}{9:011d}")])
        (refused,) = await engine.append([impossible])
        assert getattr(refused, "reason", "") == "CURSOR_OUT_OF_RANGE"


async def test_a_conflict_that_the_leader_found_is_found_here_too() -> None:
    network = Network()
    async with follower(network.forward, network) as engine:
        await network.nodes[0].append([append(event("A", "t"))])
        (outcome,) = await engine.append([append(event("B"), conditions=[unless(((), ("t",)))])])
        assert isinstance(outcome, ConditionFailedError)
        assert outcome.metadata["position"] == "1"
        assert network.handed_over == 1


async def test_what_a_leader_of_another_store_says_is_not_believed() -> None:
    async def forward(_leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        recorded = Appended(1, 1, NOON, already_committed=False)
        conflict = ConditionFailedError("CONDITION_FAILED", "condition 0 fails", position=7)
        outcomes: list[Outcome] = [recorded, conflict]
        return outcomes[: len(appends)]

    async with follower(forward) as engine:
        outcomes = await engine.append([append(event("A")), append(event("B"))])
        assert [getattr(outcome, "first", None) for outcome in outcomes] == [1, 2]
        assert [one.event.event_type for one in events_of(await read_all(engine))] == ["A", "B"]


@pytest.mark.parametrize("answer", ["none", "too few", "an exception", "a cancelled call"])
async def test_a_leader_that_answers_wrongly_ends_nothing(answer: str) -> None:
    async def forward(_leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        if answer == "an exception":
            raise ZeroDivisionError
        if answer == "a cancelled call":
            raise asyncio.CancelledError
        return [] if answer == "none" else [Appended(1, 1, NOON, already_committed=False)] * (len(appends) - 1)

    async with follower(forward) as engine:
        for _ in range(2):
            outcomes = await engine.append([append(event()), append(event())])
            assert all(isinstance(outcome, Appended) for outcome in outcomes)
            assert engine.head.position in {2, 4}


async def test_appends_for_a_node_of_another_name_are_not_recorded() -> None:
    async with led(1) as (nodes, _):
        with pytest.raises(UnavailableError):
            await nodes.engines[0].append([append(event())], handed_to="node 1")
        assert nodes.engines[0].head.position == 0


async def test_a_leader_that_never_answers_is_tried_ever_more_seldom() -> None:
    calls = 0

    async def forward(_leader: Leader, appends: Sequence[Append]) -> Sequence[Outcome]:
        nonlocal calls
        calls += 1
        return lost(appends)

    async with follower(forward) as engine, asyncio.timeout(PATIENCE_SECONDS):
        known = engine._leadership  # noqa: SLF001 - puts cannot be lost to a node that does nothing
        end = asyncio.get_running_loop().time() + 8 * LEASE_SECONDS
        while asyncio.get_running_loop().time() < end:
            for _ in range(3):
                known.put_decided(lost=True)
            await engine.append([append(event())])
        assert 2 <= calls <= 4  # after 0, 1, 3 and 7 leases


async def test_a_node_whose_log_cannot_be_read_after_a_lost_put_says_so_and_can_end() -> None:
    async with cluster(2, 5, FORGETFUL, FORGETFUL) as nodes, asyncio.timeout(PATIENCE_SECONDS):
        one, other = nodes.engines
        await one.append([append(event())])
        real = other._storage.entries  # noqa: SLF001 - the log is written, and cannot be read

        async def unreadable(after: int, *, latest: bool = True) -> Sequence[Entry]:  # noqa: ARG001
            raise StorageUnavailableError

        other._storage.entries = unreadable  # type: ignore[method-assign] # noqa: SLF001
        (outcome,) = await other.append([append(event())])
        assert isinstance(outcome, StorageUnavailableError)
        await other.drain()
        other._storage.entries = real  # type: ignore[method-assign] # noqa: SLF001
        assert other.head.position == 0


async def test_a_leader_that_is_silent_delays_an_append_by_a_lease_at_most() -> None:
    async def forward(_leader: Leader, _appends: Sequence[Append]) -> Sequence[Outcome]:
        await asyncio.Event().wait()
        raise AssertionError

    async with follower(forward) as engine:
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            assert isinstance((await engine.append([append(event())]))[0], Appended)
        assert LEASE_SECONDS < asyncio.get_running_loop().time() - began < 2 * LEASE_SECONDS


async def test_what_was_handed_over_is_not_handed_on() -> None:
    async def forward(_leader: Leader, _appends: Sequence[Append]) -> Sequence[Outcome]:
        raise AssertionError

    async with follower(forward) as engine:
        assert isinstance((await engine.append([append(event())], handed_to="node 1"))[0], Appended)
