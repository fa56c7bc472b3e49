"""The demo: a year of flights is recorded and followed, checked, read back, and guarded against a second departure."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice

import kudurru
from kudurru import Appended, Event, EventStore, Query
from rich.console import Console

from examples.flights import check, show
from examples.flights.data import Flight, fetch, read_flights, read_names, read_rows
from examples.flights.departure import depart, race
from examples.flights.events import count_events, event_of, in_order
from examples.flights.importer import EVENTS_PER_APPEND, append_in_order
from examples.flights.processes import projecting, serving
from examples.flights.progress import showing
from examples.flights.stores import Store
from examples.flights.year import Year

_AGENTS = 20
_LARGE_BYTES = 1_000_000


class DisagreementError(Exception):
    """The projector's year is not that of the csv."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What the import and the projector came to.

    Attributes:
        year: The projector's state behind the last event.
        events: How many were recorded.
        recorded_seconds: From the first append to the last acknowledgement.
        folded_seconds: From the first append until the projector told that the last event was folded.
    """

    year: Year
    events: int
    recorded_seconds: float
    folded_seconds: float


async def run(console: Console, where: Store, limit: int | None) -> str:
    """Run the whole demo.

    Args:
        console: Where it shows.
        where: The store of the server, which is empty.
        limit: Only so many flights; all of them if None.

    Returns:
        A tag worth reading.

    Raises:
        DisagreementError: The projector's year is not that of the csv.
    """
    many = "a year of flights" if limit is None else f"{limit:,} flights"
    console.print(f"[bold]Kudurru[/]: {many} from New York, through an event store\n")
    with console.status("fetching and reading the flights"):
        archive = await asyncio.to_thread(fetch)
        flights = await asyncio.to_thread(lambda: list(islice(read_flights(archive), limit)))
        names = read_names(archive)
    show.fact(console, "data", f"{len(flights):,} flights of 2013, from {archive.name}")
    for name, text in where.notes:
        show.fact(console, name, text)
    async with serving(where) as target, kudurru.connect(target) as store:
        show.fact(console, "server", f"a process that listens on {target}, with {where.title}")
        show.fact(console, "projector", "another process, subscribed to everything before the first event\n")
        streamed = await _stream(console, target, store, flights)
        expected = await asyncio.to_thread(lambda: check.count(islice(read_rows(archive), limit)))
        if streamed.year != expected:
            raise DisagreementError("what the projector folded is not what the csv says")
        show.year(console, streamed.year, names)
        tag = await _tell_a_day(console, store, streamed.year)
        await _depart_twice(console, target, store, flights)
        repeated = await _repeat(store, flights)
        if where.folder is None:
            await _keep_large(console, store)
    _summarize(console, len(flights), streamed, repeated, where)
    return tag


async def _stream(console: Console, target: str, store: EventStore, flights: list[Flight]) -> Streamed:
    """Import the flights while a projector follows."""
    with showing(console, count_events(flights)) as progress:

        def recorded(batch: list[Event]) -> None:
            progress.recorded(len(batch), json.loads(batch[-1].data)["at"][:10])

        async with projecting(target, progress.folded) as projector:
            started = time.perf_counter()
            await append_in_order(store, map(event_of, in_order(flights)), recorded)
            recorded_seconds = time.perf_counter() - started
            head = await store.head()
            await projector.reached(head.position)
            folded_seconds = time.perf_counter() - started
            return Streamed(await projector.state(), head.position, recorded_seconds, folded_seconds)


async def _tell_a_day(console: Console, store: EventStore, year: Year) -> str:
    """Read all that happened to the aircraft that departed most often, and tell its fullest day."""
    aircraft = max(year.aircraft, key=lambda tail: year.aircraft[tail].departures)
    tag = f"aircraft:{aircraft}"
    started = time.perf_counter()
    events = await store.read(Query.of(types=["FlightDeparted", "FlightArrived"], tags=[tag])).to_list()
    seconds = time.perf_counter() - started
    days = Counter(event.json()["at"][:10] for event in events)
    day, _ = days.most_common(1)[0]
    show.heading(console, f"A day of one aircraft: {tag} on {day}")
    show.timeline(console, [event for event in events if event.json()["at"].startswith(day)])
    console.print(f"  all its {len(events):,} events were read by tag in {seconds * 1000:.0f} ms")
    return tag


async def _depart_twice(console: Console, target: str, store: EventStore, flights: list[Flight]) -> None:
    """Press the button for a new flight twice, for an old one once, and for another new one by many at a time."""
    old = next(flight for flight in flights if flight.aircraft and flight.departure_delay is not None)
    aircraft = old.aircraft or ""
    number, day, origin = old.key.split(":")
    new, contested = f"{number}:2014-01-01:{origin}", f"{number}:2014-01-02:{origin}"
    show.heading(console, "An aircraft cannot depart twice for the same flight")
    console.print("  condition of the append: no FlightDeparted has the tag of this flight", style="dim")
    attempts = [
        (f"depart {number} of 2014-01-01", await depart(store, new, aircraft)),
        ("the same once more", await depart(store, new, aircraft)),
        (f"depart {number} of {day}", await depart(store, old.key, aircraft)),
    ]
    show.attempts(console, attempts)
    outcomes = [made.outcome for made in await race(target, contested, aircraft, _AGENTS)]
    winners = [agent for agent, outcome in enumerate(outcomes, 1) if isinstance(outcome, Appended)]
    if len(winners) != 1:
        raise DisagreementError(f"{len(winners)} of {_AGENTS} agents departed {contested}")
    console.print(
        f"  {_AGENTS} gate agents press the button for {number} of 2014-01-02 at once: "
        f"[green]agent {winners[0]} departs[/], [red]{_AGENTS - 1} are refused[/]"
    )


async def _keep_large(console: Console, store: EventStore) -> None:
    """Record a payload that is too large for an item of DynamoDB, and read it back."""
    data = b"manifest " * (_LARGE_BYTES // 9)
    event = Event("ManifestFiled", data, tags=["manifest:1"])
    await store.append([event])
    (found,) = await store.read(Query.of(tags=["manifest:1"])).to_list()
    if found.data != data:
        raise DisagreementError("the payload that was read is not the one that was recorded")
    show.heading(console, "A payload that is too large for an item of DynamoDB")
    console.print(f"  {len(data):,} bytes were recorded and read back: they lie in the bucket, under their hash")


async def _repeat(store: EventStore, flights: list[Flight]) -> int:
    """Append the first events of the import again, and return how many; the store knows them by their ids."""
    events = [event_of(happening) for happening in islice(in_order(flights), EVENTS_PER_APPEND)]
    if not (await store.append(events)).already_committed:
        raise DisagreementError("the import was recorded twice")
    return len(events)


def _summarize(console: Console, flights: int, streamed: Streamed, repeated: int, where: Store) -> None:
    events, year = streamed.events, streamed.year
    behind = streamed.folded_seconds - streamed.recorded_seconds
    show.heading(console, f"{flights:,} flights, {events:,} events")
    show.fact(
        console,
        "recorded",
        f"in {streamed.recorded_seconds:.1f} s, {events / streamed.recorded_seconds:,.0f} events/s, " + where.recorded,
    )
    show.fact(
        console,
        "folded",
        f"in {streamed.folded_seconds:.1f} s, {events / streamed.folded_seconds:,.0f} events/s, "
        f"the last one {behind * 1000:,.0f} ms after it was recorded",
    )
    show.fact(console, "stored", where.stored(events))
    show.fact(
        console,
        "checked",
        f"the fold of {len(year.carriers)} carriers and {len(year.aircraft):,} aircraft agrees with the csv",
    )
    show.fact(console, "repeated", f"the first {repeated:,} events were appended again, and are recorded once")
