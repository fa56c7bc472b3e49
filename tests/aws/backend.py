"""The store on a real DynamoDB, in tables of its own, as a backend of the conformance suite."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import uuid4

from aiobotocore.client import AioBaseClient
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.aws import Connection, call, open_client
from kudurru_server.storage.dynamodb.client import open_database
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.store import DynamoOptions, open_storage
from kudurru_server.storage.interface import Storage

from tests.aws.components import Component
from tests.storage.backends import IN_TRANSACTIONS

_BATCH_ITEMS = 25


def new_prefix() -> str:
    """Return a prefix that no other test uses."""
    return f"test-{uuid4().hex}-"


@dataclass
class DynamoBackend:
    """A store on a component, whose credentials are in the environment."""

    component: Component
    options: DynamoOptions = IN_TRANSACTIONS
    endpoint: str | None = None
    """Where the store finds the component, if there is something in between."""
    prefix: str = field(default_factory=new_prefix)
    seeds: Iterator[int] = field(default_factory=lambda: count(1))
    exists: bool = False

    @property
    def connection(self) -> Connection:
        """How to reach the component."""
        return Connection(
            endpoint_url=self.component.endpoint,
            region=self.component.environment["AWS_REGION"],
            read_timeout_seconds=20,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Storage]:
        """Open the store."""
        if not self.exists:
            async with open_client("dynamodb", self.connection) as client:
                await tables.create(client, self.prefix, protect=False)
            self.exists = True
        connection = replace(self.connection, endpoint_url=self.endpoint or self.component.endpoint)
        chance = random.Random(next(self.seeds))  # a node draws its name and its tokens, which must differ
        async with (
            open_database(self.prefix, connection) as database,
            open_storage(database, None, self.options, chance=chance) as storage,
        ):
            yield storage

    def crashed(self) -> "DynamoBackend":
        """Return a copy of the tables as they are now."""
        copy = DynamoBackend(self.component, self.options, self.endpoint)
        with ThreadPoolExecutor(1) as thread:  # there may be a loop in this one
            thread.submit(lambda: asyncio.run(self._copy(copy.prefix))).result()
        copy.exists = True
        return copy

    async def _copy(self, prefix: str) -> None:
        async with open_client("dynamodb", self.connection) as client:
            await tables.create(client, prefix, protect=False)
            for table in (Table.LOG, Table.EVENTS, Table.TAGS):  # no row is missing that the watermark tells of
                await self._copy_table(client, table, prefix)

    async def _copy_table(self, client: AioBaseClient, table: Table, prefix: str) -> None:
        start: dict[str, object] = {}
        while True:
            page = await call(client, "scan", TableName=f"{self.prefix}{table}", ConsistentRead=True, **start)
            puts = [{"PutRequest": {"Item": item}} for item in page["Items"]]
            for first in range(0, len(puts), _BATCH_ITEMS):
                batch = {f"{prefix}{table}": puts[first : first + _BATCH_ITEMS]}
                await call(client, "batch_write_item", RequestItems=batch)
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
