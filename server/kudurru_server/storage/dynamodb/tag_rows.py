"""Reads by tag: of each item of a query the tag with the fewest rows is read, and the rest of the item filters them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kudurru_server.model import Cursor, Query, QueryItem, Stored, matches
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.database import Question, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows, Row, row_of


@dataclass(frozen=True, slots=True)
class Range:
    """The events after one cursor up to another, both of events (or the beginning)."""

    after: Cursor
    until: Cursor
    backwards: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Matching events in the range's order, whole up to position `reached` inclusive."""

    events: list[Stored]
    reached: int


class TagRows:
    """Reads the rows of tags, consistently."""

    def __init__(self, rows: EventRows) -> None:
        self._rows = rows

    async def read(self, query: Query, span: Range, limit: int) -> Found:
        """Return the first matches of a query all of whose items have tags; it makes progress, perhaps without one."""
        pages = await asyncio.gather(*(self._item(item, span, limit) for item in query.items))
        nearest = max if span.backwards else min
        reached = nearest(reached for _, reached in pages)
        found = {
            row.stored.position: row
            for rows, _ in pages
            for row in rows
            if (row.stored.position >= reached if span.backwards else row.stored.position <= reached)
        }
        chosen = [found[position] for position in sorted(found, reverse=span.backwards)]
        if len(chosen) > limit:
            chosen = chosen[:limit]
            reached = chosen[-1].stored.position
        return Found(await self._rows.complete(chosen), reached)

    async def _item(self, item: QueryItem, span: Range, limit: int) -> tuple[list[Row], int]:
        # One page of each tag: the one that reaches farthest has the fewest rows.
        pages = await asyncio.gather(*(self._page(tag, span, limit) for tag in item.tags))
        farthest = min if span.backwards else max
        rows, reached = farthest(pages, key=lambda page: page[1])
        alone = Query((item,))
        return [row for row in rows if matches(alone, row.stored.label)], reached

    async def _page(self, tag: str, span: Range, limit: int) -> tuple[list[Row], int]:
        """Return a page of a tag's rows and the position it reaches."""
        low, high = keys.tag_span(span.after, span.until)
        question = Question(Table.TAGS, keys.tag_pk(tag), low, high, forward=not span.backwards, consistent=True)
        page = await self._rows.page(question, limit)
        if page.more is None:
            reached = span.after.position + 1 if span.backwards else span.until.position
        else:
            reached = number_of(page.items[-1], "position")
        return [row_of(item) for item in page.items], reached

    async def count(self, tag: str, until: Cursor) -> int:
        """Return how many events up to `until` have the tag."""
        low, high = keys.tag_span(Cursor(0, 0), until)
        question = Question(Table.TAGS, keys.tag_pk(tag), low, high, consistent=True, attributes=("position",))
        count = 0
        async for _ in self._rows.answer(question):
            count += 1
        return count

    async def listed(self, group: str | None, after: str | None, limit: int) -> list[str]:
        """Return the names of tags by group and then by tag, as `Storage.tags` does."""
        if group is not None:
            return await self._listed(group, after, limit)
        begin = "#" if after is None else keys.listing_keys(after)[0].sk
        names: list[str] = []
        async for listed in self._names(keys.GROUPS_PK, str(begin)):
            is_first = listed == begin
            names += await self._listed(listed[1:], after if is_first else None, limit - len(names))
            if len(names) >= limit:
                break
        return names

    async def _listed(self, group: str, after: str | None, limit: int) -> list[str]:
        names: list[str] = []
        if limit <= 0:
            return names
        async for name in self._names(keys.group_pk(group), after or keys.LOWEST_NAME):
            if name != after:
                names.append(name)
            if len(names) >= limit:
                break
        return names

    async def _names(self, pk: str, low: str) -> AsyncIterator[str]:
        question = Question(Table.TAGS, pk, low, keys.HIGHEST_NAME, consistent=True, attributes=("sk",))
        async for item in self._rows.answer(question):
            yield text_of(item, "sk")
