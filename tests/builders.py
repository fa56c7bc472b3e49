"""Builders of the values that tests talk about: events, appends, entries of the log, queries."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from kudurru_server._proto import event_pb2
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.convert import Converter
from kudurru_server.model import Append, Cursor, Entry, Limits, Query, QueryItem

from tests import reference
from tests.reference import TICKS_PER_MILLISECOND, UNIX_EPOCH_TICKS, Fact

_T = TypeVar("_T")
NOON = 639_000_000_000_000_000
"""Ticks of a day in 2025: where the clocks of tests begin."""
_random = random.Random(7)


def now_ticks() -> int:
    """Return the time of the system's clock."""
    return time.time_ns() // 100 + UNIX_EPOCH_TICKS


def uuid4() -> str:
    """Return a random id without a time."""
    return str(UUID(int=_random.getrandbits(128), version=4))


def uuid7(ticks: int | None = None) -> str:
    """Return a random id of a time; of now unless given."""
    milliseconds = ((now_ticks() if ticks is None else ticks) - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
    number = milliseconds << 80 | 7 << 76 | _random.getrandbits(12) << 64 | 2 << 62 | _random.getrandbits(62)
    return str(UUID(int=number))


def event(event_type: str = "Happened", *tags: str, event_id: str | None = None, data: bytes = b"") -> event_pb2.Event:
    """Return an event; without an id it gets a UUIDv7 of now."""
    return event_pb2.Event(event_id=event_id or uuid7(), event_type=event_type, tags=tags, data=data)


def fact_of(one: event_pb2.Event) -> Fact:
    """Return an event as the reference knows it."""
    return Fact(
        one.event_id,
        one.event_type,
        frozenset(one.tags),
        one.data,
        one.content_type,
        frozenset(one.metadata.items()),
    )


def query(*items: tuple[Sequence[str], Sequence[str]]) -> Query:
    """Return a query of items, each of event types and tags."""
    return Query(tuple(QueryItem(tuple(types), tuple(tags)) for types, tags in items))


def reference_query(of: Query) -> reference.Query:
    """Return a query as the reference knows it."""
    return tuple((frozenset(item.event_types), frozenset(item.tags)) for item in of.items)


def query_message(of: reference.Query) -> event_pb2.Query:
    """Return a query as a client sends it."""
    items = [event_pb2.QueryItem(event_types=sorted(types), tags=sorted(tags)) for types, tags in of]
    return event_pb2.Query(items=items)


def request(*events: event_pb2.Event, conditions: Sequence[event_pb2.AppendCondition] = ()) -> pb.AppendRequest:
    """Return an append as a client sends it."""
    return pb.AppendRequest(events=events, conditions=conditions)


def unless(*items: tuple[Sequence[str], Sequence[str]], after: str = "") -> event_pb2.AppendCondition:
    """Return the condition that nothing of one of these items, each of types and tags, comes after `after`."""
    queried = query_message(tuple((frozenset(types), frozenset(tags)) for types, tags in items))
    return event_pb2.AppendCondition(fail_if_events_match=queried, after=after)


def append(*events: event_pb2.Event, conditions: Sequence[event_pb2.AppendCondition] = ()) -> Append:
    """Return an append as the engine takes it."""
    return Converter(Limits()).append(request(*events, conditions=conditions))


def recorded(one: event_pb2.Event, ticks: int, position: int) -> event_pb2.RecordedEvent:
    """Return an event as the store would send it."""
    seconds, rest = divmod(ticks - UNIX_EPOCH_TICKS, 10_000_000)
    return event_pb2.RecordedEvent(
        event=one,
        sortable_unique_id=str(Cursor(ticks, position)),
        position=position,
        recorded_at=Timestamp(seconds=seconds, nanos=rest * 100),
    )


def frame(one: event_pb2.Event, ticks: int, position: int) -> bytes:
    """Return an event as it is stored, by way of the generated classes."""
    return pb.ReadResponse(events=[recorded(one, ticks, position)]).SerializeToString()


def events_of(frames: bytes) -> list[event_pb2.RecordedEvent]:
    """Return the events in joined frames."""
    return list(pb.ReadResponse.FromString(frames).events)


def entry(first: int, *appends: Sequence[event_pb2.Event], ticks: int = NOON) -> Entry:
    """Return an entry of the log that records these appends from position `first` on."""
    events = [one for events in appends for one in events]
    starts = [first + sum(map(len, appends[:index])) for index in range(len(appends))]
    return Entry(
        first=first,
        ticks=ticks,
        ids=[one.event_id for one in events],
        labels=["\t".join((one.event_type, *one.tags)) for one in events],
        frames=[frame(one, ticks, position) for position, one in enumerate(events, first)],
        appends=[(start, len(events)) for start, events in zip(starts, appends, strict=True)],
    )


@asynccontextmanager
async def held(manager: AbstractAsyncContextManager[_T]) -> AsyncIterator[_T]:
    """Enter and leave a manager in one task of its own, so that a fixture may hold one that owns a task group."""
    entered: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        async with manager as value:
            entered.set_result(value)
            await leave.wait()

    holding = asyncio.create_task(hold())
    both: list[asyncio.Future[Any]] = [holding, entered]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not entered.done():
        await holding
    try:
        yield entered.result()
    finally:
        leave.set()
        await holding
