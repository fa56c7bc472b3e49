"""What a projector makes of the year: delays per carrier, hours per aircraft, departures per airport and day."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from kudurru import RecordedEvent

LATE_MINUTES = 15
"""A departure later than this counts as late."""


@dataclass(slots=True)
class Carrier:
    """Sums over a carrier's flights; delays in minutes."""

    flights: int = 0
    cancelled: int = 0
    departed: int = 0
    departure_delay: int = 0
    departed_late: int = 0
    arrived: int = 0
    arrival_delay: int = 0


@dataclass(slots=True)
class Aircraft:
    """Sums over an aircraft's flights."""

    departures: int = 0
    air_minutes: int = 0


@dataclass(slots=True)
class Year:
    """A fold over all events: `apply` takes them one after the other."""

    carriers: defaultdict[str, Carrier] = field(default_factory=lambda: defaultdict(Carrier))
    aircraft: defaultdict[str, Aircraft] = field(default_factory=lambda: defaultdict(Aircraft))
    departures: defaultdict[str, defaultdict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )
    """By airport, and by day such as "2013-01-31"."""

    def apply(self, event: RecordedEvent) -> None:
        """Take the next event into account."""
        groups = dict(tag.split(":", 1) for tag in event.tags)
        carrier = self.carriers[groups["carrier"]]
        data: dict[str, Any] = event.json()
        match event.event_type:
            case "FlightScheduled":
                carrier.flights += 1
            case "FlightCancelled":
                carrier.cancelled += 1
            case "FlightDeparted":
                carrier.departed += 1
                carrier.departure_delay += data["delay"]
                carrier.departed_late += data["delay"] > LATE_MINUTES
                self.departures[groups["airport"]][data["at"][:10]] += 1
                self.aircraft[groups["aircraft"]].departures += 1
            case "FlightArrived":
                if data["delay"] is not None:  # it arrived where it was meant to
                    carrier.arrived += 1
                    carrier.arrival_delay += data["delay"]
                self.aircraft[groups["aircraft"]].air_minutes += data["air_minutes"] or 0

    def to_json(self) -> str:
        """Return the state as one line."""
        parts = {"carriers": self.carriers, "aircraft": self.aircraft, "departures": self.departures}
        return json.dumps(parts, default=asdict)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Year":
        """Return the state that `to_json` wrote."""
        state = json.loads(text)
        year = cls()
        year.carriers.update({code: Carrier(**sums) for code, sums in state["carriers"].items()})
        year.aircraft.update({tail: Aircraft(**sums) for tail, sums in state["aircraft"].items()})
        for airport, days in state["departures"].items():
            year.departures[airport].update(days)
        return year
