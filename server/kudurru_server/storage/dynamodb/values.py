"""Items as DynamoDB writes them: every value with its type. Pure functions."""

import base64
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kudurru_server.storage.dynamodb.database import Item, Value
from kudurru_server.storage.dynamodb.retries import OperatorError

Wire = dict[str, Any]
"""A value with its type, `{"S": "text"}`; binary is bytes, as botocore wants and gives it."""


def to_wire(value: Value) -> Wire:
    """Return a value with its type."""
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, int):
        return {"N": str(value)}
    if isinstance(value, bytes):
        return {"B": value}
    return {"L": [{"S": text} for text in value]}


def item_to_wire(item: Item) -> dict[str, Wire]:
    """Return an item with its types."""
    return {name: to_wire(value) for name, value in item.items()}


def item_from_wire(item: Mapping[str, Mapping[str, Any]]) -> Item:
    """Return the plain values of an item that botocore decoded.

    Raises:
        OperatorError: it has a value of a type that the store never writes.
    """
    return {name: _plain(name, value, _itself) for name, value in item.items()}


def item_from_json(item: Mapping[str, Mapping[str, Any]]) -> Item:
    """Return the plain values of an item as it is in JSON, where binary is base64.

    Raises:
        OperatorError: it has a value of a type that the store never writes.
    """
    return {name: _plain(name, value, base64.b64decode) for name, value in item.items()}


def _itself(value: bytes) -> bytes:
    return value


def _plain(name: str, value: Mapping[str, Any], binary: Any) -> Value:  # noqa: ANN401 - base64 takes text, the other bytes
    for kind, content in value.items():
        if kind == "S":
            return str(content)
        if kind == "N":
            return _whole(name, content)
        if kind == "B":
            return bytes(binary(content))
        if kind == "L" and all("S" in part for part in content):
            return [part["S"] for part in content]
        raise _foreign(name, kind)
    raise _foreign(name, "none")


def _whole(name: str, digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        number = Decimal(digits)
        if number != number.to_integral_value():
            raise _foreign(name, "N with a fraction") from None
        return int(number)


def _foreign(name: str, kind: str) -> OperatorError:
    return OperatorError("ForeignItem", f"attribute {name} has the type {kind}, which the store never writes")
