"""The flights: what is made of the csv, and the whole demo on some of them."""

import asyncio
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from pathlib import Path
from uuid import UUID

import kudurru
import pytest
from kudurru import Query, recorded

from examples.flights.check import count
from examples.flights.data import CACHE, Flight, fetch, read_flights, read_rows
from examples.flights.events import Kind, count_events, event_of, in_order
from examples.flights.year import Year
from tests.server_process import run_server

_DEMO = (sys.executable, "-m", "examples.flights")
_NOON = 22_617_660
"""2013-01-01, 12:00 in New York."""


def flight(number: int, scheduled: int = _NOON, delay: int | None = 0, elapsed: int | None = 120) -> Flight:
    key = f"UA{number}:2013-01-01:EWR"
    return Flight(key, scheduled, -5, "UA", "N14228", "EWR", "IAH", delay, elapsed, delay, elapsed, 1400)


@pytest.fixture(scope="module")
def archive() -> Path:
    return fetch()


@pytest.fixture(scope="module")
def flights(archive: Path) -> list[Flight]:
    return list(read_flights(archive))


def stores() -> set[Path]:
    return set(CACHE.glob("store-*"))


def test_happenings_come_in_order_however_the_flights_are_mixed() -> None:
    late, early, cancelled = flight(1, delay=300), flight(2, delay=-5), flight(3, _NOON + 60, None, None)
    happenings = list(in_order([cancelled, late, early]))
    assert [(happening.kind.name, happening.flight.key[:3]) for happening in happenings] == [
        ("FlightScheduled", "UA1"),
        ("FlightScheduled", "UA2"),
        ("FlightScheduled", "UA3"),
        ("FlightDeparted", "UA2"),
        ("FlightCancelled", "UA3"),
        ("FlightArrived", "UA2"),
        ("FlightDeparted", "UA1"),
        ("FlightArrived", "UA1"),
    ]
    assert count_events([late, early, cancelled]) == len(happenings)


def test_an_event_tells_where_and_when_on_new_yorks_clock() -> None:
    arrived = next(one for one in in_order([flight(1, delay=11)]) if one.kind is Kind.FlightArrived)
    event = event_of(arrived)
    assert event.tags == ("flight:UA1:2013-01-01:EWR", "carrier:UA", "airport:IAH", "aircraft:N14228")
    assert event.data == b'{"at":"2013-01-01T14:11-05:00","delay":11,"from":"EWR","air_minutes":120}'


def test_an_import_that_is_run_again_makes_the_same_ids() -> None:
    first, second = ([event_of(one).event_id for one in in_order([flight(1), flight(2)])] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)
    assert {UUID(event_id).version for event_id in first} == {7}


def test_a_state_survives_its_json() -> None:
    year = Year()
    for event in recorded(
        *(event_of(one) for one in in_order([flight(1), flight(2, delay=20), flight(3, delay=None)]))
    ):
        year.apply(event)
    assert Year.from_json(year.to_json()) == year
    assert year.carriers["UA"].departed_late == 1
    assert year.departures["EWR"] == {"2013-01-01": 2}


def test_every_flight_of_the_year_is_there_with_a_key_of_its_own(flights: list[Flight]) -> None:
    assert len({flight.key for flight in flights}) == len(flights) == 336_776
    assert Counter(flight.departure_delay is None for flight in flights)[True] == 8_255
    assert sum(flight.aircraft is None for flight in flights) == 2_512
    assert count_events(flights) == 1_001_615


def test_a_flight_takes_a_little_longer_from_gate_to_gate_than_in_the_air(flights: list[Flight]) -> None:
    on_the_ground = [
        flight.elapsed - flight.air_minutes
        for flight in flights
        if flight.elapsed is not None and flight.air_minutes is not None
    ]
    assert min(on_the_ground) > 0  # across time zones, summer time and midnight
    assert max(on_the_ground) < 4 * 60


def test_events_and_csv_lead_to_the_same_year(archive: Path, flights: list[Flight]) -> None:
    year = Year()
    for event in recorded(*map(event_of, in_order(flights[:20_000]))):
        year.apply(event)
    assert year == count(row for row, _ in zip(read_rows(archive), range(20_000), strict=False))


@pytest.mark.usefixtures("archive")
def test_the_demo_ends_by_itself_and_leaves_nothing_behind() -> None:
    before = stores()
    done = subprocess.run([*_DEMO, "--flights", "3000"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 flights, 8,975 events" in done.stdout
    assert "agrees with the csv" in done.stdout
    assert "CONDITION_FAILED" in done.stdout
    assert "19 are refused" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert stores() <= before


@pytest.mark.usefixtures("archive")
async def test_a_store_that_is_kept_can_be_served(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    arguments = [*_DEMO, "--flights", "300", "--keep", str(kept)]
    done = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, timeout=120)
    assert f"kudurru-server serve --data-dir {kept}" in done.stdout, done.stdout + done.stderr
    tag = done.stdout.rpartition("kudurru read --tag ")[2].strip()
    async with run_server(tmp_path / "server", data_dir=kept) as server, kudurru.connect(server.address) as store:
        events = await store.read(Query.of(tags=[tag])).to_list()
    assert all(tag in event.tags for event in events)
    assert "FlightDeparted" in {event.event_type for event in events}


@pytest.mark.usefixtures("archive")
async def test_a_signal_ends_the_demo_its_processes_and_its_store() -> None:
    before = stores()
    demo = await asyncio.create_subprocess_exec(*_DEMO, stdout=PIPE)
    assert demo.stdout is not None
    async with asyncio.timeout(60):
        while b"events recorded" not in (line := await demo.stdout.readline()):
            assert line, "it ended too early"
        (made,) = stores() - before
        demo.send_signal(signal.SIGTERM)
        output = await demo.stdout.read()
        assert await demo.wait() == 130
    assert output.endswith(b"stopped\n")
    assert not made.exists()
