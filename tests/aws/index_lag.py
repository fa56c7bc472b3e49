"""Indexes that lag behind their tables, each item by a time of its own, so that they come in any order.

Only new items lag, those first written through the proxy: one that is written again, or deleted and then written, is
in the index at once. A page may come out short or empty, as with a filter. `Select=COUNT` is left as it is.
"""

import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.aws.wire import Answer, Call, Json

Describe = Callable[[Call], Awaitable[Answer]]
_Id = tuple[str, str]
_NAME = "#lag{}"


@dataclass(slots=True)
class _New:
    written: float
    """By the monotonic clock."""
    place: float
    """Where its lag is between the shortest (0) and the longest (1)."""
    certain: bool = False
    """DynamoDB has said that it is written."""


class IndexLag:
    """What has been written lately."""

    def __init__(self, forward: Describe, chance: random.Random) -> None:
        self._forward = forward
        self._chance = chance
        self._new: dict[_Id, _New] = {}
        self._keys: dict[str, tuple[str, ...]] = {}

    async def learn(self, call: Call) -> None:
        """Learn the primary keys of the tables that a call names; to be called first, for any operation."""
        arguments = call.json()
        if call.operation == "DeleteTable":
            self._forget(arguments["TableName"])
        for table in {table for table, _ in _written(call.operation, arguments)} | _queried(call.operation, arguments):
            if table not in self._keys:
                answer = await self._forward(call.with_json({"TableName": table}, "DescribeTable"))
                if answer.status < 400:
                    schema = answer.json()["Table"]["KeySchema"]
                    self._keys[table] = tuple(sorted(part["AttributeName"] for part in schema))

    def _forget(self, table: str) -> None:
        self._keys.pop(table, None)
        for identity in [identity for identity in self._new if identity[0] == table]:
            del self._new[identity]

    def note(self, call: Call) -> Callable[[Answer], None]:
        """Note the items that a call will write; without an answer they count as written.

        Returns:
            What takes the answer.
        """
        written = _written(call.operation, call.json())
        all_of_it = [self._identity(table, item) for table, item in written if table in self._keys]
        mine = [identity for identity in all_of_it if identity not in self._new]
        for identity in mine:
            self._new[identity] = _New(time.monotonic(), self._chance.random())

        def answered(answer: Answer) -> None:
            for identity in all_of_it if answer.status < 400 else ():
                self._new[identity].certain = True
            for identity in mine if answer.status >= 400 else ():
                if not self._new[identity].certain:  # else another call wrote it meanwhile
                    del self._new[identity]

        return answered

    def with_keys(self, call: Call) -> tuple[Call, frozenset[str]]:
        """Return a query that also asks for the primary key, and the attributes that it did not ask for."""
        arguments = call.json()
        projection: str | None = arguments.get("ProjectionExpression")
        if projection is None:
            return call, frozenset()
        names: dict[str, str] = arguments.get("ExpressionAttributeNames", {})
        asked = {names.get(path.strip(), path.strip()) for path in projection.split(",")}
        missing = [name for name in self._keys[arguments["TableName"]] if name not in asked]
        placeholders = {_NAME.format(number): name for number, name in enumerate(missing)}
        if not missing:
            return call, frozenset()
        more = {
            "ProjectionExpression": ", ".join([projection, *placeholders]),
            "ExpressionAttributeNames": names | placeholders,
        }
        return call.with_json(arguments | more), frozenset(missing)

    def without_new(
        self, call: Call, answer: Answer, unasked: frozenset[str], lag_seconds: tuple[float, float]
    ) -> tuple[Answer, int]:
        """Return the answer without the items that the index does not have yet, and their number."""
        said = answer.json()
        items: list[Json] = said.get("Items", [])
        table: str = call.json()["TableName"]
        seen = [item for item in items if not self._lags(self._identity(table, item), lag_seconds)]
        hidden = len(items) - len(seen)
        said["Items"] = [{name: item[name] for name in item if name not in unasked} for item in seen]
        for count in ("Count", "ScannedCount"):
            if count in said:
                said[count] -= hidden
        return answer.with_json(said), hidden

    def _lags(self, identity: _Id, lag_seconds: tuple[float, float]) -> bool:
        new = self._new.get(identity)
        if new is None:
            return False
        shortest, longest = lag_seconds
        return time.monotonic() < new.written + shortest + new.place * (longest - shortest)

    def _identity(self, table: str, item: Json) -> _Id:
        return table, json.dumps([item.get(name) for name in self._keys[table]])


def _queried(operation: str, arguments: Json) -> set[str]:
    return {arguments["TableName"]} if operation == "Query" and "IndexName" in arguments else set()


def _written(operation: str, arguments: Json) -> list[tuple[str, Json]]:
    """Return the tables and items, or keys, that a call writes."""
    match operation:
        case "PutItem":
            return [(arguments["TableName"], arguments["Item"])]
        case "UpdateItem":
            return [(arguments["TableName"], arguments["Key"])]
        case "BatchWriteItem":
            tables = arguments["RequestItems"].items()
            puts = [(table, entry.get("PutRequest")) for table, entries in tables for entry in entries]
            return [(table, put["Item"]) for table, put in puts if put]
        case "TransactWriteItems":
            writes = [entry.get("Put") or entry.get("Update") for entry in arguments["TransactItems"]]
            return [(write["TableName"], write.get("Item") or write["Key"]) for write in writes if write]
    return []
