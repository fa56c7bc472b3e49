"""Group commit: appends that wait while an entry is written form the next one.

Some tasks prepare (ask the store about old ids and conditions), one commits; each takes all that waits. A caller who
leaves fails nobody: its append is dropped if it has not joined an entry, and recorded if it has. What any task costs is
paid by those it is done for, by their number of events.

Where another node leads, the appends are handed to it. Its word is taken for what this node then finds in the log; all
else is judged here as ever, and its ids tell what may have been recorded after all.
"""

import asyncio
from collections.abc import Iterable, Sequence

from kudurru_server.cost import shared_by
from kudurru_server.engine.commit import Commit
from kudurru_server.engine.complaint import Complaint
from kudurru_server.engine.follower import Follower
from kudurru_server.engine.judge import Outcome
from kudurru_server.engine.leadership import Leadership
from kudurru_server.engine.lookups import Lookups
from kudurru_server.engine.tail import Tail
from kudurru_server.engine.waiting import Queue, Submission, Waiting
from kudurru_server.errors import (
    ConditionFailedError,
    CursorOutOfRangeError,
    EventIdExistsError,
    InvalidRequestError,
    OverloadedError,
    ShuttingDownError,
    StorageUnavailableError,
)
from kudurru_server.model import Append, Appended
from kudurru_server.storage.interface import Storage


class GroupCommit:
    """Takes appends in, writes entries, hands outcomes out."""

    def __init__(
        self,
        storage: Storage,
        tail: Tail,
        lookups: Lookups,
        follower: Follower,
        commit: Commit,
        *,
        leadership: Leadership,
        pending_bytes: int,
        unapplied_bytes: int,
        entry_bytes: int,
        keep_above_bytes: int | None,
    ) -> None:
        self._storage = storage
        self._tail = tail
        self._lookups = lookups
        self._follower = follower
        self._commit = commit
        self._leadership = leadership
        self._pending_limit_bytes = pending_bytes
        self._unapplied_limit_bytes = unapplied_bytes
        self._entry_bytes = entry_bytes
        self._keep_above_bytes = keep_above_bytes
        self._keeping_fails, self._look_up_fails = Complaint("keep_failed"), Complaint("look_up_failed")
        self._pending_bytes = 0
        self._to_prepare, self._to_hand_over, self._to_commit = Queue(), Queue(), Queue()
        self._closing = False
        self._open: set[Waiting] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending_bytes(self) -> int:
        """The size of the appends that are not decided."""
        return self._pending_bytes

    async def submit(self, appends: Sequence[Append], *, here: bool) -> list[Outcome]:
        """Record independent appends; return the outcome of each, in order, once all are decided.

        Args:
            appends: what to record.
            here: do not hand them to another node.

        Raises:
            ShuttingDownError: nothing was written.
            OverloadedError: nothing was written; too much is waiting, or too little is applied.
        """
        if self._closing:
            raise ShuttingDownError
        if not appends:
            return []
        size = sum(append.size_bytes for append in appends)
        if self._pending_bytes and self._pending_bytes + size > self._pending_limit_bytes:
            raise OverloadedError(f"{self._pending_bytes} bytes are waiting to be written")
        if self._tail.unapplied_bytes > self._unapplied_limit_bytes:
            raise OverloadedError("the index is too far behind the log")
        submission = Submission(len(appends))
        waiting = [Waiting(append, submission, index, stays=here) for index, append in enumerate(appends)]
        self._open.update(waiting)
        self._pending_bytes += size
        self._idle.clear()
        large = []
        for one in waiting:
            if self._keep_above_bytes is not None and one.append.size_bytes > self._keep_above_bytes:
                large.append(one)
            else:
                self._enqueue(one)
        if large:
            await self._keep_all(large, submission)
        await submission.done
        return [outcome for outcome in submission.outcomes if outcome is not None]

    async def _keep_all(self, large: Sequence[Waiting], submission: Submission) -> None:
        """Have the store keep large payloads before the appends join an entry, which others then need not wait for."""
        try:
            await asyncio.gather(*map(self._keep, large))
        except BaseException:  # the caller leaves; some of these have perhaps not even begun
            submission.done.cancel()
            for waiting in large:
                if not waiting.is_kept and waiting in self._open:
                    self._settle(waiting, None)
            raise

    async def _keep(self, waiting: Waiting) -> None:
        try:
            await self._storage.keep(waiting.append.encoded)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._settle(waiting, self._keeping_fails.answer(error))
        else:
            self._keeping_fails.works()
            waiting.is_kept = True
            self._enqueue(waiting)

    def _settle(self, waiting: Waiting, outcome: Outcome | None) -> None:
        """Give `waiting` its outcome, or with None drop it: only now its bytes are no longer held."""
        self._open.discard(waiting)
        self._pending_bytes -= waiting.append.size_bytes
        if outcome is not None:
            if waiting.may_be_recorded and isinstance(outcome, InvalidRequestError | CursorOutOfRangeError):
                outcome = StorageUnavailableError("another node may have recorded it, or may yet")
            waiting.submission.settle(waiting.index, outcome)
        if not self._open:
            self._idle.set()

    def _enqueue(self, waiting: Waiting) -> None:
        if self._leadership.is_elsewhere and not waiting.stays:
            self._to_hand_over.put(waiting)
        elif self._lookups.enough(waiting.append, waiting.answers):
            self._to_commit.put(waiting)
        else:
            self._to_prepare.put(waiting)

    async def drain(self) -> None:
        """Refuse new appends, and wait until the outcome of every other one is known."""
        self._closing = True
        await self._idle.wait()

    def abandon(self) -> None:
        """End every append with an unknown outcome: what should decide them is gone."""
        self._closing = True
        for waiting in self._open:
            if not waiting.submission.done.done():
                waiting.submission.done.set_exception(StorageUnavailableError("the node has failed"))

    def _without_abandoned(self, batch: Iterable[Waiting]) -> list[Waiting]:
        left = []
        for waiting in batch:
            if waiting.is_abandoned:
                self._settle(waiting, None)
            else:
                left.append(waiting)
        return left

    async def run_prepare(self) -> None:
        """Prepare appends, for ever; several such tasks may run."""
        while True:
            if batch := self._without_abandoned(await self._to_prepare.take_all()):
                await self._prepare(batch)

    async def _prepare(self, batch: Sequence[Waiting]) -> None:
        try:
            with shared_by(batch):
                answers = await self._lookups.answer([waiting.append for waiting in batch])
        except Exception as error:  # noqa: BLE001 - one bad append must not end the node
            for waiting in batch:
                self._settle(waiting, self._look_up_fails.answer(error))
            return
        self._look_up_fails.works()
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answers = answer
            self._enqueue(waiting)

    async def run_commit(self) -> None:
        """Commit appends, for ever."""
        while True:
            batch = self._without_abandoned(await self._to_commit.take_entry(self._entry_bytes))
            is_sure = not self._follower.has_others
            while batch:
                async with self._follower.turn:
                    result = await self._commit.round(batch, is_sure=is_sure)
                for waiting, outcome in result.decided:
                    self._settle(waiting, outcome)
                for waiting in result.unprepared:
                    self._enqueue(waiting)
                batch = result.again
                is_sure = True  # for it comes back after a look at the log

    async def run_hand_over(self) -> None:
        """Have the leader record appends, for ever, and commit here what it does not; several such tasks may run."""
        while True:
            if batch := self._without_abandoned(await self._to_hand_over.take_all()):
                await self._hand_over(batch)

    async def _hand_over(self, batch: Sequence[Waiting]) -> None:
        for waiting in batch:
            waiting.stays = True
            waiting.append.fresh_ids = False
        outcomes = await self._leadership.hand_over([waiting.append for waiting in batch])
        try:
            with shared_by(batch):  # who is answered may read here what the answer is about
                await self._follower.catch_up(max(map(_position, outcomes), default=0))
        except StorageUnavailableError as error:
            outcomes = [error] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.may_be_recorded = not isinstance(outcome, _WROTE_NOTHING)
            if isinstance(outcome, Appended) and self._is_in_tail(waiting.append, outcome):
                self._settle(waiting, outcome)
            else:
                self._enqueue(waiting)

    def _is_in_tail(self, append: Append, outcome: Appended) -> bool:
        """Tell whether an append is where another node says: it may have spoken of a log that is not this one."""
        positions = range(outcome.first, outcome.first + outcome.count)
        if positions[-1] > self._tail.head.position:
            return False
        known = self._tail.known(append.ids, append.lowest_id)
        return [known.get(event_id) for event_id in append.ids] == list(positions) and (
            self._tail.ticks_at(outcome.first) == outcome.ticks
        )


_WROTE_NOTHING = (
    ConditionFailedError,
    CursorOutOfRangeError,
    EventIdExistsError,
    InvalidRequestError,
    OverloadedError,
)


def _position(outcome: Outcome) -> int:
    """Return the last position that an outcome speaks of."""
    if isinstance(outcome, Appended):
        return outcome.first + outcome.count - 1
    return int(outcome.metadata.get("position", 0))
