"""The values the server works with, and the limits they obey.

Events travel in columns (parallel lists), never as an object each: a batch costs a few list operations instead of a
constructor call an event.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

TICKS_PER_SECOND = 10_000_000
UNIX_EPOCH_TICKS = 621_355_968_000_000_000
"""Ticks (100 ns since 0001-01-01 UTC) of 1970-01-01."""

MAX_TICKS = 10**19 - 1
MAX_POSITION = 10**11 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between events: right after the event at `position`, or, with position 0, right before `ticks`."""

    ticks: int
    position: int

    def __str__(self) -> str:
        return f"{self.ticks:019d}{self.position:011d}" if self.ticks or self.position else ""


START = Cursor(0, 0)
"""Before the first event; written as the empty string."""


@dataclass(frozen=True, slots=True)
class QueryItem:
    """Matches an event of one of `event_types` (if any are given) that has all of `tags`."""

    event_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """Matches what one of its items matches; without items, every event."""

    items: tuple[QueryItem, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """Fails if an event that matches `query` is recorded strictly after `after`."""

    query: Query
    after: Cursor = START


@dataclass(slots=True)
class Append:
    """Events to record together, in columns, and the conditions for it."""

    ids: list[str]
    """Lower-case UUIDs with hyphens."""
    labels: list[str]
    """An event's type, then its tags, separated by tabs (which neither may contain)."""
    encoded: list[bytes]
    """An event's `kudurru.v1.Event`, encoded, with its id."""
    conditions: tuple[Condition, ...]
    size_bytes: int
    lowest_id: str
    newest_id_ticks: int
    """The latest time in a UUIDv7 among `ids`; 0 if there is none."""
    oldest_id_ticks: int
    """The earliest time in a UUIDv7 among `ids`; 0 if any of them is not one."""
    fresh_ids: bool = False
    """True if the server made all ids just now, so that none of them can be recorded."""


@dataclass(slots=True)
class Entry:
    """One group commit: events at adjacent positions, recorded together at one tick, in columns."""

    first: int
    ticks: int
    ids: list[str]
    labels: list[str]
    frames: list[bytes]
    """An event as it is sent: an encoded `RecordedEvent` with the tag and length of field 1."""
    appends: list[tuple[int, int]]
    """First position and count of each append with events in here, whole even where a piece of an entry is meant."""

    @property
    def last(self) -> int:
        """The position of the last event."""
        return self.first + len(self.ids) - 1

    def piece(self, start: int, stop: int) -> "Entry":
        """Return the events from place `start` up to `stop` as an entry of their own."""
        first, end = self.first + start, self.first + stop
        return Entry(
            first=first,
            ticks=self.ticks,
            ids=self.ids[start:stop],
            labels=self.labels[start:stop],
            frames=self.frames[start:stop],
            appends=self.appends[self._append_at(first) : self._append_at(end - 1) + 1],
        )

    def append_of(self, position: int) -> tuple[int, int]:
        """Return first position and count of the append that recorded `position`."""
        return self.appends[self._append_at(position)]

    def _append_at(self, position: int) -> int:
        return bisect_right(self.appends, position, key=itemgetter(0)) - 1

    def stored(self, position: int) -> "Stored":
        """Return the event at `position` as a look-up finds it."""
        place = position - self.first
        append_first, append_count = self.append_of(position)
        return Stored(
            event_id=self.ids[place],
            position=position,
            ticks=self.ticks,
            append_first=append_first,
            append_count=append_count,
            label=self.labels[place],
            frame=self.frames[place],
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """A recorded event that a look-up found."""

    event_id: str
    position: int
    ticks: int
    append_first: int
    append_count: int
    label: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """The append is recorded, at adjacent positions."""

    first: int
    count: int
    ticks: int
    already_committed: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """A run of matching events ready to send."""

    frames: bytes
    count: int
    reached: int
    """The last position considered, whether or not it matched (reading backwards: the lowest)."""


@dataclass(frozen=True, slots=True)
class TagSummary:
    """The first and last position of a tag, and how many events have it (None: not counted)."""

    first: int
    last: int
    count: int | None


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as it was written last."""

    name: str
    """Of the node, and of no other that ever was."""
    address: str
    """Where the other nodes reach it."""
    beat: int = 0
    """Counts the writes: one that changes is a sign of life."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for. Sizes count bytes of UTF-8."""

    event_type_bytes: int = 256
    tag_bytes: int = 256
    tags_per_event: int = 64
    metadata_pairs: int = 64
    metadata_bytes: int = 16 * 1024
    content_type_bytes: int = 256
    data_bytes: int = 1024 * 1024
    events_per_append: int = 4096
    append_bytes: int = 4 * 1024 * 1024
    conditions_per_append: int = 16
    query_items: int = 64
    appends_per_message: int = 1024
    message_bytes: int = 4 * 1024 * 1024


def parts(label: str) -> tuple[str, Sequence[str]]:
    """Split a label into the event's type and its tags."""
    event_type, *tags = label.split("\t")
    return event_type, tags


def matches(query: Query, label: str) -> bool:
    """Tell whether an event of this label matches."""
    if not query.items:
        return True
    event_type, *tags = label.split("\t")
    return any(
        (not item.event_types or event_type in item.event_types) and all(tag in tags for tag in item.tags)
        for item in query.items
    )


def group_of(tag: str) -> str:
    """Return the part before the first colon, or "" without one."""
    group, colon, _ = tag.partition(":")
    return group if colon else ""
