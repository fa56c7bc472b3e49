"""What the judge must know of events older than the tail, asked before an append joins a commit.

Most appends need nothing: their ids are too young to be older than the tail, and their conditions begin inside it. The
others are answered together, one question to the store for all that wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kudurru_server.engine.cursors import Cursors
from kudurru_server.engine.tail import Border, Tail
from kudurru_server.errors import CursorOutOfRangeError, KudurruError
from kudurru_server.model import TICKS_PER_SECOND, Append, Stored
from kudurru_server.storage.interface import Check, Storage

ID_LEAD_TICKS = 60 * TICKS_PER_SECOND
"""How far the time in a UUIDv7 may be ahead of the tick its event gets."""


@dataclass(slots=True)
class Answers:
    """What the store said about one append, for the events up to `until`."""

    until: int = 0
    found: dict[str, Stored] = field(default_factory=dict)
    conflicts: list[Stored | None] = field(default_factory=list)
    refusal: KudurruError | None = None
    """A cursor of the append is not one of this store."""


NOTHING_ASKED = Answers()


class Lookups:
    """Asks the store on behalf of appends."""

    def __init__(self, tail: Tail, storage: Storage, cursors: Cursors) -> None:
        self._tail = tail
        self._storage = storage
        self._cursors = cursors

    def enough(self, append: Append, answers: Answers) -> bool:
        """Tell whether the tail and these answers together say everything about the append."""
        border, left, head = self._tail.before, self._tail.left, self._tail.head
        if answers is NOTHING_ASKED and any(one.after.position > head.position for one in append.conditions):
            return False  # another node may have recorded it: that takes a look at the log
        if answers.until >= left.position or answers.refusal is not None:
            return True
        return not _may_hold(border, append) and not any(
            condition.after.position < left.position
            and not (condition.after.position == 0 and condition.after.ticks > left.ticks)
            for condition in append.conditions
        )

    async def answer(self, appends: Sequence[Append]) -> list[Answers]:
        """Return answers that are enough now, though perhaps not any more when the tail has moved on.

        Raises:
            StorageUnavailableError: the store could not be asked.
        """
        until, border = self._tail.applied, self._tail.applied_border
        answers = [Answers(until) for _ in appends]
        checks: list[Check] = []
        for append, answer in zip(appends, answers, strict=True):
            try:
                afters = [
                    min(until, await self._cursors.position(condition.after, _field(index)))
                    for index, condition in enumerate(append.conditions)
                ]
            except CursorOutOfRangeError as error:
                answer.refusal = error
            else:
                checks += map(Check, (condition.query for condition in append.conditions), afters)
        # Whatever was recorded up to `until` counts, also what the tail still holds: it may drop it before the verdict.
        ids = [event_id for append in appends if _may_hold(border, append) for event_id in append.ids]
        found = await self._storage.find(ids, until) if ids else {}
        conflicts = iter(await self._storage.first_matches(checks, until) if checks else ())
        for append, answer in zip(appends, answers, strict=True):
            if found:
                answer.found = {event_id: found[event_id] for event_id in append.ids if event_id in found}
            if answer.refusal is None:
                answer.conflicts = [next(conflicts) for _ in append.conditions]
        return answers


def _may_hold(border: Border, append: Append) -> bool:
    """Tell whether an event up to `border` may have an id of the append.

    Two proofs that none has: the append's ids are above all of theirs; or, since an id is never recorded at a tick more
    than 60 s before its own time, its time is too late. Neither trusts a clock.
    """
    if append.fresh_ids or append.oldest_id_ticks - ID_LEAD_TICKS > border.cursor.ticks:
        return False
    return border.highest_id is None or append.lowest_id <= border.highest_id


def _field(index: int) -> str:
    return f"conditions[{index}].after"
