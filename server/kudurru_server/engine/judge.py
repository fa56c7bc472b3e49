"""The verdict on one append: is it recorded already, may it be recorded, or why not.

It is given against the recorded events and the batch-mates staged before it, in this order: duplicates, the 60 s
rule, cursors, conditions. It looks at memory only; what is older comes as answers of `lookups`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kudurru_server.engine.cursors import Cursors
from kudurru_server.engine.lookups import ID_LEAD_TICKS, Answers
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import (
    ConditionFailedError,
    CursorOutOfRangeError,
    EventIdExistsError,
    InvalidRequestError,
    KudurruError,
)
from kudurru_server.frame import event_of
from kudurru_server.model import Append, Appended, Condition, Cursor, Entry, Stored, parts

SameContent = Callable[[bytes, bytes], bool]
"""Tells whether two encoded events mean the same: tags and metadata in any order."""

Outcome = Appended | KudurruError
"""What became of an append. An error is a value here: it fails nothing else."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome, or None: the append is staged and shares the fate of the entry."""

    outcome: Outcome | None
    depends_on_entry: bool
    """True if a batch-mate decided it, so that it is only true once the entry is recorded."""


class Judge:
    """Judges appends one after the other and stages those that may be recorded."""

    def __init__(self, tail: Tail, cursors: Cursors, same_content: SameContent) -> None:
        self._tail = tail
        self._cursors = cursors
        self._same_content = same_content

    def judge(self, append: Append, answers: Answers, entry: Entry) -> Verdict:
        """Give the verdict on `append`, and if it may be recorded add it to `entry` and stage it."""
        known = self._tail.known(append.ids, append.lowest_id)
        if known or answers.found:
            positions = {**{key: stored.position for key, stored in answers.found.items()}, **known}
            return self._repeated(append, positions, answers, entry)
        if append.newest_id_ticks > entry.ticks + ID_LEAD_TICKS:
            return Verdict(_in_future(append), depends_on_entry=False)
        if append.conditions:
            try:
                verdict = self._conflict(append, answers, entry)
            except CursorOutOfRangeError as error:
                return Verdict(error, depends_on_entry=False)
            if verdict is not None:
                return verdict
        entry.appends.append((entry.last + 1, len(append.ids)))
        entry.ids += append.ids
        entry.labels += append.labels
        entry.frames += append.encoded  # made into frames when the entry is complete
        self._tail.stage(append.ids, append.labels)
        return Verdict(None, depends_on_entry=True)

    def _conflict(self, append: Append, answers: Answers, entry: Entry) -> Verdict | None:
        if answers.refusal is not None:
            return Verdict(answers.refusal, depends_on_entry=False)
        tail = self._tail
        afters = [self._after(condition, index, entry) for index, condition in enumerate(append.conditions)]
        for index, (condition, after) in enumerate(zip(append.conditions, afters, strict=True)):
            position = tail.any_match(condition.query, after)
            if position is not None:
                event_id, label = self._staged_or_recorded(position, entry)
                ticks = entry.ticks if position >= entry.first else tail.ticks_at(position)
                return Verdict(
                    _condition_failed(index, Cursor(ticks, position), event_id, label),
                    depends_on_entry=position >= entry.first,
                )
            older = answers.conflicts[index] if answers.conflicts else None
            if older is not None:
                cursor = Cursor(older.ticks, older.position)
                return Verdict(_condition_failed(index, cursor, older.event_id, older.label), depends_on_entry=False)
        return None

    def _after(self, condition: Condition, index: int, entry: Entry) -> int:
        """Return the position that a condition begins after, or that of the tail if it is older."""
        field = f"conditions[{index}].after"
        if condition.after.position == 0 and condition.after.ticks > entry.ticks:
            raise CursorOutOfRangeError(field, condition.after, self._tail.head)
        after = self._cursors.in_tail(condition.after, field)
        return self._tail.left.position if after is None else after

    def _staged_or_recorded(self, position: int, entry: Entry) -> tuple[str, str]:
        if position >= entry.first:
            return entry.ids[position - entry.first], entry.labels[position - entry.first]
        stored = self._tail.stored(position)
        return stored.event_id, stored.label

    def _repeated(self, append: Append, positions: dict[str, int], answers: Answers, entry: Entry) -> Verdict:
        position = min(positions.values())
        staged = max(positions.values()) >= entry.first
        recorded = [
            self._event(positions[event_id], answers.found.get(event_id), entry)
            for event_id in append.ids
            if event_id in positions
        ]
        first, count, ticks = recorded[0][1:]
        whole = (
            len(recorded) == len(append.ids) == count
            and [positions[event_id] for event_id in append.ids] == list(range(first, first + count))
            and all(event[1] == first for event in recorded)
            and all(
                event[0] == encoded or self._same_content(event[0], encoded)
                for event, encoded in zip(recorded, append.encoded, strict=True)
            )
        )
        if whole:
            return Verdict(Appended(first, count, ticks, already_committed=True), depends_on_entry=staged)
        event_id = min(positions, key=positions.__getitem__)
        return Verdict(
            EventIdExistsError(
                "EVENT_ID_EXISTS",
                f"event id {event_id} is recorded already at position {position}, by a different append",
                event_id=event_id,
                position=position,
            ),
            depends_on_entry=staged,
        )

    def _event(self, position: int, stored: Stored | None, entry: Entry) -> tuple[bytes, int, int, int]:
        """Return an event's bytes, its append's first position and count, and its ticks."""
        if position >= entry.first:
            first, count = entry.append_of(position)
            return entry.frames[position - entry.first], first, count, entry.ticks
        stored = self._tail.stored(position) if position >= self._tail.start else stored
        if stored is None:
            raise AssertionError(f"nothing is known of position {position}")
        return event_of(stored.frame), stored.append_first, stored.append_count, stored.ticks


def _in_future(append: Append) -> InvalidRequestError:
    index = max((place for place, event_id in enumerate(append.ids) if event_id[14] == "7"), key=append.ids.__getitem__)
    return InvalidRequestError(
        "EVENT_ID_IN_FUTURE",
        f"event {index}: its id is a UUIDv7 more than 60 s ahead of the store's clock",
        event_index=index,
    )


def _condition_failed(index: int, cursor: Cursor, event_id: str, label: str) -> ConditionFailedError:
    event_type = parts(label)[0]
    return ConditionFailedError(
        "CONDITION_FAILED",
        f"condition {index} fails: an event of type {event_type} at position {cursor.position} matches",
        condition_index=index,
        sortable_unique_id=cursor,
        position=cursor.position,
        event_id=event_id,
        event_type=event_type,
    )
