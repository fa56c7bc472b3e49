"""History: a span of the store, from the rows of tags, from the log, or from the index of all events.

The log is preferred for everything that names no tags: it is batched and already in order. Where it is trimmed, or on
request everywhere, the index of all events is read instead, and what the index lacks comes from the log, or where that
is trimmed from the events' own rows. Backwards, where the index is not read, these are what a trimmed log is read from.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

from kudurru_server.model import Batch, Cursor, Entry, Query, Stored, matches
from kudurru_server.storage.dynamodb.entry_item import has_body, place_of
from kudurru_server.storage.dynamodb.event_rows import EventRows, row_of
from kudurru_server.storage.dynamodb.log_reader import LogReader
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
        log: LogReader,
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
        self._trimmed = 0  # position up to which the log is known to be trimmed

    async def read(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        """See `Storage.history`."""
        if query.items and all(item.tags for item in query.items):
            after, until = await self._cursor(span.after), await self._cursor(span.until)
            found = await self._tag_rows.read(query, Range(after, until, span.backwards), min(_TAG_PAGE, max_events))
            self._learn(found.events)
            return _columns(found.events, found.reached).batch(max_events, max_bytes)
        return (await self._scan(query, span)).batch(max_events, max_bytes)

    async def first(self, query: Query, span: Span) -> int | None:
        """Return the position of the first event of a span, in its order, that matches; the span is scanned."""
        while span.after < span.until:
            found = await self._scan(query, span)
            if found.positions:
                return found.positions[0]
            span = span.beyond(found.reached)
        return None

    async def _scan(self, query: Query, span: Span) -> "_Columns":
        by_index = self._prefer_index or span.after < self._trimmed
        found = await (self._from_index(span) if by_index and not span.backwards else self._from_log(span))
        return found.matching(query) if query.items else found

    async def _cursor(self, position: int) -> Cursor:
        return Cursor(await self._log.ticks_at(position), position) if position else Cursor(0, 0)

    def _learn(self, events: Sequence[Stored]) -> None:
        """Let who reads on from the last of these events find its ticks without a look into the log."""
        if events:
            self._log.learn_ticks(events[-1].position, events[-1].ticks)

    async def _from_log(self, span: Span) -> "_Columns":
        entries = await self._entries(span)
        reached = max(span.after + 1, entries[-1].first) if span.backwards else min(span.until, entries[-1].last)
        found = _Columns([], [], [], reached)
        for entry in entries:
            low, high = max(entry.first, span.after + 1), min(entry.last, span.until)
            if low <= high:  # what was read ahead may lie beyond the span
                places = slice(low - entry.first, high + 1 - entry.first)
                step = -1 if span.backwards else 1
                found.positions += range(low, high + 1)[::step]
                found.labels += entry.labels[places][::step]
                found.frames += entry.frames[places][::step]
        return found

    async def _entries(self, span: Span) -> list[Entry]:
        """Return some entries of the span, the first of which holds its beginning, in its order."""
        number = await self._log.number_at(span.until if span.backwards else span.after + 1)
        if span.backwards:
            items = await self._log.items(max(1, number - _ENTRIES), number)
            entries = await self._log.entries_of([*reversed(items)]) if items else []
            return entries if entries and entries[0].last >= span.until else [await self._log.entry_at(number)]
        items = await self._log.items(number, number + _ENTRIES)
        trimmed = [*takewhile(lambda item: not has_body(item), items)]
        if trimmed:  # from now on the index is asked first: it gives more at once than rows by their keys
            self._trimmed = max(self._trimmed, place_of(trimmed[-1]).last)
            items = trimmed[:1]
        return await self._log.entries_of(items) or [await self._log.entry_at(number)]

    async def _from_index(self, span: Span) -> "_Columns":
        first = span.after + 1
        # Ticks never go back, so with those of the event before it lies above that one and not above `first`.
        low = str(Cursor((await self._cursor(span.after)).ticks, first))
        high = str(await self._cursor(span.until))
        for attempt in range(_INDEX_ATTEMPTS):
            items = await self._index.run(low, high, first, _INDEX_PAGE)
            if items:
                events = await self._rows.complete([row_of(item) for item in items])
                self._learn(events)
                return _columns(events, events[-1].position)
            await self._pauses.before(attempt + 1)
            await self._index.refresh()
        return await self._from_log(span)


@dataclass(slots=True)
class _Columns:
    """Events in a span's order, and how far that is everything there is."""

    positions: list[int]
    labels: list[str]
    frames: list[bytes]
    reached: int

    def matching(self, query: Query) -> "_Columns":
        """Return the events that match."""
        places = [place for place, label in enumerate(self.labels) if matches(query, label)]
        return _Columns(
            [self.positions[place] for place in places],
            [self.labels[place] for place in places],
            [self.frames[place] for place in places],
            self.reached,
        )

    def batch(self, max_events: int, max_bytes: int) -> Batch:
        """Return the events up to the limits."""
        ends = list(accumulate(map(len, self.frames)))
        stop = min(len(ends), max_events, bisect_left(ends, max_bytes) + 1)
        is_whole = stop == len(ends) and stop < max_events
        reached = self.reached if is_whole else self.positions[stop - 1]
        return Batch(b"".join(self.frames[:stop]), stop, reached)


def _columns(events: Sequence[Stored], reached: int) -> _Columns:
    return _Columns(
        [stored.position for stored in events],
        [stored.label for stored in events],
        [stored.frame for stored in events],
        reached,
    )
