"""The components do what the store relies on, and nobody else can reach them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.aws.clients import create_table, dynamodb_client, s3_client
from tests.aws.components import Component, dynamodb_local, seaweedfs

Run = Callable[[], AbstractContextManager[Component]]

_LISTENS = "0A"
_LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


def _listening_addresses(pid: int) -> set[str]:
    """Return the addresses at which a process listens, as /proc writes them."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == _LISTENS and line[9] in sockets}


@pytest.mark.parametrize("name", ["dynamodb", "s3"])
def test_it_listens_on_the_loopback_address_only(name: str, request: pytest.FixtureRequest) -> None:
    component: Component = request.getfixturevalue(name)
    addresses = _listening_addresses(component.pid)
    assert addresses
    assert addresses <= _LOOPBACK


@pytest.mark.parametrize("run", [dynamodb_local, seaweedfs])
def test_several_run_at_once_and_end_with_their_block(run: Run) -> None:
    with run() as one, run() as other:
        assert one.endpoint != other.endpoint
    assert not Path(f"/proc/{one.pid}").exists()
    assert not Path(f"/proc/{other.pid}").exists()


async def test_a_refused_put_returns_the_item_that_is_there(dynamodb: Component) -> None:
    async with dynamodb_client(dynamodb.environment) as client:
        table = await create_table(client)
        item = {"pk": {"S": "a"}, "sk": {"S": "1"}, "token": {"S": "mine"}}
        await client.put_item(TableName=table, Item=item)
        with pytest.raises(ClientError) as refused:
            await client.put_item(
                TableName=table,
                Item={**item, "token": {"S": "other"}},
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
    assert refused.value.response["Error"]["Code"] == "ConditionalCheckFailedException"
    assert dict(refused.value.response)["Item"] == item


async def test_a_transaction_takes_a_hundred_items_and_no_more(dynamodb: Component) -> None:
    async with dynamodb_client(dynamodb.environment) as client:
        table = await create_table(client)

        async def write(pk: str, count: int) -> None:
            items = [{"pk": {"S": pk}, "sk": {"S": f"{n:03}"}} for n in range(count)]
            await client.transact_write_items(
                TransactItems=[{"Put": {"TableName": table, "Item": item}} for item in items], ClientRequestToken=pk
            )

        await write("hundred", 100)
        with pytest.raises(ClientError, match="ValidationException"):
            await write("more", 101)
        answer = await client.scan(TableName=table, Select="COUNT")
    assert answer["Count"] == 100


async def test_a_missing_bucket_stays_missing(s3: Component) -> None:
    async with s3_client(s3.environment) as client:
        with pytest.raises(ClientError, match="NoSuchBucket"):
            await client.put_object(Bucket="missing", Key="a", Body=b"")


async def test_an_object_is_put_once_and_read_back(s3: Component) -> None:
    async with s3_client(s3.environment) as client:
        await client.create_bucket(Bucket="put-once")
        await client.put_object(Bucket="put-once", Key="a/b", Body=b"first", IfNoneMatch="*")
        with pytest.raises(ClientError) as refused:
            await client.put_object(Bucket="put-once", Key="a/b", Body=b"second", IfNoneMatch="*")
        answer = await client.get_object(Bucket="put-once", Key="a/b")
        assert await answer["Body"].read() == b"first"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
