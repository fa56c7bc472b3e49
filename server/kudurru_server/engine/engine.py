"""The engine: the parts of a node put together around one store.

append ─▶ group commit ─▶ judge ─▶ log ─▶ tail ─▶ answer
                                          └─▶ applier: derived rows, later
read, subscribe ◀─ history up to the tail, then the tail
"""

import asyncio
import contextlib
import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from operator import attrgetter

from kudurru_server.engine.applier import recover, run_applier
from kudurru_server.engine.commit import Commit
from kudurru_server.engine.cursors import Cursors
from kudurru_server.engine.follower import Follower
from kudurru_server.engine.group_commit import GroupCommit
from kudurru_server.engine.judge import Judge, Outcome, SameContent
from kudurru_server.engine.leadership import Leadership, Neighbours
from kudurru_server.engine.lookups import Lookups
from kudurru_server.engine.reader import Reader
from kudurru_server.engine.subscription import Message, Subscription
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import NotFoundError, NotReachedError, ShuttingDownError
from kudurru_server.model import (
    TICKS_PER_SECOND,
    UNIX_EPOCH_TICKS,
    Append,
    Batch,
    Cursor,
    Query,
    QueryItem,
    TagSummary,
    group_of,
)
from kudurru_server.storage.interface import Span, Storage

AT_LEAST_SECONDS = 5.0
_PREPARERS = 2  # so that appends whose look-up is quick need not wait for one that is slow
_HANDERS_OVER = 4  # so that appends need not wait for the leader's answer to others


def system_ticks() -> int:
    """Return the time of the system's clock in ticks."""
    return time.time_ns() // (1_000_000_000 // TICKS_PER_SECOND) + UNIX_EPOCH_TICKS


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How much memory the parts may use, what the store needs, and what time it is."""

    tail_bytes: int = 64 << 20
    pending_bytes: int = 64 << 20
    unapplied_bytes: int = 256 << 20
    entry_bytes: int = 2 << 20
    """An entry stops growing here: a larger one delays its first append more than it saves."""
    follow_busy_seconds: float | None = None
    """Pause between looks for other nodes' entries while there are some; None: there are no other nodes."""
    follow_idle_seconds: float = 0.1
    apply_delay_seconds: float | None = None
    """How long derived rows wait for others to be written with; None: for a generation to be complete."""
    keep_above_bytes: int | None = None
    """Appends above it may hold payloads that the store keeps beside the log; None: it keeps none there."""
    clock: Callable[[], int] = system_ticks


class Engine:
    """A node on one store. Use `run_engine`."""

    def __init__(
        self, storage: Storage, same_content: SameContent, options: EngineOptions, neighbours: Neighbours | None
    ) -> None:
        self._storage = storage
        self._unapplied_bytes = options.unapplied_bytes
        self._tail = Tail(options.tail_bytes)
        self._follower = Follower(self._tail, storage, options.follow_busy_seconds, options.follow_idle_seconds)
        self._cursors = Cursors(self._tail, storage, self._follower)
        self._reader = Reader(self._tail, storage)
        self._leadership = Leadership(neighbours)
        lookups = Lookups(self._tail, storage, self._cursors)
        judge = Judge(self._tail, self._cursors, same_content)
        commit = Commit(
            storage, self._tail, lookups, judge, self._follower, leadership=self._leadership, clock=options.clock
        )
        self._commit = GroupCommit(
            storage,
            self._tail,
            lookups,
            self._follower,
            commit,
            leadership=self._leadership,
            pending_bytes=options.pending_bytes,
            unapplied_bytes=options.unapplied_bytes,
            entry_bytes=options.entry_bytes,
            keep_above_bytes=options.keep_above_bytes,
        )
        self._apply_delay_seconds = options.apply_delay_seconds
        self.closing = asyncio.Event()

    async def recover(self) -> None:
        """Make the tail what the log says."""
        await recover(self._storage, self._tail, self._unapplied_bytes)

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Run the node's tasks in `tasks`."""
        return [
            *(tasks.create_task(self._commit.run_prepare()) for _ in range(_PREPARERS)),
            tasks.create_task(self._commit.run_commit()),
            tasks.create_task(run_applier(self._storage, self._tail, self._apply_delay_seconds)),
            *([tasks.create_task(self._follower.run())] if self._follower.has_others else []),
            *(tasks.create_task(work) for work in self._leading()),
        ]

    def _leading(self) -> list[Coroutine[None, None, None]]:
        if not self._leadership.has_neighbours:
            return []
        return [self._leadership.run(), *(self._commit.run_hand_over() for _ in range(_HANDERS_OVER))]

    async def drain(self) -> None:
        """Refuse new appends, answer the others, and end the subscriptions."""
        self.closing.set()
        self._tail.wake()
        await self._commit.drain()

    def abandon(self) -> None:
        """Give up: a task of the node has failed, and nothing more can be decided."""
        self.closing.set()
        self._tail.wake()
        self._commit.abandon()

    @property
    def head(self) -> Cursor:
        """The cursor of the last recorded event."""
        return self._tail.head

    @property
    def applied(self) -> int:
        """The position up to which the derived rows are known to be written."""
        return self._tail.applied

    @property
    def unapplied_bytes(self) -> int:
        """About the memory of what is not applied yet."""
        return self._tail.unapplied_bytes

    @property
    def pending_bytes(self) -> int:
        """The size of the appends that are not decided."""
        return self._commit.pending_bytes

    async def append(self, appends: Sequence[Append], *, handed_to: str | None = None) -> list[Outcome]:
        """Record independent appends, which another node may have handed to this one; see `GroupCommit.submit`.

        Raises:
            UnavailableError: they were handed to a node of another name; nothing was recorded.
        """
        if handed_to is not None:
            self._leadership.check_name(handed_to)
        return await self._commit.submit(appends, here=handed_to is not None)

    async def reach(self, at_least: Cursor, timeout_seconds: float | None) -> None:
        """Wait until the node has seen `at_least`.

        Raises:
            CursorOutOfRangeError: it contradicts the store's own ids.
            NotReachedError: the time was up.
        """
        try:
            async with asyncio.timeout(AT_LEAST_SECONDS if timeout_seconds is None else timeout_seconds):
                while str(self.head) < str(at_least):
                    if self.closing.is_set():
                        raise ShuttingDownError
                    self._follower.hurry()
                    await self._tail.changed()
        except TimeoutError as error:
            raise NotReachedError(
                "AT_LEAST_NOT_REACHED", f"the head is {str(self.head) or 'empty'}, not at least {at_least}"
            ) from error
        await self._cursors.position(at_least, "at_least")

    async def span(self, after: Cursor, until: Cursor | None, *, backwards: bool) -> tuple[Span, Cursor]:
        """Return the positions a read is about, as of now, and up to where it is complete.

        Raises:
            CursorOutOfRangeError: a cursor is not one of this store.
        """
        await self._cursors.follow(after if until is None else max(after, until, key=attrgetter("position")))
        head = self.head
        low = await self._cursors.position(after, "after")
        high = head.position if until is None else await self._cursors.position(until, "until")
        if high >= head.position:
            return Span(low, head.position, backwards), head
        return Span(low, high, backwards), await self._cursors.at(high)

    def read(self, query: Query, span: Span, limit: int) -> AsyncGenerator[Batch]:
        """Yield the matching events of a span; see `Reader.read`."""
        return self._reader.read(query, span, limit)

    async def cursor_at(self, position: int) -> Cursor:
        """Return the cursor of the event at `position`."""
        return await self._cursors.at(position)

    async def subscribe(self, query: Query, after: Cursor | None, heartbeat_seconds: float) -> AsyncGenerator[Message]:
        """Return a subscription's messages; `after` None means from the head on.

        Raises:
            CursorOutOfRangeError: the cursor is not one of this store.
        """
        if after is None:
            await self._follower.catch_up()
        subscription = Subscription(
            self._tail,
            self._reader,
            self._cursors,
            query,
            after=self.head if after is None else after,
            position=self.head.position if after is None else await self._cursors.position(after, "after"),
            heartbeat_seconds=heartbeat_seconds,
            closing=self.closing.is_set,
        )
        return subscription.messages()

    async def event(self, event_id: str) -> bytes:
        """Return the frame of an event.

        Raises:
            NotFoundError: no recorded event has this id.
        """
        position = self._tail.known([event_id], event_id).get(event_id)
        if position is not None and position <= self.head.position:
            return self._tail.stored(position).frame
        found = await self._storage.find([event_id], self._tail.applied)
        if event_id not in found:
            raise NotFoundError("EVENT_NOT_FOUND", f"no event has the id {event_id}")
        return found[event_id].frame

    async def tag(self, tag: str, *, with_count: bool) -> tuple[Cursor, Cursor, int | None] | None:
        """Return the first and last event of a tag and, if asked, how many there are; None if there is none."""
        applied, head = self._tail.applied, self.head.position
        query = Query((QueryItem(tags=(tag,)),))
        recent = self._tail.positions(query, Span(applied, head))
        old = await self._storage.tag(tag, applied, with_count=with_count) if applied else None
        if old is None and not recent:
            return None
        old = old or TagSummary(recent[0], recent[-1], 0)
        first, last = await self._cursors.at(old.first), await self._cursors.at(recent[-1] if recent else old.last)
        return first, last, (old.count or 0) + len(recent) if with_count else None

    async def tags(self, group: str | None, after: str | None, limit: int) -> list[str]:
        """Return up to `limit` tags after `after`, ordered by group and then by tag."""
        start = ("", "") if after is None else (group_of(after), after)
        recent = {
            key
            for tag in self._tail.unapplied_tags()
            if (key := (group_of(tag), tag)) > start and (group is None or key[0] == group)
        }
        old = await self._storage.tags(group, after, limit)
        return [tag for _, tag in heapq.nsmallest(limit, recent.union((group_of(tag), tag) for tag in old))]


@contextlib.asynccontextmanager
async def run_engine(
    storage: Storage,
    same_content: SameContent,
    options: EngineOptions | None = None,
    neighbours: Neighbours | None = None,
) -> AsyncIterator[Engine]:
    """Run a node on `storage`; on exit it is drained and stopped, and the storage may be closed."""
    engine = Engine(storage, same_content, options or EngineOptions(), neighbours)
    await engine.recover()
    async with asyncio.TaskGroup() as tasks:
        running = engine.start(tasks)
        try:
            yield engine
        finally:
            if any(task.done() for task in running):
                engine.abandon()
            else:
                await engine.drain()
            for task in running:
                task.cancel()
