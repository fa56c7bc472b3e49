"""The newest events in memory: a cache of the log that serves live subscriptions, recent conditions and retries.

It always holds everything that is not applied yet, so between it and the derived rows there is no gap. It is bounded:
applied generations are dropped, oldest first, when the budget is spent; appends are refused before the others are too
many.
"""

import asyncio
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from kudurru_server.engine.generation import Generation
from kudurru_server.model import START, Batch, Cursor, Entry, Query, Stored
from kudurru_server.storage.interface import Span

GENERATION_EVENTS = 32_768  # 2 % more appends than with half as many, 9 % more than with a quarter
GENERATION_BYTES = 16 << 20
_SHARED_BATCHES = 16  # of at most about 1 MiB


@dataclass(frozen=True, slots=True)
class Border:
    """The last of the older events, and what is known of all of them."""

    cursor: Cursor
    highest_id: str | None
    """None of their ids is above it; None: not known."""

    def after(self, generation: Generation) -> "Border":
        """Return the border behind `generation`, which follows this one."""
        highest_id = None if self.highest_id is None else max(self.highest_id, generation.highest_id)
        return Border(Cursor(generation.entries[-1].ticks, generation.last), highest_id)


class Tail:
    """The recorded events from `start` to `head`, and the ones staged behind them."""

    def __init__(self, budget_bytes: int) -> None:
        self.head = START
        self.before = Border(START, "")  # right before the tail
        self.applied_border = Border(START, "")  # up to `applied`
        self.applied = 0
        self._budget_bytes = budget_bytes
        self._generations = [Generation(1)]
        self._news = asyncio.Event()
        self._shared: dict[tuple[Query, Span], Batch] = {}
        self.sealed = asyncio.Event()  # set when a generation waits to be applied

    @property
    def left(self) -> Cursor:
        """The cursor of the last event before the tail."""
        return self.before.cursor

    @property
    def start(self) -> int:
        """The first position in the tail (or the next one, while it is empty)."""
        return self._generations[0].first

    @property
    def unapplied_bytes(self) -> int:
        """About the memory of what is not applied yet."""
        return sum(generation.size_bytes for generation in self._generations if generation.last > self.applied)

    def begin(self, left: Cursor, highest_id: str | None) -> None:
        """Start with an empty tail right after `left`, the last applied event; no applied id is above `highest_id`."""
        self.head = left
        self.before = self.applied_border = Border(left, highest_id)
        self.applied = left.position
        self._generations = [Generation(left.position + 1)]

    # ── growing ──

    def stage(self, ids: Sequence[str], labels: Sequence[str]) -> None:
        """Take in events that are about to be recorded; conditions and ids see them from now on, readers do not."""
        self._generations[-1].stage(ids, labels)

    def unstage(self, ids: Sequence[str]) -> None:
        """Forget the staged events, whose ids these are: they will not be recorded."""
        self._generations[-1].unstage(ids)

    def record(self, entry: Entry) -> None:
        """Show the staged events, which are now recorded as `entry`, to everyone."""
        newest = self._generations[-1]
        newest.record(entry)
        self.head = Cursor(entry.ticks, entry.last)
        self._shared.clear()
        if entry.last - newest.first >= GENERATION_EVENTS or newest.size_bytes >= GENERATION_BYTES:
            self._generations.append(Generation(entry.last + 1))
            self.sealed.set()
        self.wake()

    def load(self, entry: Entry) -> None:
        """Take in an entry that the log holds already."""
        self.stage(entry.ids, entry.labels)
        self.record(entry)

    def wake(self) -> None:
        """Wake everyone who waits in `changed`."""
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self) -> None:
        """Wait until something is recorded, or `wake` is called. Look at the tail first: news are not kept."""
        await self._news.wait()

    # ── shrinking ──

    def to_apply(self, *, whole: bool) -> list[Entry]:
        """Return the oldest entries that are not applied, those of one generation; if `whole`, of a complete one."""
        for generation in self._generations[:-1] if whole else self._generations:
            if generation.last > self.applied:
                return generation.entries_after(self.applied)
        self.sealed.clear()
        return []

    def mark_applied(self, position: int) -> None:
        """Move the watermark to `position`, the end of an entry, and drop what the budget has no room for."""
        highest_id = self.applied_border.highest_id
        for generation in self._generations:
            if self.applied < generation.last and generation.first <= position and highest_id is not None:
                highest_id = max(highest_id, generation.highest_id)
        self.applied_border = Border(Cursor(self.ticks_at(position), position), highest_id)
        self.applied = position
        total = sum(generation.size_bytes for generation in self._generations)
        while total > self._budget_bytes and len(self._generations) > 1 and self._generations[0].last <= self.applied:
            dropped = self._generations.pop(0)
            self.before = self.before.after(dropped)
            total -= dropped.size_bytes

    # ── asking ──

    def known(self, ids: Sequence[str], lowest: str) -> dict[str, int]:
        """Return the positions of those ids, the lowest being `lowest`, that are in the tail, staged ones included."""
        found: dict[str, int] = {}
        for generation in self._generations:
            found.update(generation.known(ids, lowest))
        return found

    def any_match(self, query: Query, after: int) -> int | None:
        """Return a position above `after` in the tail whose event matches, staged ones included."""
        for generation in reversed(self._generations):
            position = generation.any_match(query, after)
            if position is not None:
                return position
            if generation.first <= after + 1:
                break
        return None

    def stored(self, position: int) -> Stored:
        """Return a recorded event of the tail."""
        return self._holding(position).entry_at(position).stored(position)

    def ticks_at(self, position: int) -> int:
        """Return the ticks of a recorded event of the tail."""
        return self._holding(position).entry_at(position).ticks

    def position_before(self, ticks: int) -> int:
        """Return the last position of lower ticks; `ticks` must be above those of `left`."""
        for generation in reversed(self._generations):
            at = bisect_left(generation.entries, ticks, key=lambda entry: entry.ticks)
            if at:
                return generation.entries[at - 1].last
        return self.left.position

    def _holding(self, position: int) -> Generation:
        return next(generation for generation in reversed(self._generations) if generation.first <= position)

    def batch(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        """Return matching events of `span`, which lies in the tail, as `Storage.history` does."""
        return (self._backwards if span.backwards else self._forwards)(query, span, max_events, max_bytes)

    def shared_batch(self, query: Query, span: Span, max_bytes: int) -> Batch:
        """Return what `batch` would, the same bytes to all subscribers who ask the same before the next entry."""
        key = (query, span)
        shared = self._shared.get(key)
        if shared is None:
            if len(self._shared) >= _SHARED_BATCHES:
                self._shared.clear()
            shared = self._shared[key] = self.batch(query, span, sys.maxsize, max_bytes)
        return shared

    def _forwards(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        pieces: list[Batch] = []
        reached = span.after
        while reached < span.until and max_events > 0 and max_bytes > 0:
            piece = self._holding(reached + 1).batch(query, reached, span.until, max_events, max_bytes)
            pieces.append(piece)
            reached, max_events, max_bytes = piece.reached, max_events - piece.count, max_bytes - len(piece.frames)
        return Batch(b"".join([piece.frames for piece in pieces]), sum(piece.count for piece in pieces), reached)

    def _backwards(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        frames: list[bytes] = []
        size = 0
        for generation in reversed(self._generations):
            if generation.first <= span.until:
                for position in reversed(generation.positions(query, span.after, span.until)):
                    frames.append(generation.frame(position))
                    size += len(frames[-1])
                    if len(frames) >= max_events or size >= max_bytes:
                        return Batch(b"".join(frames), len(frames), position)
        return Batch(b"".join(frames), len(frames), span.after + 1)

    def positions(self, query: Query, span: Span) -> list[int]:
        """Return the positions of `span`, which lies in the tail, whose events match, ascending."""
        return [
            position
            for generation in self._generations
            if generation.first <= span.until
            for position in generation.positions(query, span.after, span.until)
        ]

    def unapplied_tags(self) -> set[str]:
        """Return all tags of recorded events that are not applied."""
        return {tag for generation in self._generations if generation.last > self.applied for tag in generation.tags()}
