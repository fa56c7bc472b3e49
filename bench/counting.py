"""A database that counts what each operation consumes, as AWS bills it, and a plain layout to compare ours with.

DynamoDB Local is believed but for what it misreports: it doubles the writes of a transaction once too often, also those
of indexes, which AWS does not double (measured there by others: nubo-db/dynoxide, pull request 188); and a query that
finds nothing is free there.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from kudurru_server.cost import Bill
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.chunks import size_bytes
from kudurru_server.storage.dynamodb.client import DynamoDatabase
from kudurru_server.storage.dynamodb.database import Item, Page, Question, Table

_WRITE_UNIT_BYTES = 1024


@dataclass
class Units:
    """Read and write units."""

    read: float = 0.0
    write: float = 0.0


@dataclass
class Ledger:
    """What was consumed, by operation."""

    operations: dict[str, Units] = field(default_factory=dict)

    def add(self, operation: str, read: float, write: float) -> None:
        """Add what a call of an operation consumed."""
        units = self.operations.setdefault(operation, Units())
        units.read += read
        units.write += write

    def write(self, *operations: str) -> float:
        """Return the write units of these operations, or of all."""
        return sum(self.operations[one].write for one in operations or self.operations if one in self.operations)

    def read(self) -> float:
        """Return the read units of all operations."""
        return sum(units.read for units in self.operations.values())

    def clear(self) -> None:
        """Forget everything."""
        self.operations.clear()


class CountingDatabase:
    """A `Database`."""

    def __init__(self, real: DynamoDatabase, ledger: Ledger) -> None:
        self._real = real
        self._ledger = ledger

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Return an operation that is counted as the service says."""
        operation = getattr(self._real, name)

        async def counted(*arguments: object, **named: object) -> object:
            with Bill() as bill:
                answer = await operation(*arguments, **named)
            self._ledger.add(name, bill.read_units, bill.write_units)
            return answer

        return counted

    async def query(self, question: Question, limit: int | None = None, start: Item | None = None) -> Page:
        """Count at least what the smallest read costs."""
        with Bill() as bill:
            page = await self._real.query(question, limit, start)
        self._ledger.add("query", max(bill.read_units, 1.0 if question.consistent else 0.5), 0.0)
        return page

    async def transact(self, writes: Sequence[tuple[Table, Item]], token: str) -> None:
        """Count two write units for every KiB of an item, and one for every KiB of its place in the index."""
        await self._real.transact(writes, token)
        for _, item in writes:
            units = -(-size_bytes(item) // _WRITE_UNIT_BYTES)
            self._ledger.add("transact", 0.0, float(2 * units + (units if "gsi1pk" in item else 0)))


@dataclass(frozen=True)
class PlainLayout:
    """An event and a row for each of its tags, which names the event, in one transaction; no log, and no condition."""

    database: CountingDatabase

    async def append(self, position: int, tags: Sequence[str], data: bytes) -> None:
        """Write one event."""
        event_id = str(uuid4())
        key = keys.event_key(event_id)
        own: Item = {
            "pk": key.pk,
            "sk": key.sk,
            "gsi1pk": keys.shard_pk(position % 4),
            "sortable_unique_id": f"{position:030d}",
            "event_type": "OrderPlaced",
            "tags": list(tags),
            "frame": data,
        }
        rows: list[Item] = [
            {"pk": keys.tag_pk(tag), "sk": f"{position:030d}#{event_id}", "id": event_id} for tag in tags
        ]
        await self.database.transact(
            [(Table.EVENTS, own), *((Table.TAGS, row) for row in rows)], uuid4().hex.ljust(36, "0")
        )

    async def read(self) -> int:
        """Read all events by the index; return how many."""
        pages = [
            await self._all(Question(Table.EVENTS, keys.shard_pk(shard), "0", "9", index=keys.ALL_EVENTS))
            for shard in range(4)
        ]
        return sum(map(len, pages))

    async def read_tag(self, tag: str) -> int:
        """Read the events of a tag; return how many."""
        rows = await self._all(Question(Table.TAGS, keys.tag_pk(tag), "0", "9", consistent=True))
        wanted = [keys.event_key(str(row["id"])) for row in rows]
        found = 0
        for start in range(0, len(wanted), 100):
            items, _ = await self.database.get_many(Table.EVENTS, wanted[start : start + 100])
            found += len(items)
        return found

    async def _all(self, question: Question) -> list[Item]:
        items: list[Item] = []
        start: Item | None = None
        while True:
            page = await self.database.query(question, None, start)
            items += page.items
            start = page.more
            if start is None:
                return items
