"""The verdict on a history: the invariants of section 7 of the design, each said as naively as it can be."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from kudurru_server.errors import ConditionFailedError, EventIdExistsError, InvalidRequestError, KudurruError
from kudurru_server.model import Appended
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Table

from tests.builders import events_of, fact_of
from tests.reference import MINUTE_TICKS, Condition, Fact, Recorded, Reference, matches, time_of
from tests.simulation.fake_tables import FakeTables
from tests.simulation.history import Attempt, Found, History, ReadDone, Stream, Summary


def check(history: History, frames: bytes, tables: FakeTables) -> tuple[dict[bytes, Recorded], list[str]]:
    """Return what is recorded in the end, by frames, and in what the history contradicts it."""
    checker = Checker(frames, tables)
    problems = [*history.failures, *checker.store(), *checker.groups(history.attempts)]
    for attempt in history.attempts:
        problems += [f"{_short(attempt)}: {problem}" for problem in checker.attempt(attempt)]
    problems += checker.order(history.attempts)
    for read in history.reads:
        problems += [f"{read}: {problem}" for problem in checker.read(read)]
    for stream in history.streams:
        problems += [f"stream {stream.query} after {stream.after}: {problem}" for problem in checker.stream(stream)]
    for found in history.found:
        problems += checker.found(found)
    for summary in history.summaries:
        problems += checker.summary(summary)
    return {checker.frames[one.position]: one for one in checker.events}, problems


class Checker:
    """Knows what is recorded, and judges by it."""

    def __init__(self, frames: bytes, tables: FakeTables) -> None:
        self.events: list[Recorded] = []
        self._tables = tables
        for message in events_of(frames):
            ticks = int(message.sortable_unique_id[:19])
            self.events.append(Recorded(fact_of(message.event), ticks, message.position, 0))
        self.frames = dict(zip((one.position for one in self.events), split(frames), strict=True))
        self._reference = Reference(self.events)
        self._by_id = {one.fact.event_id: one for one in self.events}

    # ── the store ──

    def store(self) -> Iterator[str]:
        """Check the order, the ids and the 60 s rule."""
        if [one.position for one in self.events] != list(range(1, len(self.events) + 1)):
            yield "positions have holes"
        cursors = [one.cursor for one in self.events]
        if any(one >= other for one, other in pairwise(cursors)):
            yield "ids do not rise"
        if len(self._by_id) < len(self.events):
            yield "an event id is recorded twice"
        for one in self.events:
            if time_of(one.fact.event_id) > one.ticks + MINUTE_TICKS:
                yield f"the id {one.fact.event_id} is from the future"

    def groups(self, attempts: Sequence[Attempt]) -> Iterator[str]:
        """Check that every recorded append is whole what somebody attempted, with conditions that hold."""
        position = 1
        while position <= len(self.events):
            row = self._tables.item(Table.EVENTS, keys.event_key(self.events[position - 1].fact.event_id)) or {}
            first, count = row.get("append_first"), row.get("append_count")
            if first != position or not isinstance(count, int) or position + count - 1 > len(self.events):
                yield f"position {position} begins no append: {first!r}, {count!r}"
                return
            facts = tuple(one.fact for one in self.events[position - 1 : position - 1 + count])
            same = [attempt for attempt in attempts if attempt.facts == facts]
            writers = [a for a in same if a.outcome is None or isinstance(a.outcome, Appended)]
            made = [a for a in same if isinstance(a.outcome, Appended) and not a.outcome.already_committed]
            if len(made) > 1:
                yield f"the append at {position} was acknowledged as new {len(made)} times"
            if not writers:
                yield f"the append at {position} was refused, or made up: {facts}"
            elif not any(self._hold(attempt.conditions, position) for attempt in made or writers):
                yield f"the append at {position} is recorded although its conditions fail: {made or writers}"
            position += count

    def _hold(self, conditions: Sequence[Condition], first: int) -> bool:
        ticks = self.events[first - 1].ticks
        return all(
            not any(matches(condition.query, one.fact) for one in self.events[self._after(condition.after) : first - 1])
            and not (condition.after[19:] == "0" * 11 and int(condition.after[:19]) > ticks)
            for condition in conditions
        )

    def _after(self, cursor: str) -> int:
        return self._reference.position(cursor)

    # ── appends ──

    def attempt(self, attempt: Attempt) -> Iterator[str]:
        """Check one outcome."""
        outcome = attempt.outcome
        if isinstance(outcome, Appended):
            there = self.events[outcome.first - 1 : outcome.first - 1 + outcome.count]
            if tuple(one.fact for one in there) != attempt.facts or {one.ticks for one in there} != {outcome.ticks}:
                yield f"acknowledged {outcome}, but there stands {there}"
        elif isinstance(outcome, ConditionFailedError):
            yield from self._conflict(attempt, outcome)
        elif isinstance(outcome, EventIdExistsError):
            yield from self._exists(attempt, outcome)
        elif isinstance(outcome, InvalidRequestError):
            if not any(time_of(event_id) for event_id in attempt.ids):
                yield f"{outcome.message}"
        elif isinstance(outcome, KudurruError) and outcome.reason != "OVERLOADED":
            times = [c.after for c in attempt.conditions if c.after[19:] == "0" * 11]
            if outcome.reason != "CURSOR_OUT_OF_RANGE" or not times:
                yield f"{outcome.reason}: {outcome.message}"

    def _conflict(self, attempt: Attempt, outcome: ConditionFailedError) -> Iterator[str]:
        index, position = int(outcome.metadata["condition_index"]), int(outcome.metadata["position"])
        condition = attempt.conditions[index]
        if position > len(self.events):
            yield f"conflict with position {position}, which is not there"
            return
        one = self.events[position - 1]
        told = (outcome.metadata["event_id"], outcome.metadata["sortable_unique_id"], outcome.metadata["event_type"])
        if told != (one.fact.event_id, one.cursor, one.fact.event_type):
            yield f"conflict with {told}, but at {position} stands {one}"
        elif position <= self._after(condition.after) or not matches(condition.query, one.fact):
            yield f"no conflict: {one} does not match {condition}"
        elif self._recorded(attempt.facts) and self._by_id[attempt.ids[0]].position < position:
            yield f"conflict at {position}, after the append itself was recorded"

    def _exists(self, attempt: Attempt, outcome: EventIdExistsError) -> Iterator[str]:
        event_id, position = outcome.metadata["event_id"], int(outcome.metadata["position"])
        one = self._by_id.get(event_id)
        if one is None or one.position != position or event_id not in attempt.ids:
            yield f"the id {event_id} is not recorded at {position}"
        elif self._recorded(attempt.facts):
            yield "a repetition is told that its ids exist"

    def _recorded(self, facts: tuple[Fact, ...]) -> bool:
        """Tell whether these facts are one recorded append."""
        one = self._by_id.get(facts[0].event_id)
        if one is None:
            return False
        row = self._tables.item(Table.EVENTS, keys.event_key(one.fact.event_id)) or {}
        first, count = row.get("append_first"), row.get("append_count")
        there = self.events[one.position - 1 : one.position - 1 + len(facts)]
        return (first, count) == (one.position, len(facts)) and tuple(each.fact for each in there) == facts

    def order(self, attempts: Sequence[Attempt]) -> Iterator[str]:
        """Check that what began after an acknowledgement stands behind it."""
        made = [(a, a.outcome) for a in attempts if isinstance(a.outcome, Appended)]
        for later, outcome in made:
            if not outcome.already_committed:
                for earlier, other in made:
                    if earlier.ended < later.began and other.first > outcome.first:
                        yield f"{_short(later)} began after {_short(earlier)} was acknowledged, and stands before it"

    # ── reads ──

    def read(self, read: ReadDone) -> Iterator[str]:
        """Check one read: exactly what matches up to its head."""
        position = int(read.head[19:] or 0)
        if self._reference.position(read.head) != position:
            yield "its head is none"
        if position < read.floor and not read.until and not (read.limit and not read.backwards):
            yield f"its head is below {read.floor}, which the node had acknowledged"
        low = self._after(read.after)
        chosen = [one for one in self.events[low:position] if matches(read.query, one.fact)]
        if read.backwards:
            chosen.reverse()
        if read.limit:
            chosen = chosen[: read.limit]
        if b"".join(self.frames[one.position] for one in chosen) != read.frames:
            there = [one.position for one in events_of(read.frames)]
            yield f"it has {there}, not {[one.position for one in chosen]}"

    def stream(self, stream: Stream) -> Iterator[str]:
        """Check one subscription: the matching events from its beginning on, and no checkpoint that skips one."""
        after = self._after(stream.after)
        wanted = [one for one in self.events[after:] if matches(stream.query, one.fact)]
        joined = b"".join(stream.frames)
        count = len(events_of(joined))
        if b"".join(self.frames[one.position] for one in wanted[:count]) != joined:
            yield f"it has {[e.position for e in events_of(joined)]}, not {[one.position for one in wanted[:count]]}"
            return
        for frames, cursor, head, lag in stream.checkpoints:
            delivered = len(events_of(b"".join(stream.frames[:frames])))
            passed = int(cursor[19:] or 0)
            if sum(one.position <= passed for one in wanted) > delivered:
                yield f"the checkpoint {cursor} skips an event"
            if cursor < stream.after or (delivered and cursor < wanted[delivered - 1].cursor):
                yield f"the checkpoint {cursor} goes back"
            if passed and lag != int(head[19:] or 0) - passed:
                yield f"the lag of {cursor} to {head} is not {lag}"

    def found(self, found: Found) -> Iterator[str]:
        """Check a look-up by id."""
        one = self._by_id.get(found.event_id)
        if found.frame is None:
            if one is not None and one.position <= found.floor:
                yield f"{found.node}: event {found.event_id} was not found"
        elif one is None or self.frames[one.position] != found.frame:
            yield f"{found.node}: event {found.event_id} is another"

    def summary(self, summary: Summary) -> Iterator[str]:
        """Check what was said of a tag: true of some moment after the node's last acknowledgement."""
        cursors = [one.cursor for one in self.events if summary.tag in one.fact.tags]
        known = [one for one in self.events[: summary.floor] if summary.tag in one.fact.tags]
        tags = {tag for one in self.events for tag in one.fact.tags}
        if not {tag for one in self.events[: summary.floor] for tag in one.fact.tags} <= set(summary.listed) <= tags:
            yield f"tags are {summary.listed}"
        if summary.told is None:
            if known:
                yield f"nothing is known of {summary.tag}, which {known[0]} has"
            return
        first, last, count = summary.told
        if first != cursors[0] or last not in cursors or (known and last < known[-1].cursor):
            yield f"of {summary.tag} {summary.told} was told"
        elif count is not None and count != cursors.index(last) + 1:
            yield f"of {summary.tag} {summary.told} was told, but there are {cursors.index(last) + 1} events"


def split(frames: bytes) -> Iterator[bytes]:
    """Yield the frames of a batch."""
    start = 0
    while start < len(frames):
        length = shift = 0
        end = start + 1
        while frames[end] & 0x80:
            length |= (frames[end] & 0x7F) << shift
            shift, end = shift + 7, end + 1
        length |= frames[end] << shift
        yield frames[start : end + 1 + length]
        start = end + 1 + length


def _short(attempt: Attempt) -> str:
    ids = [event_id[-6:] for event_id in attempt.ids]
    return f"attempt at {attempt.began:.3f} on {attempt.node} of {ids} {attempt.conditions} -> {attempt.outcome!r}"
