"""Group commit: appends that wait while an entry is written form the next one.

Some tasks prepare (ask the store about old ids and conditions), one commits; each takes all that waits. A caller who
leaves fails nobody: its append is dropped if it has not joined an entry, and recorded if it has. What any task costs is
paid by those it is done for, by their number of events.

Where another node leads, the appends are handed to it, and committed here if it does not decide them: their ids tell
what it has recorded after all.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import structlog

from kudurru_server.cost import Bill, current_bill, shared_by
from kudurru_server.engine.complaint import Complaint
from kudurru_server.engine.follower import Follower
from kudurru_server.engine.judge import Judge, Outcome, Verdict
from kudurru_server.engine.leadership import Leadership
from kudurru_server.engine.lookups import NOTHING_ASKED, Lookups
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import (
    ConditionFailedError,
    CursorOutOfRangeError,
    EventIdExistsError,
    InvalidRequestError,
    KudurruError,
    OverloadedError,
    ShuttingDownError,
    StorageUnavailableError,
    UnavailableError,
)
from kudurru_server.frame import make_frames
from kudurru_server.model import Append, Appended, Entry
from kudurru_server.storage.interface import Storage

_logger = structlog.get_logger()

ENTRY_EVENTS = 16_384


class _Submission:
    """Appends that were handed in together, and their outcomes."""

    def __init__(self, count: int) -> None:
        self.bill = current_bill()
        self.outcomes: list[Outcome | None] = [None] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = count

    def settle(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(None)


class _Waiting:
    """One append on its way."""

    __slots__ = ("answers", "append", "index", "may_be_recorded", "stays", "submission")

    def __init__(self, append: Append, submission: _Submission, index: int, *, stays: bool) -> None:
        self.append = append
        self.answers = NOTHING_ASKED
        self.submission = submission
        self.index = index
        self.stays = stays
        """Is not handed to another node (again)."""
        self.may_be_recorded = False
        """Was handed to another node, and nobody knows what became of it."""

    @property
    def abandoned(self) -> bool:
        return self.submission.done.cancelled()

    @property
    def bill(self) -> Bill:
        return self.submission.bill

    @property
    def weight(self) -> int:
        return len(self.append.ids)


class GroupCommit:
    """Takes appends in, writes entries, hands outcomes out."""

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
        pending_bytes: int,
        unapplied_bytes: int,
        entry_bytes: int,
        keep_above_bytes: int | None,
    ) -> None:
        self._storage = storage
        self._tail = tail
        self._lookups = lookups
        self._judge = judge
        self._follower = follower
        self._leadership = leadership
        self._clock = clock
        self._pending_limit_bytes = pending_bytes
        self._unapplied_limit_bytes = unapplied_bytes
        self._entry_bytes = entry_bytes
        self._keep_above_bytes = keep_above_bytes
        self._complaints = {
            event: Complaint(event) for event in ("keep_failed", "look_up_failed", "put_failed", "look_failed")
        }
        self._pending_bytes = 0
        self._to_prepare: deque[_Waiting] = deque()
        self._to_hand_over: deque[_Waiting] = deque()
        self._to_commit: deque[_Waiting] = deque()
        self._prepare_wanted = asyncio.Event()
        self._hand_over_wanted = asyncio.Event()
        self._commit_wanted = asyncio.Event()
        self._closing = False
        self._open: set[_Waiting] = set()
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
        submission = _Submission(len(appends))
        waiting = [_Waiting(append, submission, index, stays=here) for index, append in enumerate(appends)]
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
            try:
                await asyncio.gather(*map(self._keep, large))
            except BaseException:
                submission.done.cancel()
                raise
        await submission.done
        return [outcome for outcome in submission.outcomes if outcome is not None]

    async def _keep(self, waiting: _Waiting) -> None:
        """Have the store keep large payloads before the append joins an entry, which others then need not wait for."""
        try:
            await self._storage.keep(waiting.append.encoded)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._settle(waiting, self._fault("keep_failed", error))
        except BaseException:
            self._settle(waiting, None)
            raise
        else:
            self._complaints["keep_failed"].works()
            self._enqueue(waiting)

    def _settle(self, waiting: _Waiting, outcome: Outcome | None) -> None:
        """Give `waiting` its outcome, or with None drop it: only now its bytes are no longer held."""
        self._open.discard(waiting)
        self._pending_bytes -= waiting.append.size_bytes
        if outcome is not None:
            if waiting.may_be_recorded and isinstance(outcome, InvalidRequestError | CursorOutOfRangeError):
                outcome = StorageUnavailableError("another node may have recorded it, or may yet")
            waiting.submission.settle(waiting.index, outcome)
        if not self._open:
            self._idle.set()

    def _enqueue(self, waiting: _Waiting) -> None:
        if self._leadership.is_elsewhere and not waiting.stays:
            self._to_hand_over.append(waiting)
            self._hand_over_wanted.set()
        elif self._lookups.enough(waiting.append, waiting.answers):
            self._to_commit.append(waiting)
            self._commit_wanted.set()
        else:
            self._to_prepare.append(waiting)
            self._prepare_wanted.set()

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

    async def run_prepare(self) -> None:
        """Prepare appends, for ever; several such tasks may run."""
        while True:
            await self._prepare_wanted.wait()
            self._prepare_wanted.clear()
            batch = self._without_abandoned(self._to_prepare)
            self._to_prepare.clear()
            if not batch:
                continue
            try:
                with shared_by(batch):
                    answers = await self._lookups.answer([waiting.append for waiting in batch])
            except Exception as error:  # noqa: BLE001 - one bad append must not end the node
                for waiting in batch:
                    self._settle(waiting, self._fault("look_up_failed", error))
                continue
            self._complaints["look_up_failed"].works()
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answers = answer
                self._enqueue(waiting)

    def _without_abandoned(self, queue: Iterable[_Waiting]) -> list[_Waiting]:
        batch = []
        for waiting in queue:
            if waiting.abandoned:
                self._settle(waiting, None)
            else:
                batch.append(waiting)
        return batch

    async def run_commit(self) -> None:
        """Commit appends, for ever."""
        while True:
            await self._commit_wanted.wait()
            batch = self._take()
            if not self._to_commit:
                self._commit_wanted.clear()
            sure = not self._follower.has_others
            while batch:
                async with self._follower.turn:
                    batch = await self._commit(batch, sure=sure)
                sure = True  # for it comes back after a look at the log

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = events = 0
        while self._to_commit and size < self._entry_bytes and events < ENTRY_EVENTS:
            append = self._to_commit[0].append
            if batch and (size + append.size_bytes > self._entry_bytes or events + len(append.ids) > ENTRY_EVENTS):
                break
            waiting = self._to_commit.popleft()
            if waiting.abandoned:
                self._settle(waiting, None)
                continue
            batch.append(waiting)
            size, events = size + append.size_bytes, events + len(append.ids)
        return batch

    async def run_hand_over(self) -> None:
        """Have the leader decide appends, for ever, and commit here what it does not; several such tasks may run."""
        while True:
            await self._hand_over_wanted.wait()
            self._hand_over_wanted.clear()
            batch = self._without_abandoned(self._to_hand_over)
            self._to_hand_over.clear()
            if batch:
                await self._hand_over(batch)

    async def _hand_over(self, batch: Sequence[_Waiting]) -> None:
        for waiting in batch:
            waiting.stays = True
            waiting.append.fresh_ids = False
        outcomes = await self._leadership.hand_over([waiting.append for waiting in batch])
        decided: dict[_Waiting, Outcome] = {}
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.may_be_recorded = isinstance(outcome, UnavailableError)
            if isinstance(outcome, Appended | ConditionFailedError | EventIdExistsError):
                decided[waiting] = outcome
        try:
            with shared_by(batch):  # who is answered may read here what the answer is about
                await self._follower.catch_up(max(map(_position, decided.values()), default=0))
        except StorageUnavailableError as error:
            decided = dict.fromkeys(decided, error)
        for waiting in batch:
            if waiting in decided:
                self._settle(waiting, decided[waiting])
            else:
                self._enqueue(waiting)

    async def _commit(self, batch: Sequence[_Waiting], *, sure: bool) -> list[_Waiting]:
        """Make one entry of the batch; return the appends to judge again, because another entry came first.

        Unless `sure` that the tail has all that was recorded before the batch was handed in, a refusal waits for a put
        or a look that shows it: another node may have recorded the very append that is refused.
        """
        head = self._tail.head
        entry = Entry(head.position + 1, max(self._clock(), head.ticks), [], [], [], [])
        judged: list[tuple[_Waiting, Verdict]] = []
        for waiting in batch:
            if self._lookups.enough(waiting.append, waiting.answers):
                judged.append((waiting, self._judge.judge(waiting.append, waiting.answers, entry)))
            else:
                self._enqueue(waiting)  # the tail has moved on since it was prepared
        refuses = any(isinstance(verdict.outcome, KudurruError) for _, verdict in judged)
        failure: KudurruError | None = None
        payers = [waiting for waiting, verdict in judged if verdict.outcome is None or not entry.ids]
        try:
            with shared_by(payers):
                if not await self._decide(entry, look=refuses and not sure):
                    return [waiting for waiting, _ in judged]
        except Exception as error:  # noqa: BLE001 - one bad append must not end the node
            failure = self._fault("put_failed" if entry.ids else "look_failed", error)
        if entry.ids and failure is None:
            self._tail.record(entry)
        appends = iter(entry.appends)
        for waiting, verdict in judged:
            unsure = not sure and isinstance(verdict.outcome, KudurruError)
            if failure is not None and (verdict.depends_on_entry or unsure):
                self._settle(waiting, failure)
            elif verdict.outcome is not None:
                self._settle(waiting, verdict.outcome)
            else:
                first, count = next(appends)
                self._settle(waiting, Appended(first, count, entry.ticks, already_committed=False))
        return []

    async def _decide(self, entry: Entry, *, look: bool) -> bool:
        """Put the entry, or if it is empty look at the log if told to; return False if another entry came first.

        Raises:
            KudurruError: it failed; the entry is not staged any more.
        """
        if not entry.ids:
            return not (look and await self._follower.take_in_news())
        entry.frames = make_frames(entry.frames, entry.first, entry.ticks)
        try:
            is_recorded = await self._storage.put(entry)
        except Exception:
            self._tail.unstage(entry.ids)
            raise
        self._complaints["put_failed"].works()
        self._leadership.put_decided(lost=not is_recorded)
        if not is_recorded:
            self._tail.unstage(entry.ids)
            await self._follower.catch_up_after_lost_put()
        return is_recorded

    def _fault(self, event: str, error: Exception) -> KudurruError:
        """Log why the store did not do what it was asked to, and return what its callers are told."""
        if isinstance(error, KudurruError):
            self._complaints[event].fails(error)
            return error
        _logger.error(event, exc_info=error)
        return StorageUnavailableError("a fault of the server; its log says more")


def _position(outcome: Outcome) -> int:
    """Return the last position that an outcome speaks of."""
    if isinstance(outcome, Appended):
        return outcome.first + outcome.count - 1
    return int(outcome.metadata.get("position", 0))
