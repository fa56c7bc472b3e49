"""Group commit: appends that wait while an entry is written form the next one.

Some tasks prepare (ask the store about old ids and conditions), one commits; each takes all that waits. A caller who
leaves fails nobody: its append is dropped if it has not joined an entry, and recorded if it has.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from kudurru_server.engine.frame import make_frames
from kudurru_server.engine.judge import Judge, Outcome, Verdict
from kudurru_server.engine.lookups import NOTHING_ASKED, Lookups
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import KudurruError, OverloadedError, ShuttingDownError, StorageUnavailableError
from kudurru_server.model import Append, Appended, Entry
from kudurru_server.storage.interface import Storage

ENTRY_BYTES = 2 << 20  # an entry stops growing here: a larger one delays its first append more than it saves
ENTRY_EVENTS = 16_384


class _Submission:
    """Appends that were handed in together, and their outcomes."""

    def __init__(self, count: int) -> None:
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

    __slots__ = ("answers", "append", "index", "submission")

    def __init__(self, append: Append, submission: _Submission, index: int) -> None:
        self.append = append
        self.answers = NOTHING_ASKED
        self.submission = submission
        self.index = index

    def settle(self, outcome: Outcome) -> None:
        self.submission.settle(self.index, outcome)

    @property
    def abandoned(self) -> bool:
        return self.submission.done.cancelled()


class GroupCommit:
    """Takes appends in, writes entries, hands outcomes out."""

    def __init__(
        self,
        storage: Storage,
        tail: Tail,
        lookups: Lookups,
        judge: Judge,
        *,
        clock: Callable[[], int],
        pending_bytes: int,
        unapplied_bytes: int,
    ) -> None:
        self._storage = storage
        self._tail = tail
        self._lookups = lookups
        self._judge = judge
        self._clock = clock
        self._pending_limit_bytes = pending_bytes
        self._unapplied_limit_bytes = unapplied_bytes
        self._pending_bytes = 0
        self._to_prepare: deque[_Waiting] = deque()
        self._to_commit: deque[_Waiting] = deque()
        self._prepare_wanted = asyncio.Event()
        self._commit_wanted = asyncio.Event()
        self._closing = False
        self._open: set[_Submission] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(self, appends: Sequence[Append]) -> list[Outcome]:
        """Record independent appends; return the outcome of each, in order, once all are decided.

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
        for index, append in enumerate(appends):
            self._enqueue(_Waiting(append, submission, index))
        self._open.add(submission)
        self._pending_bytes += size
        self._idle.clear()
        try:
            await submission.done
        finally:
            self._open.discard(submission)
            self._pending_bytes -= size
            if not self._open:
                self._idle.set()
        return [outcome for outcome in submission.outcomes if outcome is not None]

    def _enqueue(self, waiting: _Waiting) -> None:
        if self._lookups.enough(waiting.append, waiting.answers):
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
        for submission in self._open:
            if not submission.done.done():
                submission.done.set_exception(StorageUnavailableError("the node has failed"))

    async def run_prepare(self) -> None:
        """Prepare appends, for ever; several such tasks may run."""
        while True:
            await self._prepare_wanted.wait()
            self._prepare_wanted.clear()
            batch = [waiting for waiting in self._to_prepare if not waiting.abandoned]
            self._to_prepare.clear()
            if not batch:
                continue
            try:
                answers = await self._lookups.answer([waiting.append for waiting in batch])
            except KudurruError as error:
                for waiting in batch:
                    waiting.settle(error)
                continue
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answers = answer
                self._enqueue(waiting)

    async def run_commit(self) -> None:
        """Commit appends, for ever."""
        while True:
            await self._commit_wanted.wait()
            batch = self._take()
            if not self._to_commit:
                self._commit_wanted.clear()
            while batch:
                batch = await self._commit(batch)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = events = 0
        while self._to_commit and size < ENTRY_BYTES and events < ENTRY_EVENTS:
            append = self._to_commit[0].append
            if batch and (size + append.size_bytes > ENTRY_BYTES or events + len(append.ids) > ENTRY_EVENTS):
                break
            waiting = self._to_commit.popleft()
            if waiting.abandoned:
                continue
            batch.append(waiting)
            size, events = size + append.size_bytes, events + len(append.ids)
        return batch

    async def _commit(self, batch: Sequence[_Waiting]) -> list[_Waiting]:
        """Make one entry of the batch; return the appends to judge again, because another entry came first."""
        head = self._tail.head
        entry = Entry(head.position + 1, max(self._clock(), head.ticks), [], [], [], [])
        judged: list[tuple[_Waiting, Verdict]] = []
        for waiting in batch:
            if self._lookups.enough(waiting.append, waiting.answers):
                judged.append((waiting, self._judge.judge(waiting.append, waiting.answers, entry)))
            else:
                self._enqueue(waiting)  # the tail has moved on since it was prepared
        failure: KudurruError | None = None
        if entry.ids:
            entry.frames = make_frames(entry.frames, entry.first, entry.ticks)
            try:
                if not await self._storage.put(entry):
                    self._tail.unstage(entry.ids)
                    await self._catch_up()
                    return [waiting for waiting, _ in judged]
            except KudurruError as error:
                failure = error
            if failure is None:
                self._tail.record(entry)
            else:
                self._tail.unstage(entry.ids)
        appends = iter(entry.appends)
        for waiting, verdict in judged:
            if failure is not None and verdict.depends_on_entry:
                waiting.settle(failure)
            elif verdict.outcome is not None:
                waiting.settle(verdict.outcome)
            else:
                first, count = next(appends)
                waiting.settle(Appended(first, count, entry.ticks, already_committed=False))
        return []

    async def _catch_up(self) -> None:
        while True:
            try:
                entries = await self._storage.entries(self._tail.head.position)
            except StorageUnavailableError:
                await asyncio.sleep(0.1)
                continue
            for entry in entries:
                self._tail.load(entry)
            if not entries:
                return
