"""Appends events in order, many to an append.

Order is what one append under way at a time guarantees; the next one is built in a thread meanwhile, so that neither
this process nor the server waits for the other for long.
"""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice

from kudurru import Event, EventStore

EVENTS_PER_APPEND = 1000


async def append_in_order(store: EventStore, events: Iterator[Event], recorded: Callable[[list[Event]], None]) -> None:
    """Record the events in their order, and call `recorded` with each batch that is durable.

    Running it again with the same events records nothing twice: their ids are the same.
    """
    batch = _next_batch(events)
    while batch:
        building = asyncio.create_task(asyncio.to_thread(_next_batch, events))
        await store.append(batch)
        recorded(batch)
        batch = await building


def _next_batch(events: Iterator[Event]) -> list[Event]:
    return list(islice(events, EVENTS_PER_APPEND))
