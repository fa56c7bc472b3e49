"""Queries say which events are meant; conditions say that none of them may have been recorded."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_


@dataclass(frozen=True, slots=True)
class QueryItem:
    """One alternative of a query.

    Attributes:
        event_types: The event's type is one of these; empty means any type.
        tags: The event has all of these tags; empty means any tags, or none.
    """

    event_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """Which events are meant: those that match at least one item, or every event if there are no items.

    ```python
    Query.of(types=["CourseDefined"], tags=["course:c1"]) | Query.of(tags=["student:s1"])
    ```
    """

    items: tuple[QueryItem, ...] = ()

    @classmethod
    def all(cls) -> "Query":
        """Every event."""
        return cls()

    @classmethod
    def of(cls, *, types: Iterable[str] = (), tags: Iterable[str] = ()) -> "Query":
        """Events of any of these types that have all of these tags.

        Raises:
            ValueError: Neither is given. A list that was computed and came out empty must not mean every event;
                `Query.all()` does.
        """
        item = QueryItem(strings(types, "types"), strings(tags, "tags"))
        if not (item.event_types or item.tags):
            raise ValueError("a query needs a type or a tag; Query.all() means every event")
        return cls((item,))

    @classmethod
    def any(cls, queries: Iterable["Query"]) -> "Query":
        """Events that match any of the queries, such as one for each product of an order.

        Raises:
            ValueError: There is no query.
        """
        joined = tuple(queries)
        if not joined:
            raise ValueError("nothing to match; Query.all() means every event")
        return reduce(or_, joined)

    def __or__(self, other: "Query") -> "Query":
        return Query(self.items + other.items) if self.items and other.items else Query()


@dataclass(frozen=True, slots=True)
class Condition:
    """No event that matches `query` has been recorded after `after`.

    Attributes:
        query: The events that must not exist.
        after: A sortable unique id, exclusive, such as the `head` of a read; empty means the whole history.
    """

    query: Query
    after: str = ""


def strings(values: Iterable[str], name: str) -> tuple[str, ...]:
    """Return the values as a tuple; a single string, which would fall apart into letters, is a TypeError."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list of strings, not one string")
    return tuple(values)
