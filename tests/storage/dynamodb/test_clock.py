"""The node's time follows DynamoDB's, within what a header of whole seconds can tell."""

from email.utils import formatdate

import pytest
from kudurru_server.model import TICKS_PER_SECOND, UNIX_EPOCH_TICKS
from kudurru_server.storage.dynamodb.clock import ServerClock
from structlog.testing import capture_logs

SECOND = 1_000_000_000
START = 1_700_000_000


class Hands:
    """A monotonic clock and a wall clock that move when told to."""

    def __init__(self, wall_seconds: float = START) -> None:
        self.monotonic = 5 * SECOND
        self.ahead = START * SECOND + round((wall_seconds - START) * SECOND) - self.monotonic
        self.clock = ServerClock(lambda: self.monotonic, lambda: self.monotonic + self.ahead)

    def passes(self, seconds: float) -> None:
        self.monotonic += int(seconds * SECOND)

    def hears(self, header: str | None, round_trip: float = 0.0) -> None:
        self.clock.observe(header, self.monotonic - int(round_trip * SECOND), self.monotonic)

    @property
    def seconds(self) -> float:
        return START + (self.clock.now_ticks() - UNIX_EPOCH_TICKS - START * TICKS_PER_SECOND) / TICKS_PER_SECOND


def header(seconds: float) -> str:
    return formatdate(int(seconds), usegmt=True)


def test_before_an_answer_the_wall_clock_tells_the_time() -> None:
    assert Hands(START + 0.25).seconds == START + 0.25


def test_time_goes_on_between_answers_whatever_the_wall_clock_does() -> None:
    hands = Hands()
    hands.hears(header(START))
    hands.ahead += 3600 * SECOND
    hands.passes(1.5)
    assert hands.seconds == START + 1.5


def test_an_answer_of_the_same_second_changes_nothing() -> None:
    hands = Hands(START + 0.75)
    hands.hears(header(START))
    assert hands.seconds == START + 0.75


@pytest.mark.parametrize(("wall", "told"), [(START + 10.0, START + 1.0), (START - 10.0, START)])
def test_a_wrong_time_moves_to_the_nearest_that_fits(wall: float, told: float) -> None:
    hands = Hands(wall)
    hands.hears(header(START))
    assert hands.seconds == told


def test_a_round_trip_widens_what_fits() -> None:
    hands = Hands(START + 1.3)
    hands.hears(header(START), round_trip=0.4)
    assert hands.seconds == START + 1.3
    hands.hears(header(START), round_trip=0.2)
    assert hands.seconds == START + 1.2


def test_repeated_answers_find_where_the_second_begins() -> None:
    hands = Hands(START - 10.0)
    server_ahead = START + 0.6 - hands.monotonic / SECOND
    for _ in range(20):
        hands.passes(0.11)
        hands.hears(header(hands.monotonic / SECOND + server_ahead))
    assert hands.seconds == pytest.approx(hands.monotonic / SECOND + server_ahead, abs=0.11)


@pytest.mark.parametrize("useless", [None, "", "yesterday", "Mon, 99 Foo 2023 00:00:00 GMT"])
def test_a_header_that_cannot_be_read_is_ignored(useless: str | None) -> None:
    hands = Hands(START + 10.0)
    hands.hears(useless)
    assert hands.seconds == START + 10.0


def test_a_slow_answer_is_ignored() -> None:
    hands = Hands(START + 10.0)
    hands.hears(header(START), round_trip=0.5)
    assert hands.seconds == START + 10.0


def test_a_wall_clock_that_is_wrong_is_reported_once() -> None:
    hands = Hands(START + 10.0)
    with capture_logs() as logs:
        hands.hears(header(START))
        hands.hears(header(START))
    assert logs == [{"event": "wall_clock_is_wrong", "log_level": "warning", "ahead_seconds": 9.0}]


def test_a_wall_clock_that_is_a_little_off_is_not_reported() -> None:
    hands = Hands(START + 2.9)
    with capture_logs() as logs:
        hands.hears(header(START))
    assert logs == []
