"""Conditions that begin before the tail: is there a matching event after a position, among what has rows?"""

import asyncio

from kudurru_server.model import Cursor, Query, QueryItem, Stored
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.database import Database, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.history import History
from kudurru_server.storage.dynamodb.log_reader import LogReader
from kudurru_server.storage.dynamodb.tag_rows import Range, TagRows
from kudurru_server.storage.interface import Check, Span

_PAGE = 100


class Conditions:
    """Answers checks, each item of a query by the rows that know most about it."""

    def __init__(
        self, database: Database, rows: EventRows, tag_rows: TagRows, log: LogReader, history: History
    ) -> None:
        self._database = database
        self._rows = rows
        self._tag_rows = tag_rows
        self._log = log
        self._history = history

    async def first(self, check: Check, until: int) -> Stored | None:
        """See `Storage.first_matches`."""
        if check.after >= until:
            return None
        if not check.query.items:
            return await self._stored(until)
        found = await asyncio.gather(*(self._item(item, check.after, until) for item in check.query.items))
        return next((stored for stored in found if stored is not None), None)

    async def _item(self, item: QueryItem, after: int, until: int) -> Stored | None:
        if item.tags:
            return await self._tagged(item, after, until)
        for event_type in item.event_types:
            stored = await self._typed(event_type, after, until)
            if stored is not None:
                return stored
        return None

    async def _tagged(self, item: QueryItem, after: int, until: int) -> Stored | None:
        query = Query((item,))
        end = Cursor(await self._log.ticks_at(until), until)
        while after < until:
            begin = Cursor(await self._log.ticks_at(after), after) if after else Cursor(0, 0)
            found = await self._tag_rows.read(query, Range(begin, end), _PAGE)
            if found.events:
                return found.events[0]
            after = found.reached
        return None

    async def _typed(self, event_type: str, after: int, until: int) -> Stored | None:
        key = keys.type_key(event_type)
        item = await self._rows.asking(lambda: self._database.get(Table.TAGS, key, consistent=True))
        if item is None or number_of(item, "position") <= after:
            return None
        if number_of(item, "position") <= until:
            event_id = text_of(item, "event_id")
            rows = await self._rows.find([event_id])
            return (await self._rows.complete([rows[event_id]]))[0]
        # The row is ahead of what was asked about: rows are being written. The type is in use, so the end is near.
        query = Query((QueryItem(event_types=(event_type,)),))
        position = await self._history.first(query, Span(after, until, backwards=True))
        return None if position is None else await self._stored(position)

    async def _stored(self, position: int) -> Stored:
        entry = await self._log.entry_at(await self._log.number_at(position))
        return entry.stored(position)
