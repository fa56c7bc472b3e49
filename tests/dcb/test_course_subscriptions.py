"""Course subscriptions: a course has so many seats, a student so many courses, and one decision keeps to both."""

from dataclasses import dataclass, replace
from functools import partial

from kudurru import Event, EventStore, Query, RecordedEvent

from tests.dcb.scenario import Given, RefusedError

MOST_COURSES = 5


class CourseExistsError(RefusedError):
    """The course is defined already."""


class CourseUnknownError(RefusedError):
    """Nobody has defined the course."""


class CourseFullError(RefusedError):
    """Every seat is taken."""


class AlreadySubscribedError(RefusedError):
    """The student has a seat in this course."""


class TooManyCoursesError(RefusedError):
    """The student takes as many courses as one may."""


def course_defined(course: str, *, seats: int) -> Event:
    """State that a course is on offer."""
    return Event.json("CourseDefined", {"seats": seats}, tags=[f"course:{course}"])


def seats_changed(course: str, *, seats: int) -> Event:
    """State how many seats a course has from now on."""
    return Event.json("SeatsChanged", {"seats": seats}, tags=[f"course:{course}"])


def student_subscribed(student: str, course: str) -> Event:
    """State that a student has a seat in a course."""
    return Event("StudentSubscribed", tags=[f"student:{student}", f"course:{course}"])


def seats_of(course: str) -> Query:
    """Return the query for what tells the seats of a course."""
    return Query.of(types=["CourseDefined", "SeatsChanged"], tags=[f"course:{course}"])


def subscriptions_with(tag: str) -> Query:
    """Return the query for the subscriptions of a student or to a course."""
    return Query.of(types=["StudentSubscribed"], tags=[tag])


@dataclass(frozen=True, slots=True)
class Subscribing:
    """A student and a course, as far as they matter to a subscription."""

    student: str
    course: str
    seats: int | None = None
    seats_taken: int = 0
    courses_taken: int = 0
    subscribed: bool = False

    def after(self, event: RecordedEvent) -> "Subscribing":
        """Return the state after one more event."""
        if event.event_type != "StudentSubscribed":
            return replace(self, seats=event.json()["seats"])
        in_this_course = f"course:{self.course}" in event.tags
        of_this_student = f"student:{self.student}" in event.tags
        return replace(
            self,
            seats_taken=self.seats_taken + in_this_course,
            courses_taken=self.courses_taken + of_this_student,
            subscribed=self.subscribed or (in_this_course and of_this_student),
        )

    def decide(self) -> Event:
        """Subscribe the student, or say why not."""
        if self.seats is None:
            raise CourseUnknownError
        if self.subscribed:
            raise AlreadySubscribedError
        if self.seats_taken >= self.seats:
            raise CourseFullError
        if self.courses_taken >= MOST_COURSES:
            raise TooManyCoursesError
        return student_subscribed(self.student, self.course)


async def define_course(store: EventStore, course: str, *, seats: int) -> None:
    """Offer a course."""

    def decide(history: list[RecordedEvent]) -> Event:
        if history:
            raise CourseExistsError
        return course_defined(course, seats=seats)

    await store.decide(seats_of(course), decide)


async def change_seats(store: EventStore, course: str, *, seats: int) -> None:
    """Change how many seats a course has; whoever has a seat keeps it."""

    def decide(history: list[RecordedEvent]) -> Event | None:
        if not history:
            raise CourseUnknownError
        if history[-1].json()["seats"] == seats:
            return None
        return seats_changed(course, seats=seats)

    await store.decide(seats_of(course), decide)


async def subscribe(store: EventStore, student: str, course: str) -> None:
    """Give a student a seat."""
    await store.decide(
        seats_of(course) | subscriptions_with(f"course:{course}") | subscriptions_with(f"student:{student}"),
        Subscribing.decide,
        fold=Subscribing.after,
        initial=Subscribing(student, course),
    )


async def test_a_course_is_defined(given: Given) -> None:
    await given().when(define_course, "c1", seats=10).then(course_defined("c1", seats=10))


async def test_a_course_is_defined_once(given: Given) -> None:
    await given(course_defined("c1", seats=10)).when(define_course, "c1", seats=20).then_refused(CourseExistsError)


async def test_another_course_may_be_defined(given: Given) -> None:
    await given(course_defined("c1", seats=10)).when(define_course, "c2", seats=20).then(course_defined("c2", seats=20))


async def test_seats_are_changed(given: Given) -> None:
    await given(course_defined("c1", seats=10)).when(change_seats, "c1", seats=9).then(seats_changed("c1", seats=9))


async def test_the_same_number_of_seats_is_no_change(given: Given) -> None:
    await given(course_defined("c1", seats=10)).when(change_seats, "c1", seats=10).then_nothing()


async def test_an_unknown_course_has_no_seats_to_change(given: Given) -> None:
    await given(course_defined("c1", seats=10)).when(change_seats, "c2", seats=9).then_refused(CourseUnknownError)


async def test_a_student_gets_a_seat(given: Given) -> None:
    await (
        given(course_defined("c1", seats=2), student_subscribed("s1", "c1"))
        .when(subscribe, "s2", "c1")
        .then(student_subscribed("s2", "c1"))
    )


async def test_an_unknown_course_has_no_seats(given: Given) -> None:
    await given(course_defined("c1", seats=2)).when(subscribe, "s1", "c2").then_refused(CourseUnknownError)


async def test_a_student_gets_one_seat_in_a_course(given: Given) -> None:
    await (
        given(course_defined("c1", seats=2), student_subscribed("s1", "c1"))
        .when(subscribe, "s1", "c1")
        .then_refused(AlreadySubscribedError)
    )


async def test_a_full_course_takes_nobody(given: Given) -> None:
    await (
        given(course_defined("c1", seats=1), student_subscribed("s1", "c1"))
        .when(subscribe, "s2", "c1")
        .then_refused(CourseFullError)
    )


async def test_more_seats_let_more_students_in(given: Given) -> None:
    await (
        given(course_defined("c1", seats=1), student_subscribed("s1", "c1"), seats_changed("c1", seats=2))
        .when(subscribe, "s2", "c1")
        .then(student_subscribed("s2", "c1"))
    )


async def test_fewer_seats_keep_students_out(given: Given) -> None:
    await (
        given(course_defined("c1", seats=3), student_subscribed("s1", "c1"), seats_changed("c1", seats=1))
        .when(subscribe, "s2", "c1")
        .then_refused(CourseFullError)
    )


async def test_a_full_course_does_not_fill_another(given: Given) -> None:
    await (
        given(course_defined("c1", seats=1), course_defined("c2", seats=1), student_subscribed("s1", "c1"))
        .when(subscribe, "s2", "c2")
        .then(student_subscribed("s2", "c2"))
    )


async def test_a_student_takes_a_fifth_course(given: Given) -> None:
    courses = [f"c{n}" for n in range(1, 6)]
    await (
        given(
            *(course_defined(course, seats=9) for course in courses),
            *(student_subscribed("s1", course) for course in courses[:4]),
        )
        .when(subscribe, "s1", "c5")
        .then(student_subscribed("s1", "c5"))
    )


async def test_a_student_takes_no_sixth_course(given: Given) -> None:
    courses = [f"c{n}" for n in range(1, 7)]
    await (
        given(
            *(course_defined(course, seats=9) for course in courses),
            *(student_subscribed("s1", course) for course in courses[:5]),
        )
        .when(subscribe, "s1", "c6")
        .then_refused(TooManyCoursesError)
    )


async def test_one_of_many_racers_gets_the_last_seat(given: Given) -> None:
    subscribed = await (
        given(course_defined("c1", seats=2), student_subscribed("s0", "c1"))
        .when_racing(*(partial(subscribe, student=f"s{n}", course="c1") for n in range(1, 21)))
        .then_one_wins(others=CourseFullError)
    )
    assert subscribed in [student_subscribed(f"s{n}", "c1") for n in range(1, 21)]


async def test_a_student_who_races_through_courses_gets_a_fifth_and_no_sixth(given: Given) -> None:
    courses = [f"c{n}" for n in range(1, 13)]
    await (
        given(
            *(course_defined(course, seats=9) for course in courses),
            *(student_subscribed("s1", course) for course in courses[:4]),
        )
        .when_racing(*(partial(subscribe, student="s1", course=course) for course in courses[4:]))
        .then_one_wins(others=TooManyCoursesError)
    )


async def test_racers_who_share_neither_course_nor_student_do_not_meet(given: Given) -> None:
    result = await (
        given(*(course_defined(f"c{n}", seats=1) for n in range(10)))
        .when_racing(*(partial(subscribe, student=f"s{n}", course=f"c{n}") for n in range(10)))
        .then_all_win()
    )
    assert len(result.recorded) == 10
    assert result.conflicts == 0


async def test_a_seat_taken_away_and_a_seat_taken_are_decided_one_after_the_other(given: Given) -> None:
    result = await (
        given(course_defined("c1", seats=1))
        .when_racing(partial(change_seats, course="c1", seats=0), partial(subscribe, student="s1", course="c1"))
        .result()
    )
    no_seat, seat = seats_changed("c1", seats=0), student_subscribed("s1", "c1")
    assert result.recorded in ([no_seat], [seat, no_seat])
    assert len(result.recorded) + len(result.refusals) == 2
