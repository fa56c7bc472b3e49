"""History: a span of the store, from the rows of tags, from the log, or from the index of all events.

The log is preferred for everything that names no tags: it is batched and already in order. On request, the index of all
events is read instead, and what the index lacks comes from the log, or where that is trimmed from the events' own rows.
"""

from collections.abc import Iterable, Sequence

from kudurru_server.model import Batch, Cursor, Entry, Query, Stored, matches
from kudurru_server.storage.dynamodb.event_rows import EventRows, row_of
from kudurru_server.storage.dynamodb.log import Log
from kudurru_server.storage.dynamodb.merge import IndexReader
from kudurru_server.storage.dynamodb.retries import Pauses
from kudurru_server.storage.dynamodb.tag_rows import Range, TagRows
from kudurru_server.storage.interface import Span

_TAG_PAGE = 500
_INDEX_PAGE = 250
_INDEX_ATTEMPTS = 4  # an index that lags is asked again, with growing pauses, before the log is
_ENTRIES = 32


class History:
    """Reads spans."""

    def __init__(
        self,
        log: Log,
        rows: EventRows,
        tag_rows: TagRows,
        index: IndexReader,
        pauses: Pauses,
        *,
        prefer_index: bool,
    ) -> None:
        self._log = log
        self._rows = rows
        self._tag_rows = tag_rows
        self._index = index
        self._pauses = pauses
        self._prefer_index = prefer_index

    async def read(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        """See `Storage.history`."""
        if query.items and all(item.tags for item in query.items):
            after, until = await self._cursor(span.after), await self._cursor(span.until)
            found = await self._tag_rows.read(query, Range(after, until, span.backwards), min(_TAG_PAGE, max_events))
            return _batch(found.events, found.reached, max_events, max_bytes)
        events, reached = await self._scan(query, span)
        return _batch(events, reached, max_events, max_bytes)

    async def first(self, query: Query, span: Span) -> Stored | None:
        """Return the first event of a span, in its order, that matches; the span is scanned."""
        while span.after < span.until:
            events, reached = await self._scan(query, span)
            if events:
                return events[0]
            span = span.beyond(reached)
        return None

    async def _scan(self, query: Query, span: Span) -> tuple[list[Stored], int]:
        events, reached = await (self._from_index(span) if self._prefer_index else self._from_log(span))
        return [stored for stored in events if matches(query, stored.label)] if query.items else events, reached

    async def _cursor(self, position: int) -> Cursor:
        return Cursor(await self._log.ticks_at(position), position) if position else Cursor(0, 0)

    async def _from_log(self, span: Span) -> tuple[list[Stored], int]:
        entries = await self._entries(span)
        events = [stored for entry in entries for stored in _of_span(entry, span)]
        reached = max(span.after + 1, entries[-1].first) if span.backwards else min(span.until, entries[-1].last)
        return events, reached

    async def _entries(self, span: Span) -> list[Entry]:
        """Return some entries of the span, the first of which holds its beginning, in its order."""
        number = await self._log.number_at(span.until if span.backwards else span.after + 1)
        if span.backwards:
            items = await self._log.items(max(1, number - _ENTRIES), number)
            entries = await self._log.entries_of([*reversed(items)]) if items else []
            return entries if entries and entries[0].last >= span.until else [await self._log.entry_at(number)]
        entries = await self._log.entries_of(await self._log.items(number, number + _ENTRIES))
        return entries or [await self._log.entry_at(number)]

    async def _from_index(self, span: Span) -> tuple[list[Stored], int]:
        if span.backwards:
            return await self._from_log(span)
        first = span.after + 1
        low, high = str(await self._cursor(first)), str(await self._cursor(span.until))
        for attempt in range(_INDEX_ATTEMPTS):
            items = await self._index.run(low, high, first, _INDEX_PAGE)
            if items:
                events = await self._rows.complete([row_of(item) for item in items])
                return events, events[-1].position
            await self._pauses.before(attempt + 1)
            await self._index.refresh()
        return await self._from_log(span)


def _of_span(entry: Entry, span: Span) -> Iterable[Stored]:
    low, high = max(entry.first, span.after + 1), min(entry.last, span.until)
    positions = range(high, low - 1, -1) if span.backwards else range(low, high + 1)
    return map(entry.stored, positions)


def _batch(events: Sequence[Stored], reached: int, max_events: int, max_bytes: int) -> Batch:
    """Join frames up to the limits."""
    frames: list[bytes] = []
    size = 0
    for stored in events:
        frames.append(stored.frame)
        size += len(stored.frame)
        if len(frames) >= max_events or size >= max_bytes:
            if stored is not events[-1]:
                reached = stored.position
            break
    return Batch(b"".join(frames), len(frames), reached)
