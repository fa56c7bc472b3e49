"""`python -m bench.dynamodb_client`: what the settings of the DynamoDB client save, on DynamoDB Local.

The same calls, in turns, by aiobotocore as it comes and as the server uses it: CPU time of this process for one call,
and, of many callers at once, how long each waits.
"""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.aws import Connection, open_client
from kudurru_server.storage.dynamodb.client import open_database
from kudurru_server.storage.dynamodb.database import Database, Item, Key, Question, Table
from kudurru_server.storage.dynamodb.values import item_from_wire, item_to_wire
from rich.console import Console
from rich.table import Table as Shown

from examples.local_aws.components import dynamodb_local

_PREFIX = "bench-"
_REPETITIONS = 15
_CALLS = 20
_CALLERS = 200
_CALLS_OF_A_CALLER = 20
_HOLDER = "TAG#bench:1"


class Plain:
    """The calls as a client makes them that nobody has set anything for."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - the generated client
        self._client = client

    async def get(self) -> None:
        """Read one item."""
        key: Item = {"pk": _HOLDER, "sk": f"{0:041d}"}
        answer = await self._client.get_item(TableName=f"{_PREFIX}tags", Key=item_to_wire(key))
        item_from_wire(answer["Item"])

    async def put(self, item: Item) -> None:
        """Write one item."""
        await self._client.put_item(TableName=f"{_PREFIX}tags", Item=item_to_wire(item))

    async def page(self) -> None:
        """Read 100 items."""
        answer = await self._client.query(
            TableName=f"{_PREFIX}tags",
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": _HOLDER}},
            Limit=100,
        )
        for item in answer["Items"]:
            item_from_wire(item)

    async def transact(self, items: list[Item], token: str) -> None:
        """Write 100 items."""
        puts = [{"Put": {"TableName": f"{_PREFIX}tags", "Item": item_to_wire(item)}} for item in items]
        await self._client.transact_write_items(TransactItems=puts, ClientRequestToken=token)


class Ours:
    """The same calls through the server's own client."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self) -> None:
        """Read one item."""
        await self._database.get(Table.TAGS, Key(_HOLDER, f"{0:041d}"), consistent=False)

    async def put(self, item: Item) -> None:
        """Write one item."""
        await self._database.put(Table.TAGS, item)

    async def page(self) -> None:
        """Read 100 items."""
        await self._database.query(Question(Table.TAGS, _HOLDER, "0", "~"), 100)

    async def transact(self, items: list[Item], token: str) -> None:
        """Write 100 items."""
        await self._database.transact([(Table.TAGS, item) for item in items], token)


Client = Plain | Ours


async def main() -> None:
    """Measure and print."""
    with dynamodb_local() as local:
        os.environ.update(local.environment)
        await _prepare()
        async with _plain() as plain, _plain(64) as wide, open_database(_PREFIX, Connection()) as database:
            console = Console(width=110)
            console.print(await _cpu(Plain(plain), Ours(database)))
            callers: dict[str, Client] = {
                "as it comes (10 connections)": Plain(plain),
                "64 connections": Plain(wide),
                "64 connections and a queue (the server's)": Ours(database),
            }
            console.print(await _waiting(callers))


async def _prepare() -> None:
    async with open_client("dynamodb", Connection()) as client:
        await tables.create(client, _PREFIX, protect=False)
    async with open_database(_PREFIX, Connection()) as database:
        for number in range(100):
            await database.put(Table.TAGS, _row(_HOLDER, number))


def _row(pk: str, number: int) -> Item:
    """Return a row of a tag with an event of 300 bytes."""
    return {
        "pk": pk,
        "sk": f"{number:041d}",
        "sortable_unique_id": f"{number:030d}",
        "position": number,
        "event_id": f"{number:036d}",
        "event_type": "Benchmarked",
        "tags": ["bench:1", "bench:2"],
        "append_first": number,
        "append_count": 1,
        "frame": bytes(300),
    }


@asynccontextmanager
async def _plain(connections: int | None = None) -> AsyncIterator[Any]:
    config = AioConfig(max_pool_connections=connections) if connections else None
    async with get_session().create_client("dynamodb", config=config) as client:
        yield client


async def _cpu(plain: Client, ours: Client) -> Shown:
    shown = Shown("call", "as it comes, us of CPU", "the server's, us of CPU", "ratio", title="one call")
    log_entry: Item = {"pk": "TAG#log", "sk": "1", "frame": os.urandom(30_000)}
    calls: dict[str, Callable[[Client, int], Awaitable[None]]] = {
        "GetItem": lambda client, _: client.get(),
        "PutItem, 30 KB": lambda client, _: client.put(log_entry),
        "Query, 100 items": lambda client, _: client.page(),
        "TransactWriteItems, 100 items": lambda client, number: client.transact(
            [_row("TAG#t", place) for place in range(100)], f"{number}-{id(client)}"
        ),
    }
    for name, call in calls.items():
        costs: dict[Client, list[float]] = {plain: [], ours: []}
        for repetition in range(_REPETITIONS):
            for client, found in costs.items():
                begin = time.process_time()
                for number in range(_CALLS):
                    await call(client, repetition * _CALLS + number)
                found.append((time.process_time() - begin) / _CALLS * 1e6)
        before, after = (statistics.median(found) for found in costs.values())
        shown.add_row(name, f"{before:,.0f}", f"{after:,.0f}", f"{before / after:.2f}")
    return shown


async def _waiting(callers: Mapping[str, Client]) -> Shown:
    title = f"GetItem, {_CALLERS} callers at once, {_CALLS_OF_A_CALLER} calls each"
    shown = Shown("client", "calls/s", "p50 ms", "p99 ms", "max ms", "first caller done / last, s", title=title)
    for name, client in callers.items():
        rounds = [await _round(client.get) for _ in range(5)]
        middle = sorted(rounds, key=lambda one: one[0])[len(rounds) // 2]
        seconds, waits, ends = middle
        shown.add_row(
            name,
            f"{len(waits) / seconds:,.0f}",
            *(f"{waits[min(len(waits) - 1, int(len(waits) * share))] * 1e3:.0f}" for share in (0.5, 0.99, 1)),
            f"{ends[0]:.2f} / {ends[-1]:.2f}",
        )
    return shown


async def _round(call: Callable[[], Awaitable[None]]) -> tuple[float, list[float], list[float]]:
    """Return how long all took, each call's wait, and when each caller was done, in order."""
    begin = time.perf_counter()
    waits: list[float] = []

    async def caller() -> float:
        for _ in range(_CALLS_OF_A_CALLER):
            asked = time.perf_counter()
            await call()
            waits.append(time.perf_counter() - asked)
        return time.perf_counter() - begin

    ends = await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return time.perf_counter() - begin, sorted(waits), sorted(ends)


if __name__ == "__main__":
    asyncio.run(main())
