"""Tables are made once, checked and described, on DynamoDB Local."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiobotocore.client import AioBaseClient
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.aws import Connection, call, open_client
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.retries import OperatorError

from tests.aws.components import Component


@pytest.fixture
async def client(dynamodb: Component, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AioBaseClient]:
    """Return a client of a DynamoDB."""
    for name, value in dynamodb.environment.items():
        monkeypatch.setenv(name, value)
    async with open_client("dynamodb", Connection(read_timeout_seconds=20.0)) as opened:
        yield opened


@pytest.fixture
def prefix() -> str:
    return f"{uuid.uuid4().hex}-"


async def test_two_nodes_create_the_tables_at_once(client: AioBaseClient, prefix: str) -> None:
    await asyncio.gather(*(tables.create(client, prefix) for _ in range(4)))
    await tables.create(client, prefix)
    await tables.verify(client, prefix)


async def test_tables_are_described(client: AioBaseClient, prefix: str) -> None:
    assert {found.status for found in await tables.describe(client, prefix)} == {"MISSING"}
    await tables.create(client, prefix)
    found = {description.name: description for description in await tables.describe(client, prefix)}
    assert set(found) == {f"{prefix}{table}" for table in Table}
    assert found[f"{prefix}log"].keys == ("pk S", "n N")
    events = found[f"{prefix}events"]
    assert (events.status, events.item_count, events.deletion_protection) == ("ACTIVE", 0, True)
    assert events.indexes == {"all_events": ("gsi1pk S", "sortable_unique_id S", "ALL", "ACTIVE")}
    assert events.point_in_time_recovery is None  # DynamoDB Local does not know it


async def test_missing_tables_are_named(client: AioBaseClient, prefix: str) -> None:
    with pytest.raises(OperatorError) as caught:
        await tables.verify(client, prefix)
    missing = "; ".join(f"table {prefix}{table} is missing" for table in Table)
    assert caught.value.message == f"{missing}: `kudurru-server tables create` makes missing tables"


async def test_differences_are_named(client: AioBaseClient, prefix: str) -> None:
    log: dict[str, Any] = tables.definition(Table.EVENTS)
    events: dict[str, Any] = tables.definition(Table.EVENTS)
    (index,) = events["GlobalSecondaryIndexes"]
    index["Projection"] = {"ProjectionType": "KEYS_ONLY"}
    index["KeySchema"] = [index["KeySchema"][0], {"AttributeName": "sk", "KeyType": "RANGE"}]
    events["AttributeDefinitions"] = [
        each for each in events["AttributeDefinitions"] if each["AttributeName"] != "sortable_unique_id"
    ]
    await call(client, "create_table", TableName=f"{prefix}log", **log)
    await call(client, "create_table", TableName=f"{prefix}events", **events)
    with pytest.raises(OperatorError) as caught:
        await tables.create(client, prefix)
    assert caught.value.message == (
        f"table {prefix}log has the keys pk S, sk S instead of pk S, n N; "
        f"table {prefix}events has the keys gsi1pk S, sk S instead of gsi1pk S, sortable_unique_id S"
        " in the index all_events; "
        f"table {prefix}events has the projection KEYS_ONLY instead of ALL in the index all_events"
    )


async def test_a_missing_index_is_named(client: AioBaseClient, prefix: str) -> None:
    await call(client, "create_table", TableName=f"{prefix}events", **tables.definition(Table.TAGS))
    with pytest.raises(OperatorError, match="events has no index all_events"):
        await tables.create(client, prefix)
