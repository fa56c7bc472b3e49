"""The nine operations of `database.py` on DynamoDB itself, by aiobotocore: one attempt a call."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any

from aiobotocore.client import AioBaseClient
from botocore.exceptions import ClientError

from kudurru_server.storage.dynamodb import expressions
from kudurru_server.storage.dynamodb.answers import prepare
from kudurru_server.storage.dynamodb.aws import Connection, Gate, call, code_of, open_client
from kudurru_server.storage.dynamodb.chunks import size_bytes
from kudurru_server.storage.dynamodb.clock import ServerClock
from kudurru_server.storage.dynamodb.database import Condition, Item, Key, Page, Question, Refused, Table
from kudurru_server.storage.dynamodb.expressions import Placeholders
from kudurru_server.storage.dynamodb.tables import INDEX_KEYS, SORT_KEYS, table_name
from kudurru_server.storage.dynamodb.values import Wire, item_from_wire, item_to_wire, to_wire

OnCapacity = Callable[[str, Table, float, float], None]
"""Takes an operation, a table, and the read and the write units that a call consumed."""
OnCall = Callable[[str, str], None]
"""Takes an operation, and how an attempt at it went: OK, the code of its failure, or NoAnswer."""

_TOKEN_CHARACTERS = 36
_WRITE_UNIT_BYTES = 1024
_CONDITION_FAILED = "ConditionalCheckFailedException"
_READS = frozenset({"GetItem", "BatchGetItem", "Query", "Scan"})


class DynamoDatabase:
    """A `Database` whose tables are `prefix` and their names."""

    def __init__(
        self,
        client: AioBaseClient,
        prefix: str,
        connection: Connection,
        *,
        clock: ServerClock,
        on_capacity: OnCapacity | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        self._client = client
        self._gate = Gate(connection)
        self._clock = clock
        self._on_capacity = on_capacity
        self._on_call = on_call
        self._names = {table: table_name(prefix, table) for table in Table}
        self._tables = {name: table for table, name in self._names.items()}

    async def get(self, table: Table, key: Key, *, consistent: bool) -> Item | None:
        """Return an item, or None."""
        answer = await self._call(
            "GetItem", table, {"TableName": self._names[table], "Key": _key(table, key), "ConsistentRead": consistent}
        )
        return item_from_wire(answer["Item"]) if "Item" in answer else None

    async def get_many(self, table: Table, keys: Sequence[Key]) -> tuple[list[Item], list[Key]]:
        """Return those of at most 100 items that exist, consistently and in any order, and the keys not looked at."""
        if not keys:
            return [], []
        name = self._names[table]
        wanted = {"Keys": [_key(table, key) for key in dict.fromkeys(keys)], "ConsistentRead": True}
        answer = await self._call("BatchGetItem", table, {"RequestItems": {name: wanted}})
        items = [item_from_wire(item) for item in answer.get("Responses", {}).get(name, ())]
        missed = answer.get("UnprocessedKeys", {}).get(name, {}).get("Keys", ())
        return items, [_plain_key(table, item_from_wire(key)) for key in missed]

    async def put(self, table: Table, item: Item, condition: Condition | None = None) -> Refused | None:
        """Write an item in place of what is there; return None if it is written."""
        request = {"TableName": self._names[table], "Item": item_to_wire(item)}
        return await self._write("PutItem", table, request, condition, Placeholders())

    async def update(
        self, table: Table, key: Key, values: Item, condition: Condition, *, remove: Sequence[str] = ()
    ) -> Refused | None:
        """Set some attributes of an item and remove others, on a condition; return None if it is done."""
        use = Placeholders()
        request: dict[str, Any] = {"TableName": self._names[table], "Key": _key(table, key)}
        expression = expressions.update_expression(values, remove, use)
        if expression:
            request["UpdateExpression"] = expression
        return await self._write("UpdateItem", table, request, condition, use)

    async def query(self, question: Question, limit: int | None = None, start: Item | None = None) -> Page:
        """Return a page of at most `limit` items and about 1 MiB, from `start` (a page's `more`) on."""
        if _is_empty(question):
            return Page([])  # DynamoDB takes such a range for a mistake
        use = Placeholders()
        request: dict[str, Any] = {
            "TableName": self._names[question.table],
            "ScanIndexForward": question.forward,
            "ConsistentRead": question.consistent,
        }
        pk_name, sk_name = expressions.PK, SORT_KEYS[question.table]
        if question.index is not None:
            request["IndexName"] = question.index
            pk_name, sk_name = INDEX_KEYS[question.index]
        request["KeyConditionExpression"] = expressions.range_expression(question, pk_name, sk_name, use)
        if question.attributes:
            request["ProjectionExpression"] = expressions.projection_expression(question.attributes, use)
        if limit is not None:
            request["Limit"] = limit
        if start is not None:
            request["ExclusiveStartKey"] = item_to_wire(start)
        answer = await self._call("Query", question.table, {**request, **use.arguments()})
        more = answer.get("LastEvaluatedKey")
        return Page(answer["Items"], item_from_wire(more) if more else None)

    async def scan(self, table: Table, attributes: Sequence[str] = (), start: Item | None = None) -> Page:
        """Return a page of everything in a table, consistently and in any order; for a restore, not for a server."""
        use = Placeholders()
        request: dict[str, Any] = {"TableName": self._names[table], "ConsistentRead": True}
        if attributes:
            request["ProjectionExpression"] = expressions.projection_expression(attributes, use)
        if start is not None:
            request["ExclusiveStartKey"] = item_to_wire(start)
        answer = await self._call("Scan", table, {**request, **use.arguments()})
        more = answer.get("LastEvaluatedKey")
        return Page(answer["Items"], item_from_wire(more) if more else None)

    async def transact(self, writes: Sequence[tuple[Table, Item]], token: str) -> None:
        """Write at most 100 items, together at most 4 MB, all or none; repeated with a token it writes once."""
        if not writes:
            return
        puts = [{"Put": {"TableName": self._names[table], "Item": item_to_wire(item)}} for table, item in writes]
        # A token belongs to the account, where the same events may also lie in tables of another prefix.
        own = hashlib.sha256(f"{self._names[Table.LOG]} {token}".encode()).hexdigest()[:_TOKEN_CHARACTERS]
        await self._call("TransactWriteItems", writes[0][0], {"TransactItems": puts, "ClientRequestToken": own})

    async def write_many(self, writes: Sequence[tuple[Table, Item]]) -> list[tuple[Table, Item]]:
        """Write at most 25 items, each by itself; return those that were not written."""
        if not writes:
            return []
        requests = {
            self._names[table]: [{"PutRequest": {"Item": item_to_wire(item)}} for _, item in group]
            for table, group in groupby(sorted(writes, key=itemgetter(0)), itemgetter(0))
        }
        answer = await self._call("BatchWriteItem", writes[0][0], {"RequestItems": requests})
        return [
            (self._tables[name], item_from_wire(request["PutRequest"]["Item"]))
            for name, missed in answer.get("UnprocessedItems", {}).items()
            for request in missed
        ]

    async def delete(self, table: Table, key: Key) -> None:
        """Delete an item, if it exists."""
        await self._call("DeleteItem", table, {"TableName": self._names[table], "Key": _key(table, key)})

    async def _write(
        self, operation: str, table: Table, request: dict[str, Any], condition: Condition | None, use: Placeholders
    ) -> Refused | None:
        expression = "" if condition is None else expressions.condition_expression(condition, use)
        if expression:
            request["ConditionExpression"] = expression
            request["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        answer = await self._call(operation, table, {**request, **use.arguments()})
        if "Error" not in answer:
            return None
        item = answer.get("Item")
        return Refused(item_from_wire(item) if item else None)

    async def _call(self, operation: str, table: Table, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer, which has an `Error` if a condition was false."""
        async with self._gate.attempt(operation, self._names[table]):
            answer: dict[str, Any] = {}
            code = "NoAnswer"
            sent_ns = self._clock.monotonic_ns()
            try:
                answer = await call(self._client, _METHODS[operation], **request, ReturnConsumedCapacity="TOTAL")
                code = "OK"
            except ClientError as error:
                answer = dict(error.response)
                code = code_of(error)
                if code != _CONDITION_FAILED:
                    raise
            finally:
                self._observe(answer, sent_ns)
                if self._on_call is not None:
                    self._on_call(operation, code)
        if self._on_capacity is not None:
            self._report(operation, _consumed(answer, self._names[table]))
        return answer

    def _observe(self, answer: dict[str, Any], sent_ns: int) -> None:
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self._clock.observe(headers.get("date"), sent_ns, self._clock.monotonic_ns())

    def _report(self, operation: str, consumed: Any) -> None:  # noqa: ANN401 - one, several or none
        tables: Iterable[dict[str, Any]] = [consumed] if isinstance(consumed, dict) else consumed or ()
        for units in tables:
            table = self._tables.get(units.get("TableName", ""))
            if table is not None and self._on_capacity is not None:
                total = units.get("CapacityUnits", 0.0)
                reads, writes = (total, 0.0) if operation in _READS else (0.0, total)
                self._on_capacity(
                    operation, table, units.get("ReadCapacityUnits", reads), units.get("WriteCapacityUnits", writes)
                )


_METHODS = {
    "GetItem": "get_item",
    "BatchGetItem": "batch_get_item",
    "PutItem": "put_item",
    "UpdateItem": "update_item",
    "DeleteItem": "delete_item",
    "Query": "query",
    "Scan": "scan",
    "TransactWriteItems": "transact_write_items",
    "BatchWriteItem": "batch_write_item",
}


@asynccontextmanager
async def open_database(
    prefix: str,
    connection: Connection | None = None,
    *,
    clock: ServerClock | None = None,
    on_capacity: OnCapacity | None = None,
    on_call: OnCall | None = None,
) -> AsyncIterator[DynamoDatabase]:
    """Yield the database whose tables start with `prefix`; credentials come from the standard chain.

    Raises:
        OperatorError: the region is missing, or the endpoint is not a URL.
    """
    connection = connection or Connection()
    async with open_client("dynamodb", connection) as client:
        prepare(client)
        yield DynamoDatabase(
            client, prefix, connection, clock=clock or ServerClock(), on_capacity=on_capacity, on_call=on_call
        )


def _consumed(answer: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - one, several or none
    """Return what a call consumed.

    A refused write does not say it: it is billed by the size of the item that is there, which the refusal brings.
    """
    if "Error" not in answer:
        return answer.get("ConsumedCapacity")
    there = size_bytes(item_from_wire(answer["Item"])) if answer.get("Item") else 0
    return {"TableName": name, "CapacityUnits": float(max(1, -(-there // _WRITE_UNIT_BYTES)))}


def _key(table: Table, key: Key) -> dict[str, Wire]:
    return {expressions.PK: to_wire(key.pk), SORT_KEYS[table]: to_wire(key.sk)}


def _plain_key(table: Table, item: Item) -> Key:
    pk, sk = item[expressions.PK], item[SORT_KEYS[table]]
    return Key(str(pk), sk if isinstance(sk, int) else str(sk))


def _is_empty(question: Question) -> bool:
    low, high = question.low, question.high
    if isinstance(low, int) and isinstance(high, int):
        return low > high
    return str(low).encode() > str(high).encode()
