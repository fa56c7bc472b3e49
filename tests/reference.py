"""The oracle: what the store means, as naively as it can be said. A list of events and linear scans, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

TICKS_PER_MILLISECOND = 10_000
UNIX_EPOCH_TICKS = 621_355_968_000_000_000
MINUTE_TICKS = 60_000 * TICKS_PER_MILLISECOND

Item = tuple[frozenset[str], frozenset[str]]
"""Event types and tags."""
Query = tuple[Item, ...]


@dataclass(frozen=True)
class Fact:
    """An event as a client states it; comparing two compares what retries are compared by."""

    event_id: str
    event_type: str
    tags: frozenset[str] = frozenset()
    data: bytes = b""
    content_type: str = ""
    metadata: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Recorded:
    """A fact and what the store gave it."""

    fact: Fact
    ticks: int
    position: int
    append: int

    @property
    def cursor(self) -> str:
        return f"{self.ticks:019d}{self.position:011d}"


@dataclass(frozen=True)
class Condition:
    """Fails if an event that matches `query` is recorded after `after`."""

    query: Query = ()
    after: str = ""


@dataclass(frozen=True)
class Done:
    """The append is recorded."""

    cursors: list[str]
    already: bool


@dataclass(frozen=True)
class Refused:
    """The append is refused; for a conflict, the condition's index and the positions that may be reported."""

    reason: str
    index: int = -1
    positions: frozenset[int] = frozenset()


class OutOfRangeError(Exception):
    """The cursor is not one of this store."""


@dataclass
class Reference:
    """The store."""

    events: list[Recorded] = field(default_factory=list)
    appends: int = 0

    @property
    def head(self) -> str:
        return self.events[-1].cursor if self.events else ""

    def append(self, facts: Sequence[Fact], conditions: Sequence[Condition], now: int) -> Done | Refused:
        """Judge in the order of the design: duplicates, the 60 s rule, cursors, conditions."""
        ids = [fact.event_id for fact in facts]
        recorded = [event for event in self.events if event.fact.event_id in ids]
        if recorded:
            of_same_append = [event for event in self.events if event.append == recorded[0].append]
            if [event.fact for event in of_same_append] == list(facts):
                return Done([event.cursor for event in of_same_append], already=True)
            return Refused("EVENT_ID_EXISTS", positions=frozenset(event.position for event in recorded))
        ticks = max(now, self.events[-1].ticks) if self.events else now
        if any(time_of(event_id) > ticks + MINUTE_TICKS for event_id in ids):
            return Refused("EVENT_ID_IN_FUTURE")
        try:
            afters = [self._condition_position(condition.after, ticks) for condition in conditions]
        except OutOfRangeError:
            return Refused("CURSOR_OUT_OF_RANGE")
        for index, (condition, after) in enumerate(zip(conditions, afters, strict=True)):
            hits = [event.position for event in self.events[after:] if matches(condition.query, event.fact)]
            if hits:
                return Refused("CONDITION_FAILED", index, frozenset(hits))
        self.appends += 1
        new = [Recorded(fact, ticks, len(self.events) + 1 + at, self.appends) for at, fact in enumerate(facts)]
        self.events += new
        return Done([event.cursor for event in new], already=False)

    def _condition_position(self, cursor: str, ticks: int) -> int:
        if cursor and int(cursor[19:]) == 0 and int(cursor[:19]) > ticks:
            raise OutOfRangeError
        return self.position(cursor)

    def position(self, cursor: str) -> int:
        """Return the position that a cursor stands right after."""
        if not cursor:
            return 0
        ticks, position = int(cursor[:19]), int(cursor[19:])
        if position == 0:
            return sum(event.ticks < ticks for event in self.events)
        if position > len(self.events) or self.events[position - 1].ticks != ticks:
            raise OutOfRangeError
        return position

    def read(
        self, query: Query = (), after: str = "", until: str = "", *, backwards: bool = False, limit: int = 0
    ) -> tuple[list[Recorded], str]:
        """Return the matching events, and up to where the answer is complete."""
        low = self.position(after)
        high = self.position(until) if until else len(self.events)
        head = self.events[high - 1].cursor if high else ""
        found = [event for event in self.events[low:high] if matches(query, event.fact)]
        if backwards:
            found.reverse()
        if limit and len(found) >= limit:
            found = found[:limit]
            head = head if backwards else found[-1].cursor
        return found, head

    def get_event(self, event_id: str) -> Recorded | None:
        return next((event for event in self.events if event.fact.event_id == event_id), None)

    def tag(self, tag: str) -> tuple[str, str, int] | None:
        """Return the first and the last event of a tag, and how many there are."""
        found = [event.cursor for event in self.events if tag in event.fact.tags]
        return (found[0], found[-1], len(found)) if found else None

    def tags(self, group: str | None = None) -> list[str]:
        """Return all tags, by group and then by tag."""
        keys = {(tag.partition(":")[0] if ":" in tag else "", tag) for event in self.events for tag in event.fact.tags}
        return [tag for found, tag in sorted(keys) if group is None or found == group]


def matches(query: Query, fact: Fact) -> bool:
    """Tell whether one of the query's items matches; without items, everything does."""
    return not query or any((not types or fact.event_type in types) and tags <= fact.tags for types, tags in query)


def time_of(event_id: str) -> int:
    """Return the time in a UUIDv7 in ticks; 0 for any other id."""
    uuid = UUID(event_id)
    return (uuid.int >> 80) * TICKS_PER_MILLISECOND + UNIX_EPOCH_TICKS if uuid.version == 7 else 0
