"""Server processes that append at the same time let one of them write the log, and outlive it."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.aws.clients import dynamodb_client
from tests.e2e.client import Client, connect, event
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import load, until
from tests.server_process import ServerProcess, run_server

_LEASE_SECONDS = 5.0
_ENTRIES = 30


@asynccontextmanager
async def servers(folder: Path, environment: dict[str, str], count: int) -> AsyncIterator[list[ServerProcess]]:
    """Run servers that may all lead, one after the other."""
    async with AsyncExitStack() as stack:
        flags = ("--advertise", "127.0.0.1:0", "--dynamodb-lease-seconds", str(_LEASE_SECONDS))
        yield [
            await stack.enter_async_context(run_server(folder / str(number), *flags, env=environment))
            for number in range(count)
        ]


class Log:
    """What the tables say of the entries and of the leader."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._table = f"{environment['KUDURRU_DYNAMODB_TABLE_PREFIX']}log"

    async def leader(self) -> str | None:
        """Return the address of the leader."""
        async with dynamodb_client(self._environment) as client:
            key = {"pk": {"S": "META#leader"}, "n": {"N": "0"}}
            item = (await client.get_item(TableName=self._table, Key=key, ConsistentRead=True)).get("Item")
        return None if item is None else item["address"]["S"]

    async def writers(self) -> list[str]:
        """Return who wrote each entry."""
        found: dict[int, str] = {}
        async with dynamodb_client(self._environment) as client:
            for stripe in range(4):
                pages = client.get_paginator("query").paginate(
                    TableName=self._table,
                    KeyConditionExpression="pk = :pk",
                    ExpressionAttributeValues={":pk": {"S": f"LOG#0#{stripe}"}},
                    ProjectionExpression="n, writer",
                    ConsistentRead=True,
                )
                async for page in pages:
                    found |= {int(item["n"]["N"]): item["writer"]["S"] for item in page["Items"]}
        return [found[number] for number in sorted(found)]

    async def is_written_by_one(self) -> bool:
        """Tell whether nearly all of the last entries have one writer."""
        last = (await self.writers())[-_ENTRIES:]
        return len(last) == _ENTRIES and Counter(last).most_common(1)[0][1] >= 0.8 * _ENTRIES


async def _load(address: str, ledger: Ledger, seed: int) -> None:
    async with connect(address) as client:
        await load(client, ledger, random.Random(seed), unary=6, streams=1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_busy_servers_let_one_write_and_outlive_it(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    ledgers, log = [Ledger() for _ in range(3)], Log(environment)
    async with servers(tmp_path, environment, 3) as running, asyncio.TaskGroup() as tasks:
        for seed, (server, ledger) in enumerate(zip(running, ledgers, strict=True)):
            tasks.create_task(_load(server.address, ledger, seed))
        await until(log.is_written_by_one, "leader", 120)
        address = await log.leader()
        (leader,) = (server for server in running if server.address == address)
        leader.signal(number)
        others = [place for place, server in enumerate(running) if server is not leader]
        answered = [len(ledgers[place].acknowledged) for place in others]
        struck = time.monotonic()
        await until(
            lambda: all(
                len(ledgers[place].acknowledged) > before + 30 for place, before in zip(others, answered, strict=True)
            ),
            "answers from the others",
            60,
        )
        delay = time.monotonic() - struck

        async def replaced() -> bool:
            return await log.leader() not in {None, address}

        await until(replaced, "new leader", 120)
        await until(log.is_written_by_one, "log written by it", 120)
        if number == signal.SIGSTOP:
            leader.signal(signal.SIGCONT)
        for server in running:
            await server.stop() if server is not leader else await server.kill()
    assert delay < 20 * _LEASE_SECONDS
    async with run_server(tmp_path / "again", env=environment) as server, connect(server.address) as client:
        await _settle(ledgers, client)


async def _settle(ledgers: list[Ledger], client: Client) -> None:
    """Settle one account of what all clients were told."""
    ledger = Ledger()
    ledger.note(fence := append_request([event("Fence")]), await client.append(fence))
    for each in ledgers:
        ledger.acknowledged += each.acknowledged
        ledger.refused += each.refused
        ledger.unanswered += each.unanswered
    await ledger.settle(client)
