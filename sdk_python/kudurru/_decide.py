"""Decide: read, let the caller decide, and append on the condition that nothing it has read about has changed."""

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from kudurru._backoff import Backoff
from kudurru._errors import ConditionFailedError
from kudurru._model import Appended, Event, RecordedEvent
from kudurru._query import Condition, Query
from kudurru._read import Read

State = TypeVar("State")

Decision = Event | Iterable[Event] | None
"""What a deciding function returns: the events to record, or none."""
Decide = Callable[[State], Decision | Awaitable[Decision]]
Fold = Callable[[State, RecordedEvent], State]

_FIRST_DELAY_SECONDS = 0.005  # about the time of the append that won
_MAX_DELAY_SECONDS = 0.5


class Store(Protocol):
    """What deciding needs of the store."""

    def read(self, query: Query, *, at_least: str) -> Read: ...
    async def append(self, events: list[Event], *, condition: Condition) -> Appended: ...


async def decide_and_append(
    store: Store, query: Query, decide: Decide[State], *, fold: Fold[State], initial: State, attempts: int
) -> Appended | None:
    """Try until an append is recorded; see EventStore.decide."""
    backoff = Backoff(_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS)
    at_least = ""
    for attempt in range(1, attempts + 1):
        read = store.read(query, at_least=at_least)
        state = copy.deepcopy(initial)  # a fold may change it in place
        async for event in read:
            state = fold(state, event)
        decision = decide(state)
        if inspect.isawaitable(decision):
            decision = await decision
        events = [decision] if isinstance(decision, Event) else list(decision or ())
        if not events:
            return None
        try:
            return await store.append(events, condition=Condition(query, after=read.head))
        except ConditionFailedError as conflict:
            if attempt == attempts:
                raise
            at_least = conflict.sortable_unique_id  # a node that lags would read the same again
            await asyncio.sleep(backoff.next_seconds())
    raise ValueError("deciding takes at least one attempt")


def collect(events: list[RecordedEvent], event: RecordedEvent) -> list[RecordedEvent]:
    """Fold events into a list."""
    events.append(event)
    return events
