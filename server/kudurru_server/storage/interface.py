"""The contract between the engine and a store, word by word.

A store keeps one **log**, which decides, and **derived rows**, which only make finding quicker.

Log. Entries follow each other without a hole: the first entry begins at position 1, each next one right after the
last position of the one before, with ticks that are not lower. An entry is there whole or not at all. Once `put` has
returned True, or `entries` or `history` has shown an entry, it stays for ever, byte for byte, through any crash.

Derived rows answer for the events up to the **applied** watermark and for no others. They are written by `apply`, in
order, and may be written again. The watermark only grows, and never past the head.

Every position that a caller passes as `until` is at most the applied watermark the store has reported; every answer
is exact for the events up to it. Calls may run concurrently, except `put` and `apply`, which their one caller each
makes one at a time. A cancelled call may still take effect. Driver errors never leave a store: they become

* `StorageFullError`: no space; the call wrote nothing,
* `StorageUnavailableError`: it failed or did not answer; a write may or may not have taken effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kudurru_server.model import Batch, Cursor, Entry, Leader, Query, Stored, TagSummary


@dataclass(frozen=True, slots=True)
class Check:
    """Asks whether an event that matches `query` has a position above `after`."""

    query: Query
    after: int


@dataclass(frozen=True, slots=True)
class Span:
    """The positions in (after, until], in order or, backwards, in its reverse."""

    after: int
    until: int
    backwards: bool = False

    def beyond(self, reached: int) -> "Span":
        """Return what remains of the span once everything to `reached` inclusive has been considered."""
        if self.backwards:
            return Span(self.after, reached - 1, backwards=True)
        return Span(reached, self.until)


class Storage(Protocol):
    """A store of events."""

    async def head(self) -> Cursor:
        """Return the cursor of the last event of the log (`START` if it is empty)."""
        ...

    async def put(self, entry: Entry) -> bool:
        """Make `entry` the next entry of the log, durably: the commit point.

        Return True if it is. Return False if its place was taken already, by an entry that `entries` will show; nothing
        was written then.

        Raises:
            StorageFullError: nothing was written.
            StorageUnavailableError: unknown; the next `put` or `entries` tells.
        """
        ...

    async def keep(self, encoded: Sequence[bytes]) -> None:
        """Keep what is too large for the log beside it, before an entry is made of these encoded events.

        It spares `put` the work, and a failure the other appends of the entry.

        Raises:
            StorageUnavailableError: it could not be kept.
        """
        ...

    async def entries(self, after: int, *, latest: bool = True) -> Sequence[Entry]:
        """Return the next events of the log above position `after`, in order, a bounded amount; none at the head.

        If `latest`, everything recorded before the call is seen; else the newest entries may still be missing. Where
        several nodes share the store, and `after` is the end of an entry, entries come whole; else they may come in
        pieces, and what is asked of the pieces is what is asked of the entries.
        """
        ...

    async def applied(self) -> int:
        """Return the watermark: the last position whose derived rows, and those before, are all durable."""
        ...

    async def highest_id(self) -> str | None:
        """Return an id that no applied event's id is above ("" if none is applied), or None if that is not known."""
        ...

    async def apply(self, entries: Sequence[Entry]) -> None:
        """Write the derived rows of `entries`, and move the watermark to their last.

        They begin right after what the caller knows to be applied. Where several nodes share the store, it returns as
        soon as the watermark is there, whoever has moved it.
        """
        ...

    async def history(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        """Return some of the events of `span` that match, in its order.

        The batch ends with event `max_events`, which it has then reached and no more; or when it has reached
        `max_bytes`, with that event or with some beside it that are together no more than 64 KiB; or earlier. `reached`
        says how far it looked: every matching event from the beginning of the span to `reached` inclusive is in it. It
        always makes progress, perhaps without an event.
        """
        ...

    async def first_matches(self, checks: Sequence[Check], until: int) -> list[Stored | None]:
        """Return for each check a matching event above its `after` and up to `until`, or None if there is none."""
        ...

    async def find(self, event_ids: Sequence[str], until: int) -> dict[str, Stored]:
        """Return the events up to `until` with these ids; absent ids are not recorded there."""
        ...

    async def ticks_at(self, position: int) -> int:
        """Return the ticks of the event at `position`, which is in the log."""
        ...

    async def position_before(self, ticks: int, until: int) -> int:
        """Return the last position up to `until` whose ticks are lower than `ticks`; 0 if none is."""
        ...

    async def tag(self, tag: str, until: int, *, with_count: bool) -> TagSummary | None:
        """Return what is known of a tag up to `until`, or None if no event has it."""
        ...

    async def tags(self, group: str | None, after: str | None, limit: int) -> list[str]:
        """Return up to `limit` tags, ordered by group and then by tag, from the one after `after` on.

        With `group`, only its tags ("" means those without a group). Tags of events past the watermark may be missing.
        """
        ...


class LeaderRecord(Protocol):
    """Where the nodes of a store agree on one that takes the appends of all. It saves lost puts, and decides nothing.

    Raises, everywhere:
        StorageUnavailableError: it does not answer.
    """

    async def look(self) -> Leader | None:
        """Return who leads; None: nobody ever has."""
        ...

    async def write(self, leader: Leader, seen: Leader | None) -> Leader:
        """Write who leads, with the next beat, if what is written is still what was `seen`; return what is written."""
        ...
