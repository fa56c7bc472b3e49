"""A command: an aircraft departs for a flight, once.

The rule needs no aggregate, no lock and no read: the event is appended on the condition that no event says already
that the flight has departed, whoever presses the button, and whenever.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import kudurru
from kudurru import Appended, Condition, ConditionFailedError, Event, EventStore, Query


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a command.

    Attributes:
        outcome: Where the departure was recorded, or which event was in the way.
        seconds: How long it took to know.
    """

    outcome: Appended | ConditionFailedError
    seconds: float


async def depart(store: EventStore, flight: str, aircraft: str, agent: int = 1) -> Attempt:
    """Record that an aircraft departs for a flight such as "UA1545:2013-01-01:EWR", unless one has."""
    tags = [f"flight:{flight}", f"carrier:{flight[:2]}", f"airport:{flight[-3:]}", f"aircraft:{aircraft}"]
    departure = Event.json("FlightDeparted", {"agent": agent}, tags=tags)
    departed = Query.of(types=["FlightDeparted"], tags=[f"flight:{flight}"])
    started = time.perf_counter()
    outcome: Appended | ConditionFailedError
    try:
        outcome = await store.append(departure, condition=Condition(departed))
    except ConditionFailedError as refused:
        outcome = refused
    return Attempt(outcome, time.perf_counter() - started)


async def race(target: str, flight: str, aircraft: str, agents: int) -> Sequence[Attempt]:
    """Let agents, each with a connection of their own, try to depart the same flight at once."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(kudurru.connect(target)) for _ in range(agents)]
        await asyncio.gather(*(store.head() for store in stores))  # all are connected before the first one presses
        return await asyncio.gather(*(depart(store, flight, aircraft, agent) for agent, store in enumerate(stores, 1)))
