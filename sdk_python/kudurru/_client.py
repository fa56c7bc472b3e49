"""The event store as a client sees it: one connection, opened by `async with`."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

import grpc.aio

from kudurru._append import Appender, encode_append
from kudurru._call import call
from kudurru._decide import Decide, Fold, State, collect, decide_and_append
from kudurru._model import Appended, Event, Head, RecordedEvent, TagInfo
from kudurru._proto import event_store_service_pb2 as pb
from kudurru._proto.event_store_service_pb2_grpc import EventStoreServiceStub
from kudurru._query import Condition, Query
from kudurru._read import Read, ReadRange
from kudurru._subscribe import Subscription

if TYPE_CHECKING:  # it exists in the stubs only
    from kudurru._proto.event_store_service_pb2_grpc import EventStoreServiceAsyncStub

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),  # finds a peer that vanished; gRPC pings twice at most without data between
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # the default of 120 s would hide a server that is back
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name: how long one attempt to connect may take
)


def connect(target: str = DEFAULT_TARGET, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> "EventStore":
    """Name an event store; `async with` opens the connection.

    ```python
    async with kudurru.connect() as store:
        await store.append(Event.json("CourseDefined", {"seats": 30}, tags=["course:c1"]))
    ```

    Args:
        target: "host:port" or "unix:/path".
        timeout: For how many seconds a call is tried again while no server answers; every append and every call with
            one answer ends within it.
    """
    return EventStore(target, timeout)


@dataclass(frozen=True, slots=True)
class _Connection:
    channel: grpc.aio.Channel
    stub: "EventStoreServiceAsyncStub"
    appender: Appender


class EventStore:
    """A connection to an event store; made by `connect`, used by any number of tasks of one event loop at once."""

    def __init__(self, target: str, timeout_seconds: float) -> None:
        self._target = target
        self._timeout_seconds = timeout_seconds
        self._connection: _Connection | None = None

    async def __aenter__(self) -> Self:
        channel = grpc.aio.insecure_channel(self._target, options=_CHANNEL_OPTIONS)
        self._connection = _Connection(channel, EventStoreServiceStub(channel), Appender(channel))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; what other tasks are still doing with it fails, and their subscriptions end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.appender.aclose()
            await connection.channel.close()

    async def append(
        self,
        events: Event | Iterable[Event],
        *,
        condition: Condition | Iterable[Condition] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it bounds the attempts, and decides what is known at its end
    ) -> Appended:
        """Record all events, at adjacent positions in the given order, or none of them.

        Appends that are made at the same time travel together; each has its own outcome. While no server answers, the
        append is tried again with the same event ids, which records it once.

        Args:
            events: 1 to 4096 events, at most 4 MiB.
            condition: All must hold on exactly the events that precede the append.
            timeout: Seconds; the store's own if None.

        Raises:
            ConditionFailedError: An event matches a condition; nothing was written.
            OutcomeUnknownError: It may be recorded, now or later; append the same Event objects again to find out.
            UnavailableError: It could not be sent; nothing was written.
            KudurruError: It was refused; nothing was written.
        """
        return await self._open.appender.append(encode_append(events, condition), self._timeout(timeout))

    def read(
        self,
        query: Query | None = None,
        *,
        after: str = "",
        until: str = "",
        backwards: bool = False,
        limit: int = 0,
        at_least: str = "",
    ) -> Read:
        """Read what matches, up to the head as of the call.

        Args:
            query: Every event if None.
            after: Exclusive lower bound; empty means the first event.
            until: Inclusive upper bound; empty means the head.
            backwards: From the newest to the oldest of the same range.
            limit: The most events to return; 0 means no limit.
            at_least: Wait until the server has reached this cursor, such as `Appended.head`.
        """
        return Read(
            self._open.stub.Read, ReadRange(query, after, until, backwards, limit, at_least), self._timeout_seconds
        )

    def subscribe(
        self, query: Query | None = None, *, after: str = "", from_now: bool = False, heartbeat: float = 5.0
    ) -> Subscription:
        """Follow what matches, first from history and then live.

        Args:
            query: Every event if None.
            after: Exclusive; empty means the first event.
            from_now: Begin with what is recorded next.
            heartbeat: The server tells how far it is at least every so many seconds; after three of them without a
                word the connection is replaced.
        """
        return Subscription(self._open.stub.Subscribe, query, after, from_now=from_now, heartbeat_seconds=heartbeat)

    @overload
    async def decide(
        self, query: Query, decide: Decide[list[RecordedEvent]], *, attempts: int = 30
    ) -> Appended | None: ...

    @overload
    async def decide(
        self, query: Query, decide: Decide[State], *, fold: Fold[State], initial: State, attempts: int = 30
    ) -> Appended | None: ...

    async def decide(
        self,
        query: Query,
        decide: Decide[Any],
        *,
        fold: Fold[Any] = collect,
        initial: object = (),
        attempts: int = 30,
    ) -> Appended | None:
        """Read what matches, let `decide` say what happens, and record it unless something matching has changed.

        On a conflict everything begins again: `decide` may be called several times and must have no effects of its
        own. What it raises ends the decision, and nothing is recorded.

        Args:
            query: What the decision depends on, and all of it.
            decide: Takes the events, or the state they are folded into; returns an event, events, or none of them.
                It may be a coroutine function.
            fold: Takes a state and the next event, and returns the next state.
            initial: The state before the first event; each attempt begins with a copy.
            attempts: How often to try; 30 is enough for some hundred tasks that decide about the same thing at once.

        Returns:
            Where the events were recorded, or None if there were none.

        Raises:
            ConditionFailedError: Every attempt met a conflict; nothing was written.
        """
        start = [] if fold is collect else initial
        return await decide_and_append(self, query, decide, fold=fold, initial=start, attempts=attempts)

    async def get_event(self, event_id: str, *, at_least: str = "") -> RecordedEvent:
        """Return one event.

        Raises:
            NotFoundError: No event has this id.
        """
        response = await call(
            self._open.stub.GetEvent, pb.GetEventRequest(event_id=event_id, at_least=at_least), self._timeout_seconds
        )
        return RecordedEvent(response.event)

    async def head(self) -> Head:
        """Return the end of the store."""
        response = await call(self._open.stub.GetHead, pb.GetHeadRequest(), self._timeout_seconds)
        return Head(response.sortable_unique_id, response.position)

    async def tag(self, tag: str, *, count: bool = False, at_least: str = "") -> TagInfo:
        """Return what is known of a tag; counting takes time in proportion to the events."""
        response = await call(
            self._open.stub.GetTag,
            pb.GetTagRequest(tag=tag, with_count=count, at_least=at_least),
            self._timeout_seconds,
        )
        return TagInfo(
            response.exists,
            response.first_sortable_unique_id,
            response.last_sortable_unique_id,
            response.count if response.HasField("count") else None,
        )

    async def tags(self, group: str | None = None, *, at_least: str = "") -> AsyncIterator[str]:
        """Iterate over the tags in use, ordered by group and then by tag.

        Args:
            group: Only tags of this group, the part before the first ":"; "" means tags without one.
            at_least: Wait until the server has reached this cursor.
        """
        request = pb.ListTagsRequest(group=group, at_least=at_least)
        while True:
            page = await call(self._open.stub.ListTags, request, self._timeout_seconds)
            for tag in page.tags:
                yield tag
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    @property
    def _open(self) -> _Connection:
        if self._connection is None:
            raise RuntimeError("the store is not open: use it within `async with`")
        return self._connection

    def _timeout(self, seconds: float | None) -> float:
        return self._timeout_seconds if seconds is None else seconds
