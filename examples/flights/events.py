"""What happened to the flights, as events in the order in which it happened.

A flight is announced a day ahead (the data does not say when), departs or is cancelled, and arrives. The event's own
time is in its payload, on New York's clock; the store's ids tell when it was recorded.

Event ids are made from the flight and the time, so an import that is run again records nothing twice. They are UUIDv7
of the time when it happened: ids that rise with the store's order are the cheapest for it to tell apart.
"""

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from functools import lru_cache
from hashlib import sha1
from typing import NamedTuple

from kudurru import Event

from examples.flights.data import Flight

_NOTICE_MINUTES = 24 * 60


class Kind(IntEnum):
    """What can happen to a flight, in the order in which it does within a minute."""

    FlightScheduled = 0
    FlightCancelled = 1
    FlightDeparted = 2
    FlightArrived = 3


class Happening(NamedTuple):
    """Something that happened; compares by time, and within a minute by kind.

    Attributes:
        minute: When, in minutes since 1970 UTC.
        kind: What.
        number: Tells happenings of one kind within one minute apart.
        flight: To which flight.
    """

    minute: int
    kind: Kind
    number: int
    flight: Flight


def in_order(flights: Iterable[Flight]) -> Iterator[Happening]:
    """Yield everything that happened to the flights, in order.

    What lies ahead of the flights that are announced already waits in a heap: about two days of it at any time.
    """
    ahead: list[Happening] = []
    for number, flight in enumerate(sorted(flights, key=lambda flight: flight.scheduled)):
        announced = Happening(flight.scheduled - _NOTICE_MINUTES, Kind.FlightScheduled, number, flight)
        while ahead and ahead[0] < announced:
            yield heapq.heappop(ahead)
        yield announced
        if flight.departure_delay is None:
            heapq.heappush(ahead, Happening(flight.scheduled, Kind.FlightCancelled, number, flight))
            continue
        departed = flight.scheduled + flight.departure_delay
        heapq.heappush(ahead, Happening(departed, Kind.FlightDeparted, number, flight))
        if flight.elapsed is not None:
            heapq.heappush(ahead, Happening(departed + flight.elapsed, Kind.FlightArrived, number, flight))
    while ahead:
        yield heapq.heappop(ahead)


def count_events(flights: Iterable[Flight]) -> int:
    """Return how many happenings `in_order` yields."""
    return sum(2 + (flight.elapsed is not None) for flight in flights)


def event_of(happening: Happening) -> Event:
    """Return the event that says so."""
    minute, kind, _, flight = happening
    at = clock(minute, flight.utc_offset)
    airport = flight.origin
    match kind:
        case Kind.FlightScheduled:
            data = {
                "at": at,
                "departs": clock(flight.scheduled, flight.utc_offset),
                "to": flight.destination,
                "miles": flight.distance,
            }
        case Kind.FlightCancelled:
            data = {"at": at, "to": flight.destination}
        case Kind.FlightDeparted:
            data = {"at": at, "delay": flight.departure_delay, "to": flight.destination}
        case Kind.FlightArrived:
            airport = flight.destination
            data = {"at": at, "delay": flight.arrival_delay, "from": flight.origin, "air_minutes": flight.air_minutes}
    tags = [f"flight:{flight.key}", f"carrier:{flight.carrier}", f"airport:{airport}"]
    if flight.aircraft:
        tags.append(f"aircraft:{flight.aircraft}")
    return Event.json(kind.name, data, tags=tags, event_id=_event_id(minute, kind, flight.key))


@lru_cache(maxsize=4096)
def clock(minute: int, utc_offset: int) -> str:
    """Return what New York's clocks show, with their distance from UTC."""
    zone = timezone(timedelta(hours=utc_offset))
    return datetime.fromtimestamp(minute * 60, zone).isoformat(timespec="minutes")


def _event_id(minute: int, kind: Kind, key: str) -> str:
    """Return a UUIDv7 whose time is that of the happening, and whose other bits are a hash of its name."""
    time = f"{minute * 60_000:012x}"
    name = sha1(f"{kind.name} {key}".encode(), usedforsecurity=False).hexdigest()
    return f"{time[:8]}-{time[8:]}-7{name[:3]}-8{name[3:6]}-{name[6:18]}"
