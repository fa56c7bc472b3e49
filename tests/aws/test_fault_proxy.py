"""Each fault is what it says, and happens."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError  # noqa: A004 - that is its name
from types_aiobotocore_dynamodb import DynamoDBClient

from tests.aws.clients import create_table, dynamodb_client
from tests.aws.components import Component
from tests.aws.fault_proxy import Fault, FaultProxy, Faults, fault_proxy

LOST = (ConnectionError, HTTPClientError)


@dataclass(frozen=True)
class Table:
    """A table behind a proxy."""

    proxy: FaultProxy
    client: DynamoDBClient
    name: str

    async def put(
        self, sk: str, value: str = "", condition: str = "attribute_exists(pk) OR attribute_not_exists(pk)"
    ) -> None:
        item = {"pk": {"S": "a"}, "sk": {"S": sk}, "kind": {"S": "all"}, "v": {"S": value}}
        await self.client.put_item(TableName=self.name, Item=item, ConditionExpression=condition)

    async def transact(self, *sks: str) -> None:
        items = [{"pk": {"S": "a"}, "sk": {"S": sk}, "kind": {"S": "all"}, "v": {"S": ""}} for sk in sks]
        await self.client.transact_write_items(
            TransactItems=[{"Put": {"TableName": self.name, "Item": item}} for item in items]
        )

    async def values(self) -> dict[str, str]:
        """Return what the table holds: values by sort key."""
        answer = await self.client.query(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": "a"}},
            ConsistentRead=True,
        )
        return {item["sk"]["S"]: item["v"]["S"] for item in answer["Items"]}

    async def indexed(self, attributes: str = "sk, v") -> list[dict[str, str]]:
        """Return what the index holds."""
        answer = await self.client.query(
            TableName=self.name,
            IndexName="by-kind",
            KeyConditionExpression="kind = :kind",
            ExpressionAttributeValues={":kind": {"S": "all"}},
            ProjectionExpression=attributes,
        )
        assert answer["Count"] == len(answer["Items"])
        return [{name: value["S"] for name, value in item.items()} for item in answer["Items"]]


@pytest.fixture
async def table(dynamodb: Component) -> AsyncIterator[Table]:
    """Return an empty table behind a calm proxy."""
    async with fault_proxy(dynamodb, seed=1) as proxy, dynamodb_client(proxy.environment) as client:
        yield Table(proxy, client, await create_table(client))


def _code(error: ClientError) -> str:
    return error.response["Error"]["Code"]


async def test_a_calm_proxy_changes_nothing(table: Table) -> None:
    await table.put("1", "x")
    assert await table.values() == {"1": "x"}
    assert await table.indexed() == [{"sk": "1", "v": "x"}]
    with pytest.raises(ClientError, match="ConditionalCheckFailedException"):
        await table.put("1", "y", "attribute_not_exists(pk)")
    assert not table.proxy.counts
    assert table.proxy.requests["PutItem"] == 2


async def test_a_delay_takes_its_time(table: Table) -> None:
    table.proxy.faults = Faults(delay=1, longest_delay_seconds=0.3)
    started = time.monotonic()
    for number in range(4):
        await table.put(str(number))
    assert time.monotonic() - started > 0.2
    assert table.proxy.counts == {Fault.DELAY: 4}


async def test_a_lost_request_has_no_effect(table: Table) -> None:
    table.proxy.faults = Faults(lost_request={"PutItem": 1})
    for _ in range(6):
        with pytest.raises(LOST):
            await table.put("1")
    assert await table.values() == {}
    assert table.proxy.counts[Fault.LOST_REQUEST] == 6


async def test_a_late_request_takes_effect_after_the_client_gave_up(table: Table) -> None:
    table.proxy.faults = Faults(late_request=1, longest_late_seconds=0.5)
    with pytest.raises(LOST):
        await table.put("1", "late")
    table.proxy.faults = Faults()
    assert await table.values() == {}
    await table.proxy.settled()
    assert await table.values() == {"1": "late"}
    assert table.proxy.counts[Fault.LATE_REQUEST] == 1


async def test_a_lost_response_did_take_effect(table: Table) -> None:
    table.proxy.faults = Faults(lost_response={"PutItem": 1})
    for number in range(6):
        with pytest.raises(LOST):
            await table.put(str(number), "x")
    assert len(await table.values()) == 6
    assert table.proxy.counts[Fault.LOST_RESPONSE] == 6


async def test_a_late_duplicate_writes_once_more(table: Table) -> None:
    table.proxy.faults = Faults(late_duplicate=1, longest_late_seconds=0.5)
    await table.put("1", "first")
    table.proxy.faults = Faults()
    await table.put("1", "second")
    assert await table.values() == {"1": "second"}
    await table.proxy.settled()
    assert await table.values() == {"1": "first"}
    assert table.proxy.counts[Fault.LATE_DUPLICATE] == 1


async def test_a_throttled_request_has_no_effect(table: Table) -> None:
    table.proxy.faults = Faults(throttled={"PutItem": 1, "TransactWriteItems": 1})
    with pytest.raises(ClientError) as put:
        await table.put("1")
    assert _code(put.value) == "ProvisionedThroughputExceededException"
    codes = set()
    for _ in range(10):
        with pytest.raises(ClientError) as transaction:
            await table.transact("1", "2")
        codes.add(_code(transaction.value))
    assert codes == {"ProvisionedThroughputExceededException", "TransactionCanceledException"}
    assert await table.values() == {}
    assert table.proxy.counts[Fault.THROTTLED] == 11


async def test_a_conflict_names_the_items_of_a_transaction(table: Table) -> None:
    table.proxy.faults = Faults(conflict=1)
    with pytest.raises(ClientError) as put:
        await table.put("1")
    assert _code(put.value) == "TransactionConflictException"
    with pytest.raises(ClientError) as transaction:
        await table.transact(*"12345")
    assert _code(transaction.value) == "TransactionCanceledException"
    response: dict[str, Any] = {**transaction.value.response}
    reasons = [reason["Code"] for reason in response["CancellationReasons"]]
    assert len(reasons) == 5
    assert set(reasons) == {"None", "TransactionConflict"}
    assert await table.values() == {}


async def test_an_internal_error_does_not_tell_whether_it_took_effect(table: Table) -> None:
    table.proxy.faults = Faults(error_before={"PutItem": 1})
    with pytest.raises(ClientError) as before:
        await table.put("1")
    table.proxy.faults = Faults(error_after={"PutItem": 1})
    with pytest.raises(ClientError) as after:
        await table.put("2")
    assert _code(before.value) == _code(after.value) == "InternalServerError"
    assert after.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert await table.values() == {"2": ""}


async def test_a_partial_batch_names_the_rest(table: Table) -> None:
    table.proxy.faults = Faults(partial=1)
    items = [{"pk": {"S": "a"}, "sk": {"S": f"{n:02}"}, "v": {"S": ""}} for n in range(20)]
    written = await table.client.batch_write_item(
        RequestItems={table.name: [{"PutRequest": {"Item": item}} for item in items]}
    )
    left = [request["PutRequest"]["Item"]["sk"]["S"] for request in written["UnprocessedItems"][table.name]]
    assert 0 < len(left) < 20
    assert {*left, *await table.values()} == {f"{n:02}" for n in range(20)}
    assert len(await table.values()) == 20 - len(left)

    keys = [{"pk": {"S": "a"}, "sk": {"S": sk}} for sk in await table.values()]
    read = await table.client.batch_get_item(RequestItems={table.name: {"Keys": keys, "ConsistentRead": True}})
    unread = read["UnprocessedKeys"][table.name]
    assert unread["ConsistentRead"]
    assert len(unread["Keys"]) + len(read["Responses"][table.name]) == len(keys)
    assert table.proxy.counts[Fault.PARTIAL] == 2


@pytest.mark.parametrize("attributes", ["sk, v", "kind, v", "pk, sk, kind, v"])
async def test_an_index_lags_behind_its_table(table: Table, attributes: str) -> None:
    await table.put("0", "old")
    await asyncio.sleep(1)
    table.proxy.faults = Faults(index_lag_seconds=(1, 1))
    written = time.monotonic()
    await table.put("1", "new")
    await table.transact("2")
    await table.put("0", "again")
    with pytest.raises(ClientError, match="ConditionalCheckFailedException"):
        await table.put("0", "refused", "attribute_not_exists(pk)")
    names = set(attributes.split(", "))
    shown = await table.indexed(attributes)
    assert time.monotonic() - written < 1, "too slow to tell"
    assert [item["v"] for item in shown] == ["again"]
    assert set(shown[0]) == names
    assert len(await table.values()) == 3
    async with asyncio.timeout(5):
        while len(shown) < 3:
            shown = await table.indexed(attributes)
    assert time.monotonic() - written >= 1
    assert all(set(item) == names for item in shown)
    assert table.proxy.counts[Fault.INDEX_LAG] >= 2


async def test_items_come_into_a_lagging_index_in_any_order(table: Table) -> None:
    table.proxy.faults = Faults(index_lag_seconds=(0, 0.5))
    everything = [f"{n:02}" for n in range(40)]
    await table.transact(*everything)
    async with asyncio.timeout(5):
        seen: list[list[str]] = []
        while not seen or len(seen[-1]) < 40:
            seen.append([item["sk"] for item in await table.indexed()])
    assert any(shown != everything[: len(shown)] for shown in seen)


async def test_a_proxy_ends_while_requests_are_late(dynamodb: Component) -> None:
    async with fault_proxy(dynamodb, 1) as proxy, dynamodb_client(proxy.environment) as client:
        table = Table(proxy, client, await create_table(client))
        proxy.faults = Faults(late_duplicate=1, longest_late_seconds=1000)
        await table.put("1")
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert not [task for task in asyncio.all_tasks() if "_send_late" in repr(task)]


async def test_chance_decides_how_often(table: Table) -> None:
    table.proxy.faults = Faults(lost_response={"PutItem": 0.3})
    lost = 0
    for number in range(60):
        try:
            await table.put(str(number))
        except LOST:
            lost += 1
    assert lost == table.proxy.counts[Fault.LOST_RESPONSE]
    assert 5 < lost < 35
