"""DynamoDB's requests and answers on the wire: JSON over HTTP, with the operation in a header."""

import json
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

Json = dict[str, Any]

_TARGET = "x-amz-target"
_VERSION = "DynamoDB_20120810"
_PREFIX = "com.amazonaws.dynamodb.v20120810#"


@dataclass(frozen=True, slots=True)
class Call:
    """A request to DynamoDB."""

    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes

    @property
    def operation(self) -> str:
        """The operation's name, such as `PutItem`."""
        return self.headers.get(_TARGET, "").rpartition(".")[2]

    def json(self) -> Json:
        """Return the arguments."""
        arguments: Json = json.loads(self.body)
        return arguments

    def with_json(self, arguments: Json, operation: str | None = None) -> "Call":
        """Return the call with other arguments; the signature is wrong then, which DynamoDB Local does not mind."""
        target = {_TARGET: f"{_VERSION}.{operation or self.operation}"}
        return replace(self, headers={**self.headers, **target}, body=json.dumps(arguments).encode())


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of DynamoDB."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        """Return what the body says."""
        said: Json = json.loads(self.body)
        return said

    def with_json(self, said: Json) -> "Answer":
        """Return the answer with another body."""
        return replace(self, body=json.dumps(said).encode())

    def response(self) -> web.Response:
        """Return it as a response, with the checksum that clients check."""
        checksum = {"x-amz-crc32": str(zlib.crc32(self.body))}
        return web.Response(status=self.status, headers={**self.headers, **checksum}, body=self.body)


def throttled(call: Call, chance: random.Random) -> Answer:
    """Return a refusal for lack of capacity."""
    if call.operation == "TransactWriteItems" and chance.random() < 0.5:
        return _cancelled(call, chance, "ThrottlingError", "Throughput exceeds the current capacity of your table.")
    text = "The level of configured provisioned throughput for the table was exceeded."
    return _error(400, "ProvisionedThroughputExceededException", {"message": text})


def conflict(call: Call, chance: random.Random) -> Answer:
    """Return a refusal because of another transaction."""
    if call.operation == "TransactWriteItems":
        return _cancelled(call, chance, "TransactionConflict", "Transaction is ongoing for the item")
    return _error(400, "TransactionConflictException", {"message": "Transaction is ongoing for the item"})


def internal_error() -> Answer:
    """Return the answer that does not tell whether anything was done."""
    return _error(500, "InternalServerError", {"message": "The request processing has failed because of an error."})


def denied(code: str) -> Answer:
    """Return a refusal for credentials or a policy, whose text names what only operators should see."""
    text = "User: arn:aws:iam::123456789012:user/kudurru is not allowed to do this"
    return _error(400, code, {"message": text})


def _cancelled(call: Call, chance: random.Random, code: str, message: str) -> Answer:
    """Return a cancellation for which one item is to blame, or several."""
    count = len(call.json()["TransactItems"])
    guilty = set(chance.sample(range(count), chance.randint(1, min(3, count))))
    reasons = [{"Code": code, "Message": message} if n in guilty else {"Code": "None"} for n in range(count)]
    codes = ", ".join(reason["Code"] for reason in reasons)
    text = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
    return _error(400, "TransactionCanceledException", {"Message": text, "CancellationReasons": reasons})


def _error(status: int, name: str, more: Json) -> Answer:
    body = json.dumps({"__type": f"{_PREFIX}{name}", **more}).encode()
    return Answer(status, {"content-type": "application/x-amz-json-1.0"}, body)
