"""What the store asks of DynamoDB, and nothing more: nine operations on items of plain values.

The protocol is written against this seam, so that it runs unchanged on the service (`client.py`) and in a simulation.
Every call is one attempt: whether to try again, and for how long, is `retries.py`'s. Every operation may be sent again
with the same arguments without harm: that is what the store builds on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

Value = str | int | bytes | list[str]
Item = dict[str, Value]
"""Attributes by name: strings, whole numbers, bytes and lists of strings; None and empty keys do not exist."""


class Table(StrEnum):
    """A table, by its name without the prefix."""

    LOG = "log"
    EVENTS = "events"
    TAGS = "tags"
    PROJECTIONS = "projections"


@dataclass(frozen=True, slots=True)
class Key:
    """The primary key of an item. The sort key is a number in the log and a string elsewhere."""

    pk: str
    sk: str | int


@dataclass(frozen=True, slots=True)
class Absent:
    """The item does not exist."""


@dataclass(frozen=True, slots=True)
class Present:
    """The item exists."""


@dataclass(frozen=True, slots=True)
class Same:
    """Each attribute has this value; None: it (or the item) does not exist."""

    values: dict[str, Value | None]


@dataclass(frozen=True, slots=True)
class Below:
    """The attribute does not exist, or is lower than `value`."""

    name: str
    value: str | int


Condition = Absent | Present | Same | Below


@dataclass(frozen=True, slots=True)
class Refused:
    """The condition was false; nothing was written."""

    item: Item | None
    """What is there instead; None: no item."""


@dataclass(frozen=True, slots=True)
class Question:
    """The items of a partition (of a table, or of an index of it) in the order of their sort keys."""

    table: Table
    pk: str
    low: str | int
    """The lowest sort key, inclusive."""
    high: str | int
    """The highest sort key, inclusive."""
    index: str | None = None
    """The index's name; its answers are eventually consistent and may lack what was written a while ago."""
    forward: bool = True
    consistent: bool = False
    attributes: tuple[str, ...] = ()
    """The attributes to return; none named: all."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the answer to a question, in its order. A page may be empty and still not be the last."""

    items: list[Item]
    more: Item | None = field(default=None)
    """Where the next page starts; None: this is the last."""


class Database(Protocol):
    """One attempt at each operation.

    Raises, everywhere:
        DatabaseError: see `retries.py`; a write that raised may still take effect, at any later time, unless the error
            says that it was refused.
    """

    async def get(self, table: Table, key: Key, *, consistent: bool) -> Item | None:
        """Return an item, or None."""
        ...

    async def get_many(self, table: Table, keys: Sequence[Key]) -> tuple[list[Item], list[Key]]:
        """Return those of at most 100 items that exist, consistently and in any order, and the keys not looked at."""
        ...

    async def put(self, table: Table, item: Item, condition: Condition | None = None) -> Refused | None:
        """Write an item in place of what is there; return None if it is written."""
        ...

    async def update(
        self, table: Table, key: Key, values: Item, condition: Condition, *, remove: Sequence[str] = ()
    ) -> Refused | None:
        """Set some attributes of an item and remove others, on a condition; return None if it is done."""
        ...

    async def query(self, question: Question, limit: int | None = None, start: Item | None = None) -> Page:
        """Return a page of at most `limit` items and about 1 MiB, from `start` (a page's `more`) on."""
        ...

    async def scan(self, table: Table, attributes: Sequence[str] = (), start: Item | None = None) -> Page:
        """Return a page of everything in a table, consistently and in any order; for a restore, not for a server."""
        ...

    async def transact(self, writes: Sequence[tuple[Table, Item]], token: str) -> None:
        """Write at most 100 items, together at most 4 MB, all or none; repeated with a token it writes once."""
        ...

    async def write_many(self, writes: Sequence[tuple[Table, Item]]) -> list[tuple[Table, Item]]:
        """Write at most 25 items, each by itself; return those that were not written."""
        ...

    async def delete(self, table: Table, key: Key) -> None:
        """Delete an item, if it exists."""
        ...
