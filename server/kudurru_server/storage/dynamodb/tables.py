"""The four tables, as data: what is created, verified and described, here and in the template of `deploy/aws`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiobotocore.client import AioBaseClient
from botocore.exceptions import ClientError

from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.aws import call, code_of, translated
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.expressions import PK
from kudurru_server.storage.dynamodb.retries import OperatorError

SORT_KEYS = {Table.LOG: "n", Table.EVENTS: "sk", Table.TAGS: "sk", Table.PROJECTIONS: "sk"}
"""The sort key of each table: a number in the log, a string elsewhere."""
INDEX_KEYS = {keys.ALL_EVENTS: ("gsi1pk", "sortable_unique_id")}
"""The partition and sort key of each index; all are strings, and an index holds whole items."""
_INDEXES = {Table.EVENTS: (keys.ALL_EVENTS,)}

_ACTIVE = "ACTIVE"
_UNKNOWN_TO_THE_SERVICE = frozenset({"UnknownOperationException", "ValidationException"})
_UNKNOWN_OR_DENIED = _UNKNOWN_TO_THE_SERVICE | {"AccessDeniedException"}  # a server's own policy need not allow it
_POLL_SECONDS = 0.5
_READY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class TableDescription:
    """What the service says of a table."""

    name: str
    status: str
    item_count: int
    """About six hours old."""
    size_bytes: int
    keys: tuple[str, ...]
    """`name type` of the partition and of the sort key."""
    indexes: dict[str, tuple[str, ...]]
    """Of each index its keys, projection and status."""
    point_in_time_recovery: bool | None
    """None: the service does not know it, or does not tell."""
    deletion_protection: bool


def table_name(prefix: str, table: Table) -> str:
    """Return a table's full name."""
    return f"{prefix}{table.value}"


def definition(table: Table) -> dict[str, Any]:
    """Return a table as CreateTable and CloudFormation want it, without its name."""
    sk_type = "N" if table is Table.LOG else "S"
    attributes = {PK: "S", SORT_KEYS[table]: sk_type}
    indexes = []
    for index in _INDEXES.get(table, ()):
        attributes |= dict.fromkeys(INDEX_KEYS[index], "S")
        schema = _schema(*INDEX_KEYS[index])
        indexes.append({"IndexName": index, "KeySchema": schema, "Projection": {"ProjectionType": "ALL"}})
    result: dict[str, Any] = {
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name, kind in attributes.items()],
        "KeySchema": _schema(PK, SORT_KEYS[table]),
        "BillingMode": "PAY_PER_REQUEST",
    }
    if indexes:
        result["GlobalSecondaryIndexes"] = indexes
    return result


def _schema(pk_name: str, sk_name: str) -> list[dict[str, str]]:
    return [{"AttributeName": pk_name, "KeyType": "HASH"}, {"AttributeName": sk_name, "KeyType": "RANGE"}]


async def create(client: AioBaseClient, prefix: str, *, protect: bool = True) -> None:
    """Create the tables that are missing and wait until all can be used; several nodes may do so at once.

    Args:
        client: of DynamoDB.
        prefix: of the tables' names.
        protect: with deletion protection (of new tables) and point-in-time recovery, where the service knows them.

    Raises:
        DatabaseError: a table could not be created, or one that exists is not as it must be.
    """
    for table in Table:
        name = table_name(prefix, table)
        with translated("CreateTable", name):
            if await _describe(client, name) is None:
                await _create_one(client, name, definition(table), protect=protect)
    for table in Table:
        name = table_name(prefix, table)
        await _until(partial(_is_ready, client, name), "DescribeTable", name)
    await verify(client, prefix)
    if protect:
        for table in Table:
            name = table_name(prefix, table)
            await _until(partial(_recovery_is_on, client, name), "UpdateContinuousBackups", name)


async def verify(client: AioBaseClient, prefix: str) -> None:
    """Check that every table is there, is as it must be, and can be used.

    Raises:
        OperatorError: what is missing or differs, by table.
        DatabaseError: a table could not be looked at.
    """
    differences: list[str] = []
    for table in Table:
        name = table_name(prefix, table)
        with translated("DescribeTable", name):
            found = await _describe(client, name)
        differences += [f"table {name} {difference}" for difference in _differences(definition(table), found)]
    if differences:
        hint = ": `kudurru-server tables create` makes missing tables"
        raise OperatorError(
            "WrongTables", "; ".join(differences) + hint * any("is missing" in one for one in differences)
        )


async def describe(client: AioBaseClient, prefix: str) -> list[TableDescription]:
    """Return what the service says of the tables; the status of one that does not exist is `MISSING`.

    Raises:
        DatabaseError: a table could not be looked at.
    """
    found = []
    for table in Table:
        name = table_name(prefix, table)
        with translated("DescribeTable", name):
            answer = await _describe(client, name)
            recovery = await _recovery(client, name, _UNKNOWN_OR_DENIED) if answer else None
        answer = answer or {"TableStatus": "MISSING"}
        found.append(
            TableDescription(
                name=name,
                status=answer["TableStatus"],
                item_count=answer.get("ItemCount", 0),
                size_bytes=answer.get("TableSizeBytes", 0),
                keys=_keys(answer, answer),
                indexes={
                    index["IndexName"]: (
                        *_keys(answer, index),
                        index.get("Projection", {}).get("ProjectionType", ""),
                        index.get("IndexStatus", ""),
                    )
                    for index in answer.get("GlobalSecondaryIndexes", ())
                },
                point_in_time_recovery=recovery,
                deletion_protection=bool(answer.get("DeletionProtectionEnabled")),
            )
        )
    return found


def _differences(wanted: dict[str, Any], found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield "is missing"
        return
    if _keys(wanted, wanted) != _keys(found, found):
        yield f"has the keys {_text(found, found)} instead of {_text(wanted, wanted)}"
    if found["TableStatus"] not in (_ACTIVE, "UPDATING"):
        yield f"is {found['TableStatus']}"
    present = {index["IndexName"]: index for index in found.get("GlobalSecondaryIndexes", ())}
    for index in wanted.get("GlobalSecondaryIndexes", ()):
        name = index["IndexName"]
        there = present.get(name)
        if there is None:
            yield f"has no index {name}"
            continue
        if _keys(wanted, index) != _keys(found, there):
            yield f"has the keys {_text(found, there)} instead of {_text(wanted, index)} in the index {name}"
        projection = there.get("Projection", {}).get("ProjectionType")
        if projection != "ALL":
            yield f"has the projection {projection} instead of ALL in the index {name}"
        if there.get("IndexStatus") not in (_ACTIVE, "UPDATING"):
            yield f"has an index {name} that is {there.get('IndexStatus')}"


def _keys(table: dict[str, Any], holder: dict[str, Any]) -> tuple[str, ...]:
    types = {each["AttributeName"]: each["AttributeType"] for each in table.get("AttributeDefinitions", ())}
    schema = sorted(holder.get("KeySchema", ()), key=lambda each: str(each["KeyType"]))
    return tuple(f"{each['AttributeName']} {types.get(each['AttributeName'], '?')}" for each in schema)


def _text(table: dict[str, Any], holder: dict[str, Any]) -> str:
    return ", ".join(_keys(table, holder))


async def _describe(client: AioBaseClient, name: str) -> dict[str, Any] | None:
    try:
        answer = await call(client, "describe_table", TableName=name)
    except ClientError as error:
        if code_of(error) == "ResourceNotFoundException":
            return None
        raise
    found: dict[str, Any] = answer["Table"]
    return found


async def _create_one(client: AioBaseClient, name: str, wanted: dict[str, Any], *, protect: bool) -> None:
    try:
        extra = {"DeletionProtectionEnabled": True} if protect else {}
        await call(client, "create_table", TableName=name, **wanted, **extra)
    except ClientError as error:
        if protect and code_of(error) in _UNKNOWN_TO_THE_SERVICE:
            await _create_one(client, name, wanted, protect=False)
        elif code_of(error) != "ResourceInUseException":  # another node was faster
            raise


async def _until(done: Callable[[], Awaitable[bool]], operation: str, name: str) -> None:
    """Look again and again until it is done."""
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                with translated(operation, name):
                    if await done():
                        return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise OperatorError("NotReady", f"table {name} is not ready after {_READY_SECONDS:.0f} s") from error


async def _is_ready(client: AioBaseClient, name: str) -> bool:
    found = await _describe(client, name)
    if found is None or found["TableStatus"] != _ACTIVE:
        return False
    return all(index.get("IndexStatus") == _ACTIVE for index in found.get("GlobalSecondaryIndexes", ()))


async def _recovery(client: AioBaseClient, name: str, tolerated: frozenset[str]) -> bool | None:
    try:
        answer = await call(client, "describe_continuous_backups", TableName=name)
    except ClientError as error:
        if code_of(error) in tolerated:
            return None
        raise
    recovery = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
    return bool(recovery.get("PointInTimeRecoveryStatus") == "ENABLED")


async def _recovery_is_on(client: AioBaseClient, name: str) -> bool:
    """Turn point-in-time recovery on, where the service knows it; a table just created is not ready for that."""
    try:
        if await _recovery(client, name, _UNKNOWN_TO_THE_SERVICE) is False:
            wanted = {"PointInTimeRecoveryEnabled": True}
            await call(client, "update_continuous_backups", TableName=name, PointInTimeRecoverySpecification=wanted)
    except ClientError as error:
        if code_of(error) == "ContinuousBackupsUnavailableException":
            return False
        if code_of(error) not in _UNKNOWN_TO_THE_SERVICE:
            raise
    return True
