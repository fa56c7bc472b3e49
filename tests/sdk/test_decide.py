"""Decisions, as their users would test them, and what happens when somebody else decides at the same time."""

import asyncio
from functools import partial

import kudurru
import pytest
from kudurru import Event, EventStore, Query, RecordedEvent, recorded

from .fake_server import FakeServer

COURSE = Query.of(tags=["course:c1"])


class CourseFullError(Exception):
    """Nobody else can enrol."""


def course_defined(seats: int) -> Event:
    """Make an event."""
    return Event.json("CourseDefined", {"seats": seats}, tags=["course:c1"])


def enrolled(student: str) -> Event:
    """Make an event."""
    return Event("Enrolled", tags=["course:c1", f"student:{student}"])


def enrol(student: str, history: list[RecordedEvent]) -> Event | None:
    """Decide whether a student gets a seat."""
    seats = sum(event.json()["seats"] for event in history if event.event_type == "CourseDefined")
    taken = [event for event in history if event.event_type == "Enrolled"]
    if any(f"student:{student}" in event.tags for event in taken):
        return None
    if len(taken) >= seats:
        raise CourseFullError
    return enrolled(student)


def test_a_seat_is_taken() -> None:
    given = recorded(course_defined(seats=2), enrolled("ada"))
    when = enrol("grace", given)
    assert when == enrolled("grace")


def test_nobody_enrols_twice() -> None:
    assert enrol("ada", recorded(course_defined(seats=2), enrolled("ada"))) is None


def test_a_full_course_takes_nobody() -> None:
    with pytest.raises(CourseFullError):
        enrol("grace", recorded(course_defined(seats=1), enrolled("ada")))


async def test_a_decision_is_recorded(server: FakeServer, store: EventStore) -> None:
    server.record(course_defined(seats=1))
    appended = await store.decide(COURSE, partial(enrol, "ada"))
    assert appended is not None
    assert appended.last_position == 2
    assert server.recorded[-1].event.tags == ["course:c1", "student:ada"]


async def test_seats_are_never_sold_twice(server: FakeServer, store: EventStore) -> None:
    server.record(course_defined(seats=3))
    outcomes = await asyncio.gather(
        *(store.decide(COURSE, partial(enrol, str(n)), attempts=50) for n in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, kudurru.Appended) for one in outcomes) == 3
    assert sum(isinstance(one, CourseFullError) for one in outcomes) == 7
    assert len(server.recorded) == 4


async def test_deciding_for_nothing_records_nothing(server: FakeServer, store: EventStore) -> None:
    server.record(course_defined(seats=2), enrolled("ada"))
    assert await store.decide(COURSE, partial(enrol, "ada")) is None
    assert len(server.recorded) == 2


async def test_what_the_decision_raises_comes_through(server: FakeServer, store: EventStore) -> None:
    with pytest.raises(CourseFullError):
        await store.decide(COURSE, partial(enrol, "ada"))
    assert server.recorded == []


async def test_a_decision_may_be_a_coroutine_over_a_folded_state(server: FakeServer, store: EventStore) -> None:
    server.record(course_defined(seats=2), enrolled("ada"), Event("Elsewhere"))

    def tagged(students: set[str], event: RecordedEvent) -> set[str]:
        students.update(tag for tag in event.tags if tag.startswith("student:"))
        return students

    async def enrol_others(students: set[str]) -> list[Event]:
        return [enrolled(name) for name in ("ada", "grace", "mary") if f"student:{name}" not in students]

    initial: set[str] = set()
    appended = await store.decide(COURSE, enrol_others, fold=tagged, initial=initial)
    assert appended is not None
    assert len(appended.event_ids) == 2
    assert initial == set()


async def test_a_change_after_the_read_makes_it_decide_again(server: FakeServer, store: EventStore) -> None:
    server.record(course_defined(seats=2))
    lengths: list[int] = []

    def decide(history: list[RecordedEvent]) -> Event:
        lengths.append(len(history))
        if len(lengths) == 1:
            server.record(enrolled("ada"), Event("Elsewhere"))
        return enrolled("grace")

    await store.decide(COURSE, decide)
    assert lengths == [1, 2]
    assert server.reads[1].at_least == server.recorded[1].sortable_unique_id


async def test_a_change_that_does_not_matter_is_no_conflict(server: FakeServer, store: EventStore) -> None:
    def decide(_: list[RecordedEvent]) -> Event:
        server.record(Event("Elsewhere", tags=["course:c2"]))
        return enrolled("grace")

    assert await store.decide(COURSE, decide, attempts=1) is not None


async def test_conflicts_without_end_are_raised(server: FakeServer, store: EventStore) -> None:
    def decide(_: list[RecordedEvent]) -> Event:
        server.record(enrolled("somebody"))
        return enrolled("grace")

    with pytest.raises(kudurru.ConditionFailedError):
        await store.decide(COURSE, decide, attempts=3)
    assert len(server.reads) == 3
