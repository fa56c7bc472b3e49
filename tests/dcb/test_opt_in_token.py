"""Opt-in token: whoever signs up confirms the address with a token, once, and before it expires.

The log keeps a digest of the token: whoever can read the log cannot confirm.
"""

from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256

from kudurru import Event, EventStore, Query, RecordedEvent

from tests.dcb.scenario import Given, RefusedError

LIFETIME = timedelta(hours=24)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


class TokenUnknownError(RefusedError):
    """No such token was made, or not for this address."""


class TokenUsedError(RefusedError):
    """The address is confirmed with this token."""


class TokenExpiredError(RefusedError):
    """The token came too late."""


def sign_up_started(address: str, token: str, *, at: datetime = NOON) -> Event:
    """State that somebody signed up and was sent a token."""
    return Event.json(
        "SignUpStarted",
        {"address": address, "expires_at": (at + LIFETIME).isoformat()},
        tags=[f"address:{address}", token_tag(token)],
    )


def sign_up_confirmed(address: str, token: str) -> Event:
    """State that an address is confirmed."""
    return Event.json("SignUpConfirmed", {"address": address}, tags=[f"address:{address}", token_tag(token)])


def token_tag(token: str) -> str:
    """Return the tag of a token."""
    return f"token:{sha256(token.encode()).hexdigest()}"


async def sign_up(store: EventStore, address: str, token: str, *, now: datetime = NOON) -> None:
    """Remember the token that is being sent to an address."""
    await store.append(sign_up_started(address, token, at=now))


async def confirm(store: EventStore, address: str, token: str, *, now: datetime = NOON) -> None:
    """Confirm an address with the token that was sent to it."""

    def decide(history: list[RecordedEvent]) -> Event:
        if not history:
            raise TokenUnknownError
        started, *confirmed = history
        if confirmed:
            raise TokenUsedError
        if now >= datetime.fromisoformat(started.json()["expires_at"]):
            raise TokenExpiredError
        return sign_up_confirmed(address, token)

    await store.decide(Query.of(tags=[f"address:{address}", token_tag(token)]), decide)


async def test_a_sign_up_waits_for_its_token(given: Given) -> None:
    await given().when(sign_up, "ada@example.org", "1234").then(sign_up_started("ada@example.org", "1234"))


async def test_a_token_confirms_its_address(given: Given) -> None:
    await (
        given(sign_up_started("ada@example.org", "1234"))
        .when(confirm, "ada@example.org", "1234")
        .then(sign_up_confirmed("ada@example.org", "1234"))
    )


async def test_a_token_confirms_once(given: Given) -> None:
    await (
        given(sign_up_started("ada@example.org", "1234"), sign_up_confirmed("ada@example.org", "1234"))
        .when(confirm, "ada@example.org", "1234")
        .then_refused(TokenUsedError)
    )


async def test_a_token_that_was_never_made_confirms_nothing(given: Given) -> None:
    await (
        given(sign_up_started("ada@example.org", "1234"))
        .when(confirm, "ada@example.org", "4321")
        .then_refused(TokenUnknownError)
    )


async def test_a_token_confirms_no_other_address(given: Given) -> None:
    await (
        given(sign_up_started("ada@example.org", "1234"), sign_up_started("bob@example.org", "4321"))
        .when(confirm, "bob@example.org", "1234")
        .then_refused(TokenUnknownError)
    )


async def test_the_same_token_for_two_addresses_confirms_each(given: Given) -> None:
    await (
        given(
            sign_up_started("ada@example.org", "1234"),
            sign_up_confirmed("ada@example.org", "1234"),
            sign_up_started("bob@example.org", "1234"),
        )
        .when(confirm, "bob@example.org", "1234")
        .then(sign_up_confirmed("bob@example.org", "1234"))
    )


async def test_a_token_confirms_until_it_expires(given: Given) -> None:
    await (
        given(sign_up_started("ada@example.org", "1234", at=NOON))
        .when(confirm, "ada@example.org", "1234", now=NOON + LIFETIME - MOMENT)
        .then(sign_up_confirmed("ada@example.org", "1234"))
    )


async def test_an_expired_token_confirms_nothing(given: Given) -> None:
    await (
        given(sign_up_started("ada@example.org", "1234", at=NOON))
        .when(confirm, "ada@example.org", "1234", now=NOON + LIFETIME)
        .then_refused(TokenExpiredError)
    )


async def test_a_new_token_confirms_after_the_old_one_expired(given: Given) -> None:
    await (
        given(
            sign_up_started("ada@example.org", "1234", at=NOON - LIFETIME),
            sign_up_started("ada@example.org", "5678", at=NOON),
        )
        .when(confirm, "ada@example.org", "5678")
        .then(sign_up_confirmed("ada@example.org", "5678"))
    )


async def test_a_link_that_is_followed_many_times_at_once_confirms_once(given: Given) -> None:
    confirmed = await (
        given(sign_up_started("ada@example.org", "1234"))
        .when_racing(*[partial(confirm, address="ada@example.org", token="1234")] * 10)  # noqa: S106 - of an example
        .then_one_wins(others=TokenUsedError)
    )
    assert confirmed == sign_up_confirmed("ada@example.org", "1234")
