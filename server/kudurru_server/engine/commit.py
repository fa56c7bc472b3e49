"""One round of a commit: judge a batch, put what may be recorded as one entry, and give every append its outcome."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kudurru_server.cost import shared_by
from kudurru_server.engine.complaint import Complaint
from kudurru_server.engine.follower import Follower
from kudurru_server.engine.judge import Judge, Outcome, Verdict
from kudurru_server.engine.leadership import Leadership
from kudurru_server.engine.lookups import Lookups
from kudurru_server.engine.tail import Tail
from kudurru_server.engine.waiting import Waiting
from kudurru_server.errors import KudurruError
from kudurru_server.frame import make_frames
from kudurru_server.model import Appended, Entry
from kudurru_server.storage.interface import Storage


@dataclass(slots=True)
class Round:
    """What became of a batch."""

    decided: list[tuple[Waiting, Outcome]] = field(default_factory=list)
    again: list[Waiting] = field(default_factory=list)
    """To be judged again, because another entry came first."""
    unprepared: list[Waiting] = field(default_factory=list)
    """The tail has moved on since they were prepared."""


class Commit:
    """Commits batches, one at a time: the caller has the follower's turn."""

    def __init__(
        self,
        storage: Storage,
        tail: Tail,
        lookups: Lookups,
        judge: Judge,
        follower: Follower,
        *,
        leadership: Leadership,
        clock: Callable[[], int],
    ) -> None:
        self._storage = storage
        self._tail = tail
        self._lookups = lookups
        self._judge = judge
        self._follower = follower
        self._leadership = leadership
        self._clock = clock
        self._put_fails, self._look_fails = Complaint("put_failed"), Complaint("look_failed")

    async def round(self, batch: Sequence[Waiting], *, is_sure: bool) -> Round:
        """Make one entry of the batch.

        Unless it `is_sure` that the tail has all that was recorded before the batch was handed in, a refusal waits for
        a put or a look that shows it: another node may have recorded the very append that is refused.
        """
        head, result = self._tail.head, Round()
        entry = Entry(head.position + 1, max(self._clock(), head.ticks), [], [], [], [])
        judged: list[tuple[Waiting, Verdict]] = []
        for waiting in batch:
            if self._lookups.enough(waiting.append, waiting.answers):
                judged.append((waiting, self._judge.judge(waiting.append, waiting.answers, entry)))
            else:
                result.unprepared.append(waiting)
        failure: KudurruError | None = None
        try:
            with shared_by(waiting for waiting, verdict in judged if verdict.outcome is None or not entry.ids):
                if entry.ids:
                    came_first = await self._put(entry)
                else:
                    refuses = any(isinstance(verdict.outcome, KudurruError) for _, verdict in judged)
                    came_first = not (refuses and not is_sure and await self._look())
        except Exception as error:  # noqa: BLE001 - one bad append must not end the node
            failure = (self._put_fails if entry.ids else self._look_fails).answer(error)
        else:
            if not came_first:
                result.again = [waiting for waiting, _ in judged]
                return result
            if entry.ids:
                self._tail.record(entry)  # if this fails, the node must end: the entry is in the log
        result.decided = list(_outcomes(judged, entry, failure, is_sure=is_sure))
        return result

    async def _look(self) -> bool:
        """Tell whether there is something that the tail did not have."""
        found = await self._follower.take_in_news()
        self._look_fails.works()
        return found

    async def _put(self, entry: Entry) -> bool:
        """Put the entry, which is staged; return False if another came first, and is in the tail instead.

        Raises:
            KudurruError: it failed, or what came first could not be read; the entry is not staged any more.
        """
        try:
            entry.frames = make_frames(entry.frames, entry.first, entry.ticks)
            came_first = await self._storage.put(entry)
        except Exception:
            self._tail.unstage(entry.ids)
            raise
        self._put_fails.works()
        self._leadership.put_decided(lost=not came_first)
        if not came_first:
            self._tail.unstage(entry.ids)
            await self._follower.take_in_news()
        return came_first


def _outcomes(
    judged: Sequence[tuple[Waiting, Verdict]], entry: Entry, failure: KudurruError | None, *, is_sure: bool
) -> Iterator[tuple[Waiting, Outcome]]:
    appends = iter(entry.appends)
    for waiting, verdict in judged:
        is_unsure = not is_sure and isinstance(verdict.outcome, KudurruError)
        if failure is not None and (verdict.depends_on_entry or is_unsure):
            yield waiting, failure
        elif verdict.outcome is not None:
            yield waiting, verdict.outcome
        else:
            first, count = next(appends)
            yield waiting, Appended(first, count, entry.ticks, already_committed=False)
