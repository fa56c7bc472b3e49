"""What the demo says: tables and lines, for a terminal and for a pipe."""

from collections.abc import Iterable

from kudurru import Appended, RecordedEvent
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.flights.data import Names
from examples.flights.departure import Attempt
from examples.flights.year import LATE_MINUTES, Aircraft, Carrier, Year

_AIRCRAFT = 5


def fact(console: Console, name: str, text: str) -> None:
    """Say something about something."""
    console.print(f"  [cyan]{name:<10}[/]  {escape(text)}")


def heading(console: Console, text: str) -> None:
    """Begin something new."""
    console.print(f"\n[bold]{escape(text)}[/]")


def year(console: Console, folded: Year, names: Names) -> None:
    """Show what the projector made of the year."""
    heading(console, "Carriers, the most punctual first")
    table = _table("", "carrier", ">flights", ">cancelled", ">late", ">leaves", ">arrives")
    for code, carrier in sorted(folded.carriers.items(), key=_mean_arrival_delay):
        table.add_row(code, names.carriers.get(code, ""), *_carrier_cells(carrier))
    console.print(table)
    console.print(
        f"  late: left more than {LATE_MINUTES} minutes behind schedule; leaves, arrives: the mean delay", style="dim"
    )
    heading(console, "Aircraft, the longest in the air first")
    table = _table("", "model", ">departures", ">hours in the air")
    for tail, aircraft in sorted(folded.aircraft.items(), key=_most_hours)[:_AIRCRAFT]:
        hours = f"{aircraft.air_minutes / 60:,.0f}"
        table.add_row(tail, names.aircraft.get(tail, ""), f"{aircraft.departures:,}", hours)
    console.print(table)
    heading(console, "Airports, on their busiest day")
    table = _table("", "day", ">departures", ">in all")
    for airport, days in sorted(folded.departures.items()):
        day, departures = max(days.items(), key=lambda item: item[1])
        table.add_row(airport, day, f"{departures:,}", f"{sum(days.values()):,}")
    console.print(table)


def timeline(console: Console, events: Iterable[RecordedEvent]) -> None:
    """Show events one by one."""
    table = _table("New York time", "event", "flight", "", ">delay", ">position")
    for event in events:
        data = event.json()
        _, flight, _, origin = next(tag for tag in event.tags if tag.startswith("flight:")).split(":")
        way = f"from {origin}" if "from" in data else f"{origin} to {data['to']}"
        delay = "" if data.get("delay") is None else f"{data['delay']:+} min"
        table.add_row(data["at"][11:16], event.event_type, flight, way, delay, f"{event.position:,}")
    console.print(table)


def attempts(console: Console, made: Iterable[tuple[str, Attempt]]) -> None:
    """Show what became of commands."""
    table = _table("command", "outcome", "the store says", ">departed at position", ">took")
    for command, one in made:
        outcome = one.outcome
        verdict = (
            ("[green]accepted[/]", "", f"{outcome.last_position:,}")
            if isinstance(outcome, Appended)
            else ("[red]refused[/]", outcome.reason, f"{outcome.position:,}")
        )
        table.add_row(command, *verdict, f"{one.seconds * 1000:.1f} ms")
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 2))
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def _carrier_cells(carrier: Carrier) -> list[str]:
    departed, arrived = max(carrier.departed, 1), max(carrier.arrived, 1)
    return [
        f"{carrier.flights:,}",
        f"{carrier.cancelled / max(carrier.flights, 1):.1%}",
        f"{carrier.departed_late / departed:.1%}",
        f"{carrier.departure_delay / departed:+.1f} min",
        f"{carrier.arrival_delay / arrived:+.1f} min",
    ]


def _mean_arrival_delay(item: tuple[str, Carrier]) -> float:
    return item[1].arrival_delay / max(item[1].arrived, 1)


def _most_hours(item: tuple[str, Aircraft]) -> tuple[int, str]:
    return -item[1].air_minutes, item[0]
