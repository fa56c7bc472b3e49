"""A piece of the tail: some thousand adjacent events in columns, and where each tag, type and id occurs among them.

The pieces are dropped whole. Postings hold a position, or from the second one on a list: most tags are rare.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

from kudurru_server.model import Batch, Entry, Query, QueryItem, matches

_EVENT_OVERHEAD_BYTES = 300
_TAG_OVERHEAD_BYTES = 120
"""About what an event, and each of its tags, costs beside its frame and label: measured with tracemalloc."""

Postings = dict[str, int | list[int]]


class Generation:
    """Events from `first` on. Staged ones are known to `any_match` and `known`, but not yet recorded."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.entries: list[Entry] = []
        self._firsts: list[int] = []
        self._frames: list[bytes] = []
        self._ends: list[int] = [0]  # bytes of all frames up to each event
        self._labels: list[str] = []  # staged events have labels already
        self._ids: dict[str, int] = {}
        self.highest_id = ""
        self._overhead_bytes = 0
        self._tags: Postings = {}
        self._types: dict[str, list[int]] = {}

    @property
    def last(self) -> int:
        """The last recorded position; `first - 1` if there is none."""
        return self.first + len(self._frames) - 1

    @property
    def size_bytes(self) -> int:
        """About the memory it takes."""
        return self._ends[-1] + self._overhead_bytes

    def stage(self, ids: Sequence[str], labels: Sequence[str]) -> None:
        """Take in events that are about to be recorded behind those there are."""
        first = self.first + len(self._labels)
        self._labels += labels
        self._overhead_bytes += _overhead_bytes(labels)
        self._ids.update(zip(ids, range(first, first + len(ids)), strict=True))
        self.highest_id = max(self.highest_id, *ids)
        tags, types = self._tags, self._types
        for position, label in enumerate(labels, first):
            event_type, *event_tags = label.split("\t")
            types.setdefault(event_type, []).append(position)
            for tag in event_tags:
                known = tags.get(tag)  # in line: the innermost loop of an append
                if known is None:
                    tags[tag] = position
                elif isinstance(known, int):
                    tags[tag] = [known, position]
                else:
                    known.append(position)

    def unstage(self, ids: Sequence[str]) -> None:
        """Forget the staged events, whose ids these are."""
        for event_id in ids:
            del self._ids[event_id]
        self._overhead_bytes -= _overhead_bytes(self._labels[len(self._frames) :])
        for label in reversed(self._labels[len(self._frames) :]):
            event_type, *event_tags = label.split("\t")
            found = self._types[event_type]
            found.pop()
            if not found:
                del self._types[event_type]
            for tag in event_tags:
                _unpost(self._tags, tag)
        del self._labels[len(self._frames) :]

    def record(self, entry: Entry) -> None:
        """Make the staged events, which are those of `entry`, recorded ones."""
        self.entries.append(entry)
        self._firsts.append(entry.first)
        self._frames += entry.frames
        total = self._ends[-1]
        self._ends += [total := total + len(frame) for frame in entry.frames]

    def entry_at(self, position: int) -> Entry:
        """Return the entry that recorded `position`."""
        return self.entries[bisect_right(self._firsts, position) - 1]

    def entries_after(self, position: int) -> list[Entry]:
        """Return the entries behind `position`, the end of one (or of what precedes them all)."""
        return self.entries[bisect_right(self._firsts, position) :]

    def known(self, ids: Sequence[str], lowest: str) -> dict[str, int]:
        """Return the positions of those of `ids`, the lowest of which is `lowest`, that are in here."""
        if lowest > self.highest_id or self._ids.keys().isdisjoint(ids):
            return {}
        return {event_id: self._ids[event_id] for event_id in ids if event_id in self._ids}

    def any_match(self, query: Query, after: int) -> int | None:
        """Return a position above `after` whose event matches, staged ones included."""
        last = self.first + len(self._labels) - 1
        if not query.items:
            return last if last > max(after, self.first - 1) else None
        for item in query.items:
            for position in self._candidates(item, after, last, newest_first=True):
                return position
        return None

    def positions(self, query: Query, after: int, until: int) -> Sequence[int]:
        """Return the recorded positions in (after, until] whose events match, ascending."""
        low, high = max(after + 1, self.first), min(until, self.last)
        if not query.items:
            return range(low, high + 1)
        if len(query.items) == 1:
            return list(self._candidates(query.items[0], low - 1, high))
        return sorted({position for item in query.items for position in self._candidates(item, low - 1, high)})

    def _candidates(self, item: QueryItem, after: int, until: int, *, newest_first: bool = False) -> Iterator[int]:
        query = Query((item,))
        if item.tags:
            lists = [_slice(self._tags, tag, after, until) for tag in item.tags]
            if len(item.event_types) == 1:
                lists.append(_slice(self._types, item.event_types[0], after, until))
            found, exact = min(lists, key=len), len(item.tags) == 1 and not item.event_types
        elif len(item.event_types) == 1:
            found, exact = _slice(self._types, item.event_types[0], after, until), True
        else:
            lists = [_slice(self._types, event_type, after, until) for event_type in set(item.event_types)]
            found, exact = sorted(position for positions in lists for position in positions), True
        for position in reversed(found) if newest_first else found:
            if exact or matches(query, self._labels[position - self.first]):
                yield position

    def batch(self, query: Query, after: int, until: int, max_events: int, max_bytes: int) -> Batch:
        """Return matching events in (after, until], forward, cut at the limits as `Storage.history` does."""
        positions = self.positions(query, after, until)
        reached = min(until, self.last)
        if isinstance(positions, range):
            start = positions.start - self.first
            stop = min(
                bisect_left(self._ends, self._ends[start] + max_bytes), start + max_events, start + len(positions)
            )
            return Batch(b"".join(self._frames[start:stop]), stop - start, self.first + stop - 1)
        size = 0
        for count, position in enumerate(positions, 1):
            size += len(self._frames[position - self.first])
            if count >= max_events or size >= max_bytes:
                positions, reached = positions[:count], position
                break
        return Batch(b"".join([self._frames[position - self.first] for position in positions]), len(positions), reached)

    def frame(self, position: int) -> bytes:
        """Return the frame of a recorded event."""
        return self._frames[position - self.first]

    def tags(self) -> Iterator[str]:
        """Yield the tags of all recorded events."""
        last = self.last
        for tag, found in self._tags.items():
            if (found if isinstance(found, int) else found[0]) <= last:
                yield tag


def _overhead_bytes(labels: Sequence[str]) -> int:
    text = "".join(labels)
    return _EVENT_OVERHEAD_BYTES * len(labels) + len(text) + _TAG_OVERHEAD_BYTES * text.count("\t")


def _unpost(postings: Postings, key: str) -> None:
    known = postings[key]
    if isinstance(known, int) or len(known) == 1:
        del postings[key]
    else:
        known.pop()


def _slice(postings: Mapping[str, int | list[int]], key: str, after: int, until: int) -> Sequence[int]:
    known = postings.get(key)
    if known is None:
        return ()
    if isinstance(known, int):
        return (known,) if after < known <= until else ()
    if known[0] > after and known[-1] <= until:
        return known
    return known[bisect_right(known, after) : bisect_right(known, until)]
