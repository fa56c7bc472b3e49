"""The tables of events and tags made what the log says: nothing above its head, and everything up to there.

The events are scanned once, and what is learned of them is small: a bit a position, the last event of each type, how
many rows the tags must have. The tags are scanned after that. If rows are missing, all are written from the events, so
the table of tags may as well have been empty.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from kudurru_server.model import START, Cursor
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of, texts_of
from kudurru_server.storage.dynamodb.chunks import Write
from kudurru_server.storage.dynamodb.database import Database, Item, Key, Question, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows, row_of, tag_items
from kudurru_server.storage.dynamodb.roll_forward import RollForward

_TAG, _TYPE, _GROUP = "TAG#", "TYPE#", "GROUP#"
_TYPE_ATTRIBUTES = ("sortable_unique_id", "position", "event_id", "event_type", "tags")


class RestoreError(Exception):
    """The store cannot be restored from these tables, or not now."""


@dataclass(slots=True)
class Remains:
    """What the table of events holds up to the head."""

    head: int
    deleted: int = 0
    """Rows that were above it."""
    tag_rows: int = 0
    """How many rows the tags must have."""
    highest_id: str = ""
    twice: int = 0
    """A position that two events have; 0 if none has."""
    types: dict[str, Item] = field(default_factory=dict)
    """The row that each type must have."""
    _seen: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._seen = bytearray(self.head // 8 + 1)

    def take(self, item: Item) -> None:
        """Take note of an event."""
        position, event_type = number_of(item, "position"), text_of(item, "event_type")
        if self._has(position):
            self.twice = position
        self._seen[position >> 3] |= 1 << (position & 7)
        self.tag_rows += len(texts_of(item, "tags"))
        self.highest_id = max(self.highest_id, text_of(item, "event_id"))
        if event_type not in self.types or number_of(self.types[event_type], "position") < position:
            key = keys.type_key(event_type)
            row: Item = {name: item[name] for name in _TYPE_ATTRIBUTES}
            self.types[event_type] = {"pk": key.pk, "sk": key.sk, **row}

    def missing(self, most: int) -> Iterator[int]:
        """Yield the first positions up to the head that have no event."""
        for at, bits in enumerate(self._seen):
            if bits != 0xFF:  # noqa: PLR2004 - all eight are there
                for position in range(max(1, 8 * at), min(8 * at + 7, self.head) + 1):
                    if most and not self._has(position):
                        most -= 1
                        yield position

    def _has(self, position: int) -> bool:
        return bool(self._seen[position >> 3] & 1 << (position & 7))


class RowsRestore:
    """Restores the rows up to a head."""

    def __init__(self, database: Database, rows: EventRows, roll: RollForward, head: Cursor) -> None:
        self._database = database
        self._rows = rows
        self._roll = roll
        self._head = head

    async def events(self) -> Remains:
        """Delete the events above the head, and return what is left."""
        remains = Remains(self._head.position)
        async for page in self._scan(Table.EVENTS, ("pk", "sk", *_TYPE_ATTRIBUTES)):
            above = [item for item in page if self._is_above(item)]
            for item in page:
                if not self._is_above(item):
                    remains.take(item)
            await self._delete(Table.EVENTS, above)
            remains.deleted += len(above)
        return remains

    async def tags(self, events: Remains) -> int:
        """Make the table of tags what the events say; return how many rows of tags were above the head.

        Raises:
            RestoreError: it has rows of events that are not in the table of events.
        """
        deleted = left = 0
        async for page in self._scan(Table.TAGS, ("pk", "sk", "position")):
            rows = [item for item in page if _name(item, _TAG) is not None]
            above = [item for item in rows if self._is_above(item)]
            left += len(rows) - len(above)
            deleted += len(above)
            used = await asyncio.gather(*(self._is_used(item, events) for item in page))
            unused = [item for item, is_used in zip(page, used, strict=True) if not is_used]
            await self._delete(Table.TAGS, above + unused)
            await self._roll.list_tags({str(_name(item, _TAG)) for item in rows if not self._is_above(item)})
        if left > events.tag_rows:
            raise RestoreError(f"the tags have {left} rows up to the head, but the events only {events.tag_rows} tags")
        if left < events.tag_rows:
            await self._write_tags()
        await self._roll.write_many([(Table.TAGS, row) for row in events.types.values()])
        await self._forget_groups()
        return deleted

    async def _is_used(self, item: Item, events: Remains) -> bool:
        """Tell whether what a row names is still there: a type, or a tag."""
        event_type = _name(item, _TYPE)
        if event_type is not None:
            return event_type in events.types
        if _name(item, _GROUP) is None:
            return True
        tag, head = text_of(item, "sk"), self._head
        high = keys.tag_span(START, head)[1] if head.position else keys.FIRST_CURSOR
        return await self._any(Question(Table.TAGS, keys.tag_pk(tag), keys.FIRST_CURSOR, high, consistent=True))

    async def _write_tags(self) -> None:
        async for page in self._scan(Table.EVENTS):
            writes: list[Write] = []
            tags: set[str] = set()
            for row in map(row_of, page):
                items = tag_items(row.stored, row.cut)
                writes += [(Table.TAGS, item) for item in items]
                tags.update(text_of(item, "pk").removeprefix(_TAG) for item in items)
            await self._roll.write_many(writes)
            await self._roll.list_tags(tags)

    async def _forget_groups(self) -> None:
        """Delete the names of groups without tags."""
        question = Question(Table.TAGS, keys.GROUPS_PK, "#", keys.HIGHEST_NAME, consistent=True)
        async for item in self._rows.answer(question):
            pk = keys.group_pk(text_of(item, "sk")[1:])
            if not await self._any(Question(Table.TAGS, pk, keys.LOWEST_NAME, keys.HIGHEST_NAME, consistent=True)):
                await self._delete(Table.TAGS, [item])

    async def _any(self, question: Question) -> bool:
        return bool((await self._rows.page(question, 1)).items)

    def _is_above(self, item: Item) -> bool:
        return number_of(item, "position") > self._head.position

    async def _scan(self, table: Table, attributes: tuple[str, ...] = ()) -> AsyncIterator[list[Item]]:
        start = None
        while True:
            page = await self._rows.asking(partial(self._database.scan, table, attributes, start))
            yield page.items
            start = page.more
            if start is None:
                return

    async def _delete(self, table: Table, items: Sequence[Item]) -> None:
        found = [Key(text_of(item, "pk"), text_of(item, "sk")) for item in items]
        await asyncio.gather(*(self._rows.asking(partial(self._database.delete, table, key)) for key in found))


def _name(item: Item, prefix: str) -> str | None:
    """Return what a row's partition names, if it begins so."""
    pk = text_of(item, "pk")
    return pk.removeprefix(prefix) if pk.startswith(prefix) else None
