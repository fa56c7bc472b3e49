"""Rows cut into what DynamoDB takes at once. Pure: the same rows make the same chunks and the same request tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kudurru_server.storage.dynamodb.database import Item, Table, Value

Write = tuple[Table, Item]

TRANSACTION_ITEMS = 100
TRANSACTION_BYTES = 3_500_000
"""Of the service's 4 MB: sizes are counted from the documentation, not by the service."""
_NUMBER_BYTES = 21
_LIST_BYTES = 3


@dataclass(slots=True)
class Chunk:
    """Rows that are written together."""

    number: int
    event_ids: list[str] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    size_bytes: int = 0


def cut(events: Iterable[tuple[str, Sequence[Write]]]) -> Iterator[Chunk]:
    """Yield the rows of events, given as id and rows, in chunks that fit into a transaction.

    An event and its rows stay together where they fit into one.
    """
    chunk = Chunk(0)
    for event_id, writes in events:
        sizes = [size_bytes(item) for _, item in writes]
        together = len(writes) <= TRANSACTION_ITEMS and sum(sizes) <= TRANSACTION_BYTES
        pieces = (
            [(writes, sum(sizes))] if together else [([write], size) for write, size in zip(writes, sizes, strict=True)]
        )
        for piece, size in pieces:
            if len(chunk.writes) + len(piece) > TRANSACTION_ITEMS or chunk.size_bytes + size > TRANSACTION_BYTES:
                yield chunk
                chunk = Chunk(chunk.number + 1)
            if event_id not in chunk.event_ids[-1:]:
                chunk.event_ids.append(event_id)
            chunk.writes += piece
            chunk.size_bytes += size
    if chunk.writes:
        yield chunk


def size_bytes(item: Item) -> int:
    """Return about what DynamoDB counts for an item: names and values, strings as UTF-8."""
    return sum(len(name) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Value) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, int):
        return _NUMBER_BYTES
    return _LIST_BYTES + sum(1 + len(one.encode()) for one in value)
