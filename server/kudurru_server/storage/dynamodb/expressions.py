"""Conditions, updates and key ranges as DynamoDB's expressions. Every name and value is a placeholder. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from kudurru_server.storage.dynamodb.database import Absent, Below, Condition, Item, Present, Question, Value
from kudurru_server.storage.dynamodb.values import Wire, to_wire

PK = "pk"
"""The partition key of every table."""


class Placeholders:
    """The names and values that the expressions of one request refer to."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: dict[str, Wire] = {}

    def name(self, name: str) -> str:
        """Return the placeholder of an attribute's name."""
        return self._names.setdefault(name, f"#n{len(self._names)}")

    def value(self, value: Value) -> str:
        """Return a placeholder for a value."""
        placeholder = f":v{len(self._values)}"
        self._values[placeholder] = to_wire(value)
        return placeholder

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a request that say what the placeholders stand for."""
        arguments: dict[str, Any] = {}
        if self._names:
            arguments["ExpressionAttributeNames"] = {placeholder: name for name, placeholder in self._names.items()}
        if self._values:
            arguments["ExpressionAttributeValues"] = dict(self._values)
        return arguments


def condition_expression(condition: Condition, use: Placeholders) -> str:
    """Return a condition as an expression; empty if it is always true."""
    if isinstance(condition, Absent):
        return f"attribute_not_exists({use.name(PK)})"
    if isinstance(condition, Present):
        return f"attribute_exists({use.name(PK)})"
    if isinstance(condition, Below):
        name = use.name(condition.name)
        return f"attribute_not_exists({name}) OR {name} < {use.value(condition.value)}"
    return " AND ".join(
        f"attribute_not_exists({use.name(name)})" if value is None else f"{use.name(name)} = {use.value(value)}"
        for name, value in condition.values.items()
    )


def update_expression(values: Item, remove: Iterable[str], use: Placeholders) -> str:
    """Return an update as an expression; empty if it changes nothing."""
    sets = ", ".join(f"{use.name(name)} = {use.value(value)}" for name, value in values.items())
    removes = ", ".join(map(use.name, remove))
    return " ".join(f"{verb} {what}" for verb, what in (("SET", sets), ("REMOVE", removes)) if what)


def range_expression(question: Question, pk_name: str, sk_name: str, use: Placeholders) -> str:
    """Return the key range that a question is about."""
    low, high = use.value(question.low), use.value(question.high)
    return f"{use.name(pk_name)} = {use.value(question.pk)} AND {use.name(sk_name)} BETWEEN {low} AND {high}"


def projection_expression(attributes: Sequence[str], use: Placeholders) -> str:
    """Return the attributes to answer with."""
    return ", ".join(map(use.name, attributes))
