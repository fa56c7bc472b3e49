"""Who pays: what an append, a lost put, a look-up and a node's own work cost, on tables that charge for every call."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from kudurru_server.api.convert import same_content
from kudurru_server.cost import Bill, current_bill, shared_by, spend
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import ConditionFailedError
from kudurru_server.metrics import Metrics
from kudurru_server.model import Append, Appended
from kudurru_server.storage.dynamodb.database import Condition, Item, Key, Page, Question, Refused, Table
from kudurru_server.storage.dynamodb.store import DynamoOptions, open_storage
from kudurru_server.storage.observed import ObservedStorage

from tests.builders import append, event, unless
from tests.engine.nodes import until
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables

NEVER = 60.0
PUT = 8.0


class Charging(FakeDatabase):
    """Tables in memory where a put costs 8 write units, any other write 1, and whatever reads 1 read unit."""

    async def put(self, table: Table, item: Item, condition: Condition | None = None) -> Refused | None:
        spend(table, 0.0, PUT)
        return await super().put(table, item, condition)

    async def get(self, table: Table, key: Key, *, consistent: bool) -> Item | None:
        spend(table, 1.0, 0.0)
        return await super().get(table, key, consistent=consistent)

    async def query(self, question: Question, limit: int | None = None, start: Item | None = None) -> Page:
        spend(question.table, 1.0, 0.0)
        return await super().query(question, limit, start)

    async def transact(self, writes: Sequence[tuple[Table, Item]], token: str) -> None:
        spend(writes[0][0], 0.0, 1.0)
        await super().transact(writes, token)


class Node:
    """A node whose database charges."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self.engine = engine
        self._metrics = metrics

    async def append(self, *appends: Append) -> tuple[list[Outcome], Bill]:
        """Hand appends in together; return their outcomes and their bill."""
        with Bill(self._metrics.account("Append")) as bill:
            return await self.engine.append(appends), bill

    def write_units(self, account: str) -> float:
        """Return what an account has paid for writes."""
        return self._units("write", account)

    def read_units(self, account: str) -> float:
        """Return what an account has paid for reads."""
        return self._units("read", account)

    def _units(self, kind: str, account: str) -> float:
        values = (
            self._metrics.registry.get_sample_value(
                f"kudurru_{kind}_units_total", {"account": account, "table": str(table)}
            )
            for table in Table
        )
        return sum(value or 0.0 for value in values)


@asynccontextmanager
async def node(
    tables: FakeTables, *, seed: int = 1, follow_seconds: float = NEVER, apply_seconds: float = NEVER
) -> AsyncIterator[Node]:
    metrics, chance = Metrics(), random.Random(seed)
    engine_options = EngineOptions(
        tail_bytes=1,
        follow_busy_seconds=follow_seconds,
        follow_idle_seconds=follow_seconds,
        apply_delay_seconds=apply_seconds,
    )
    database = Charging(tables, str(seed), Faults(delay_seconds=0.0), chance)
    async with open_storage(database, None, DynamoOptions(poll_seconds=0.01), chance=chance) as storage:
        observed = ObservedStorage(storage, metrics)
        async with run_engine(observed, same_content, engine_options) as engine:
            yield Node(engine, metrics)


@pytest.fixture
async def tables() -> FakeTables:
    return FakeTables(asyncio.get_running_loop().time, random.Random(1))


async def test_appends_of_an_entry_pay_for_it_by_their_number_of_events(tables: FakeTables) -> None:
    async with node(tables) as one:
        (_, small), (_, large), (_, several) = await asyncio.gather(
            one.append(append(event())),
            one.append(append(event(), event(), event())),
            one.append(append(event(), event()), append(event(), event())),
        )
        assert (small.write_units, large.write_units, several.write_units) == (PUT / 8, PUT * 3 / 8, PUT * 4 / 8)
        assert one.write_units("Append") == PUT


async def test_a_refused_append_pays_nothing_for_the_entry(tables: FakeTables) -> None:
    async with node(tables) as one:
        (_, recorded), ((refused,), bill) = await asyncio.gather(
            one.append(append(event("A"))), one.append(append(event(), conditions=[unless((["A"], ()))]))
        )
        assert isinstance(refused, ConditionFailedError)
        assert recorded.write_units == PUT
        assert bill.write_units == 0.0


async def test_a_lost_put_is_paid_by_the_appends_that_were_in_it(tables: FakeTables) -> None:
    async with node(tables) as one, node(tables, seed=2) as other:
        await other.append(append(event()))
        (_, bill), (_, same_entry) = await asyncio.gather(one.append(append(event())), one.append(append(event())))
        assert bill.write_units == same_entry.write_units == PUT * 2 / 2
        assert bill.read_units == same_entry.read_units > 0.0
        assert one.write_units("follow") == one.read_units("follow") == 0.0


async def test_a_look_up_of_old_events_is_paid_by_the_append_that_needs_it(tables: FakeTables) -> None:
    async with node(tables, apply_seconds=0.0) as one:
        for _ in range(8):
            await one.append(append(event("A", "a")))
        await until(lambda: one.engine._tail.start > 1)  # noqa: SLF001 - what the tail holds is not shown to clients
        (_, plain), ((asking,), bill) = await asyncio.gather(
            one.append(append(event("B"))), one.append(append(event("B"), conditions=[unless(((), ["b"]))]))
        )
        assert isinstance(asking, Appended)
        assert bill.read_units > 0.0
        assert plain.read_units == 0.0


async def test_what_nobody_asked_for_is_paid_by_accounts_of_its_own(tables: FakeTables) -> None:
    async with node(tables, follow_seconds=0.005, apply_seconds=0.0) as one:
        _, bill = await one.append(append(event()))
        await until(lambda: one.engine.applied == 1 and one.read_units("follow") > 2)
        assert bill.write_units == one.write_units("Append") == PUT
        assert one.write_units("apply") > 0.0
        assert one.write_units("follow") == 0.0


async def test_tasks_pay_into_the_bill_of_what_started_them() -> None:
    async def work() -> None:
        spend("t", 0.5, 1.0)

    with Bill() as outer:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            with Bill() as inner:
                tasks.create_task(work())
        assert current_bill() is outer
    assert (outer.read_units, outer.write_units) == (inner.read_units, inner.write_units) == (0.5, 1.0)


def test_work_that_fails_is_split_as_well() -> None:
    class Payer:
        def __init__(self, weight: int) -> None:
            self.bill, self.weight = Bill(), weight

    def work() -> None:
        with shared_by(payers):
            spend("t", 2.0, 4.0)
            raise ValueError("it fails")

    payers = [Payer(1), Payer(3)]
    with pytest.raises(ValueError, match="fails"):
        work()
    assert [(payer.bill.read_units, payer.bill.write_units) for payer in payers] == [(0.5, 1.0), (1.5, 3.0)]
