"""The same year, counted from the rows of the csv: what the projector must arrive at, without events or a store."""

from collections.abc import Iterable
from datetime import date, timedelta

from examples.flights.year import LATE_MINUTES, Year


def count(rows: Iterable[dict[str, str]]) -> Year:
    """Return the state that belongs to these rows of flights.csv."""
    year = Year()
    for row in rows:
        carrier = year.carriers[row["carrier"]]
        carrier.flights += 1
        if row["dep_time"] == "NA":
            carrier.cancelled += 1
            continue
        delay = int(row["dep_delay"])
        carrier.departed += 1
        carrier.departure_delay += delay
        carrier.departed_late += delay > LATE_MINUTES
        year.departures[row["origin"]][_departure_day(row, delay)] += 1
        aircraft = year.aircraft[row["tailnum"]]
        aircraft.departures += 1
        if row["arr_delay"] != "NA":
            carrier.arrived += 1
            carrier.arrival_delay += int(row["arr_delay"])
            aircraft.air_minutes += int(row["air_time"])
    return year


def _departure_day(row: dict[str, str], delay: int) -> str:
    minutes = int(row["hour"]) * 60 + int(row["minute"]) + delay
    return str(date(int(row["year"]), int(row["month"]), int(row["day"])) + timedelta(days=minutes // (24 * 60)))
