"""`python -m bench.cost`: the units that appends, reads and idle hours consume, on DynamoDB Local, as markdown.

Events of 300 bytes, incompressible, whose tags the store knows; nothing but what is measured runs meanwhile.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, cast
from uuid import uuid4

import typer
from kudurru_server._proto import event_pb2
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.convert import Converter, same_content
from kudurru_server.cost import spend
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.model import Append, Limits, Query, QueryItem
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.aws import Connection, open_client
from kudurru_server.storage.dynamodb.client import open_database
from kudurru_server.storage.dynamodb.database import Database
from kudurru_server.storage.dynamodb.store import DynamoOptions, DynamoStorage, open_storage
from kudurru_server.storage.interface import Span

from bench.counting import CountingDatabase, Ledger, PlainLayout
from examples.local_aws.components import dynamodb_local

_EVENT_BYTES = 300
_TAG_COUNTS = (0, 1, 2, 4)
_ALONE = 10
_GROUP = 100
_GROUPS = 3
_READ = 1000
_HOUR_SECONDS = 3600
_NEVER = 3600.0
_SETTLE_SECONDS = 2.0
_CONNECTION = Connection(read_timeout_seconds=20)


def main(
    seconds: Annotated[float, typer.Option(help="How long each hour is watched before it is extrapolated.")] = 20.0,
) -> None:
    """Measure units."""
    with dynamodb_local() as component:
        os.environ.update(component.environment)
        asyncio.run(_run(seconds))


async def _run(seconds: float) -> None:
    typer.echo(await appends())
    typer.echo(await reads())
    typer.echo(await conditions())
    typer.echo(await hours(seconds))


@dataclass(frozen=True)
class Node:
    """A node and what it consumes."""

    engine: Engine
    storage: DynamoStorage
    ledger: Ledger

    async def append(self, *appends: Append) -> None:
        """Append in one group, and wait until it is applied."""
        for outcome in await self.engine.append(appends):
            if isinstance(outcome, Exception):
                raise outcome
        while self.engine.applied < self.engine.head.position:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


def _event(tags: Sequence[str]) -> event_pb2.Event:
    event = event_pb2.Event(event_type="OrderPlaced", tags=tags, content_type="application/json")
    event.data = os.urandom(_EVENT_BYTES - event.ByteSize() - 41)  # 38 of the id, 3 of the data's own
    return event


def _append(tags: Sequence[str], condition: event_pb2.AppendCondition | None = None) -> Append:
    conditions = [condition] if condition is not None else []
    return Converter(Limits()).append(pb.AppendRequest(events=[_event(tags)], conditions=conditions))


async def _new_store() -> str:
    prefix = f"bench-{uuid4().hex}-"
    async with open_client("dynamodb", _CONNECTION) as client:
        await tables.create(client, prefix, protect=False)
    return prefix


@asynccontextmanager
async def _database(prefix: str, ledger: Ledger) -> AsyncIterator[CountingDatabase]:
    async with open_database(
        prefix, _CONNECTION, on_capacity=lambda _, table, read, write: spend(table, read, write)
    ) as real:
        yield CountingDatabase(real, ledger)


@asynccontextmanager
async def _node(prefix: str, options: DynamoOptions | None = None, *, follows: bool = False) -> AsyncIterator[Node]:
    ledger, chance = Ledger(), random.SystemRandom()
    defaults = EngineOptions(entry_bytes=1 << 20, follow_busy_seconds=0.025, apply_delay_seconds=0.2)
    alone = EngineOptions(
        entry_bytes=1 << 20, follow_busy_seconds=_NEVER, follow_idle_seconds=_NEVER, apply_delay_seconds=0
    )
    async with (
        _database(prefix, ledger) as database,
        open_storage(cast("Database", database), None, options or DynamoOptions(), chance=chance) as storage,
        run_engine(storage, same_content, defaults if follows else alone) as engine,
    ):
        yield Node(engine, storage, ledger)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join([f"### {title}", "", *("| " + " | ".join(map(str, line)) + " |" for line in lines), ""])


def _number(units: float) -> str:
    return f"{units:,.0f}" if units >= _READ else f"{units:.2f}".rstrip("0").rstrip(".")


# ── appends ──


async def appends() -> str:
    """Write units of an event by how many tags it has and how many are committed together."""
    rows = []
    for count in _TAG_COUNTS:
        tags = [f"tag:{number}" for number in range(count)]
        together = {mode: await _append_units(tags, in_transactions=mode) for mode in (True, False)}
        plain = await _plain_units(tags)
        for name, place in (("alone", 0), (f"in a group of {_GROUP}", 1)):
            (put, transactions, rest, read), (_, batches, _, _) = together[True][place], together[False][place]
            totals = put + transactions + rest, put + batches + rest
            rows.append(
                [
                    f"{count} tag{'s' if count != 1 else ''}, {name}",
                    *map(_number, (put, transactions, batches, rest, *totals, plain, read)),
                ]
            )
    columns = (
        "an event with",
        "log put",
        "rows in transactions",
        "rows in batches",
        "type and watermark",
        "total, transactions",
        "total, batches",
        "plain layout",
        "read units",
    )
    return _table("Write units of an append, per event", columns, rows)


async def _append_units(tags: Sequence[str], *, in_transactions: bool) -> list[tuple[float, ...]]:
    """Return for events alone and in a group the units of: log put, rows, type and watermark, and what is read."""
    found = []
    async with _node(await _new_store(), DynamoOptions(in_transactions=in_transactions)) as node:
        await node.append(_append(tags))
        for rounds, group in ((_ALONE, 1), (_GROUPS, _GROUP)):
            node.ledger.clear()
            for _ in range(rounds):
                await node.append(*(_append(tags) for _ in range(group)))
            ledger = node.ledger
            parts = ledger.write("put"), ledger.write("transact", "write_many"), ledger.write("update"), ledger.read()
            found.append(tuple(units / rounds / group for units in parts))
    return found


async def _plain_units(tags: Sequence[str]) -> float:
    ledger = Ledger()
    async with _database(await _new_store(), ledger) as database:
        for position in range(_ALONE):
            await PlainLayout(database).append(position, tags, os.urandom(_EVENT_BYTES))
    return ledger.write() / _ALONE


# ── reads ──


async def reads() -> str:
    """Read units of a thousand events, by where they are read."""
    by_tag = Query((QueryItem(tags=("tag:0",)),))
    rows = []
    for group in (_GROUP, 1):
        prefix = await _filled(group)
        name = f"entries of {group}"
        for how, options, query in (
            ("the log", DynamoOptions(), Query()),
            ("the index of all events", DynamoOptions(prefer_index=True), Query()),
            ("a tag", DynamoOptions(), by_tag),
        ):
            async with _node(prefix, options) as node:
                node.ledger.clear()
                await _read(node, query)
                rows.append([f"{how}, {name}", _number(node.ledger.read())])
    ledger = Ledger()
    async with _database(await _new_store(), ledger) as database:
        plain = PlainLayout(database)
        for position in range(_READ):
            await plain.append(position, ["tag:0", "tag:1"], os.urandom(_EVENT_BYTES))
        for how, reading in (("the index of all events", plain.read()), ("a tag", plain.read_tag("tag:0"))):
            ledger.clear()
            if await reading != _READ:
                raise RuntimeError("not everything was read")
            rows.append([f"{how}, plain layout", _number(ledger.read())])
    return _table(f"Read units of {_READ:,} events with 2 tags", ("read by", "read units"), rows)


async def _filled(group: int) -> str:
    prefix = await _new_store()
    async with _node(prefix, DynamoOptions(in_transactions=False)) as node:
        for _ in range(0, _READ, group):
            outcomes = await node.engine.append([_append(["tag:0", "tag:1"]) for _ in range(group)])
            if any(isinstance(outcome, Exception) for outcome in outcomes):
                raise RuntimeError("an append failed")
        await node.append(_append([]))
    return prefix


async def _read(node: Node, query: Query) -> None:
    span, found = Span(0, _READ), 0
    while span.after < span.until:
        batch = await node.storage.history(query, span, _READ, 1 << 20)
        found += batch.count
        span = span.beyond(batch.reached)
    if found != _READ:
        raise RuntimeError("not everything was read")


# ── conditions ──


async def conditions() -> str:
    """Read units of a condition that the tail does not answer."""
    prefix = await _filled(_GROUP)
    async with _node(prefix) as node:
        middle = str(await node.engine.cursor_at(_READ // 2))
    rows = []
    for name, after, item in (
        ("a tag that no event has, the whole history", "", event_pb2.QueryItem(tags=["tag:new"])),
        ("two tags that no event has", "", event_pb2.QueryItem(tags=["tag:new", "tag:newer"])),
        ("a tag that no event has, after an old cursor", middle, event_pb2.QueryItem(tags=["tag:new"])),
        ("a type that no event has", "", event_pb2.QueryItem(event_types=["Never"])),
        ("a tag that 500 later events have: refused", middle, event_pb2.QueryItem(tags=["tag:0"])),
    ):
        async with _node(prefix) as node:
            node.ledger.clear()
            condition = event_pb2.AppendCondition(fail_if_events_match=event_pb2.Query(items=[item]), after=after)
            await node.engine.append([_append([], condition)])
            rows.append([name, _number(node.ledger.read())])
    return _table(
        "Read units of an append with a condition older than the tail", ("a condition on", "read units"), rows
    )


# ── hours ──


async def hours(seconds: float) -> str:
    """Units of an hour of several nodes, at rest and with traffic."""
    rows = []
    for name, count, writers in (
        ("one node, idle", 1, 0),
        ("four nodes, idle", 4, 0),
        ("one node, 10 appends a second", 1, 1),
        ("four nodes, 10 appends a second on one of them", 4, 1),
        ("four nodes, 10 appends a second spread over all", 4, 4),
    ):
        prefix = await _new_store()
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(_node(prefix, follows=True)) for _ in range(count)]
            await nodes[0].append(_append(["tag:0", "tag:1"]))
            await asyncio.sleep(_SETTLE_SECONDS)
            for node in nodes:
                node.ledger.clear()
            await _traffic(nodes[:writers], seconds)
            read, write = sum(node.ledger.read() for node in nodes), sum(node.ledger.write() for node in nodes)
        rows.append([name, *(f"{units * _HOUR_SECONDS / seconds:,.0f}" for units in (read, write))])
    return _table("Units of an hour, all nodes together", ("an hour of", "read units", "write units"), rows)


async def _traffic(writers: Sequence[Node], seconds: float) -> None:
    """Append an event with two tags ten times a second, by the writers in turn; without any, only wait."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(10 * seconds)):
            if writers:
                tasks.create_task(writers[number % len(writers)].engine.append([_append(["tag:0", "tag:1"])]))
            await asyncio.sleep(max(0.0, begin + (number + 1) / 10 - loop.time()))


if __name__ == "__main__":
    typer.run(main)
