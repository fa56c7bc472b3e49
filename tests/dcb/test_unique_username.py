"""Unique username: a name belongs to one account, and stays reserved for a while after that account gives it up."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from kudurru import Event, EventStore, Query, RecordedEvent

from tests.dcb.scenario import Given, RefusedError

RETENTION = timedelta(days=30)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


class UsernameTakenError(RefusedError):
    """Another account has the name, or had it until a short while ago."""


class NoAccountError(RefusedError):
    """The account is closed, or never was."""


class AccountExistsError(RefusedError):
    """The account is, or was, there already."""


def account_opened(account: str, name: str) -> Event:
    """State that an account begins, under a name."""
    return Event.json("AccountOpened", {"account": account, "name": name}, tags=[account_tag(account), name_tag(name)])


def username_changed(account: str, old: str, new: str, at: datetime = NOON) -> Event:
    """State that an account goes by a new name and has given up the old one."""
    return Event.json(
        "UsernameChanged",
        {"account": account, "old": old, "name": new, "at": at.isoformat()},
        tags=[account_tag(account), *sorted({name_tag(old), name_tag(new)})],
    )


def account_closed(account: str, name: str, at: datetime = NOON) -> Event:
    """State that an account has ended and given up its name."""
    return Event.json(
        "AccountClosed",
        {"account": account, "old": name, "at": at.isoformat()},
        tags=[account_tag(account), name_tag(name)],
    )


def account_tag(account: str) -> str:
    """Return the tag of an account."""
    return f"account:{account}"


def name_tag(name: str) -> str:
    """Return the tag of a name; names that differ in case only are the same."""
    return f"username:{name.casefold()}"


def same(name: str, other: str | None) -> bool:
    """Tell whether two names are the same."""
    return other is not None and name.casefold() == other.casefold()


@dataclass(frozen=True, slots=True)
class Naming:
    """An account and the name it wants.

    Attributes:
        account: The account.
        wanted: The name.
        name: The name the account has now.
        closed: The account has ended.
        holder: The account that has the wanted name, or the last one that had it.
        given_up_at: When the holder gave it up, if it did.
    """

    account: str
    wanted: str = ""
    name: str | None = None
    closed: bool = False
    holder: str | None = None
    given_up_at: datetime | None = None

    def after(self, event: RecordedEvent) -> "Naming":
        """Return the state after one more event."""
        state, fact = self, event.json()
        if same(self.wanted, fact.get("old")):
            state = replace(state, given_up_at=datetime.fromisoformat(fact["at"]))
        if same(self.wanted, fact.get("name")):
            state = replace(state, holder=fact["account"], given_up_at=None)
        if fact["account"] == self.account:
            state = replace(state, name=fact.get("name"), closed=event.event_type == "AccountClosed")
        return state

    def require_free(self, now: datetime) -> None:
        """Refuse a name that belongs, or is kept, to somebody else."""
        kept = self.given_up_at is None or now < self.given_up_at + RETENTION
        if self.holder not in (None, self.account) and kept:
            raise UsernameTakenError


def naming(account: str, wanted: str) -> Query:
    """Return the query for all that matters when an account wants a name."""
    return Query.of(tags=[account_tag(account)]) | Query.of(tags=[name_tag(wanted)])


async def open_account(store: EventStore, account: str, name: str, *, now: datetime = NOON) -> None:
    """Begin an account under a name."""

    def decide(state: Naming) -> Event:
        if state.name or state.closed:
            raise AccountExistsError
        state.require_free(now)
        return account_opened(account, name)

    await store.decide(naming(account, name), decide, fold=Naming.after, initial=Naming(account, name))


async def change_username(store: EventStore, account: str, new: str, *, now: datetime = NOON) -> None:
    """Give an account another name."""

    def decide(state: Naming) -> Event | None:
        if state.name is None:
            raise NoAccountError
        if state.name == new:
            return None
        state.require_free(now)
        return username_changed(account, state.name, new, now)

    await store.decide(naming(account, new), decide, fold=Naming.after, initial=Naming(account, new))


async def close_account(store: EventStore, account: str, *, now: datetime = NOON) -> None:
    """End an account."""

    def decide(state: Naming) -> Event:
        if state.name is None:
            raise NoAccountError
        return account_closed(account, state.name, now)

    await store.decide(Query.of(tags=[account_tag(account)]), decide, fold=Naming.after, initial=Naming(account))


async def test_a_free_name_is_claimed(given: Given) -> None:
    await given().when(open_account, "a1", "ada").then(account_opened("a1", "ada"))


async def test_a_claimed_name_is_taken(given: Given) -> None:
    await given(account_opened("a1", "ada")).when(open_account, "a2", "ada").then_refused(UsernameTakenError)


async def test_a_name_in_other_letters_is_the_same_name(given: Given) -> None:
    await given(account_opened("a1", "ada")).when(open_account, "a2", "Ada").then_refused(UsernameTakenError)


async def test_another_name_is_free(given: Given) -> None:
    await given(account_opened("a1", "ada")).when(open_account, "a2", "bob").then(account_opened("a2", "bob"))


async def test_an_account_is_opened_once(given: Given) -> None:
    await given(account_opened("a1", "ada")).when(open_account, "a1", "bob").then_refused(AccountExistsError)


async def test_an_account_changes_its_name(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"))
        .when(change_username, "a1", "lovelace")
        .then(username_changed("a1", "ada", "lovelace"))
    )


async def test_an_account_changes_the_letters_of_its_name(given: Given) -> None:
    await (
        given(account_opened("a1", "ada")).when(change_username, "a1", "Ada").then(username_changed("a1", "ada", "Ada"))
    )


async def test_the_name_an_account_has_is_no_change(given: Given) -> None:
    await given(account_opened("a1", "ada")).when(change_username, "a1", "ada").then_nothing()


async def test_nobody_changes_to_a_name_that_is_taken(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), account_opened("a2", "bob"))
        .when(change_username, "a2", "ada")
        .then_refused(UsernameTakenError)
    )


async def test_a_name_that_was_changed_to_is_taken(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), username_changed("a1", "ada", "lovelace"))
        .when(open_account, "a2", "lovelace")
        .then_refused(UsernameTakenError)
    )


async def test_a_name_is_kept_after_a_change(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), username_changed("a1", "ada", "lovelace", at=NOON))
        .when(open_account, "a2", "ada", now=NOON + RETENTION - MOMENT)
        .then_refused(UsernameTakenError)
    )


async def test_a_name_is_free_when_it_has_been_kept_long_enough(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), username_changed("a1", "ada", "lovelace", at=NOON))
        .when(open_account, "a2", "ada", now=NOON + RETENTION)
        .then(account_opened("a2", "ada"))
    )


async def test_an_account_may_take_its_name_back(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), username_changed("a1", "ada", "lovelace"))
        .when(change_username, "a1", "ada")
        .then(username_changed("a1", "lovelace", "ada"))
    )


async def test_an_account_is_closed_under_its_present_name(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), username_changed("a1", "ada", "lovelace"))
        .when(close_account, "a1")
        .then(account_closed("a1", "lovelace"))
    )


async def test_a_name_is_kept_after_its_account_was_closed(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), account_closed("a1", "ada", at=NOON))
        .when(open_account, "a2", "ada", now=NOON + RETENTION - MOMENT)
        .then_refused(UsernameTakenError)
    )


async def test_a_name_is_free_long_after_its_account_was_closed(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), account_closed("a1", "ada", at=NOON))
        .when(open_account, "a2", "ada", now=NOON + RETENTION)
        .then(account_opened("a2", "ada"))
    )


async def test_a_name_that_was_reused_is_taken_again(given: Given) -> None:
    await (
        given(
            account_opened("a1", "ada"), account_closed("a1", "ada", at=NOON - RETENTION), account_opened("a2", "ada")
        )
        .when(open_account, "a3", "ada")
        .then_refused(UsernameTakenError)
    )


async def test_a_closed_account_changes_nothing(given: Given) -> None:
    await (
        given(account_opened("a1", "ada"), account_closed("a1", "ada"))
        .when(change_username, "a1", "lovelace")
        .then_refused(NoAccountError)
    )


async def test_one_of_many_racers_gets_a_name(given: Given) -> None:
    claimed = await (
        given()
        .when_racing(*(partial(open_account, account=f"a{n}", name="ada") for n in range(15)))
        .then_one_wins(others=UsernameTakenError)
    )
    assert claimed in [account_opened(f"a{n}", "ada") for n in range(15)]


async def test_a_new_account_and_a_renamed_one_do_not_get_the_same_name(given: Given) -> None:
    claimed = await (
        given(account_opened("a1", "ada"))
        .when_racing(partial(open_account, account="a2", name="bob"), partial(change_username, account="a1", new="bob"))
        .then_one_wins(others=UsernameTakenError)
    )
    assert claimed in [account_opened("a2", "bob"), username_changed("a1", "ada", "bob")]


async def test_racers_for_different_names_do_not_meet(given: Given) -> None:
    result = await (
        given()
        .when_racing(*(partial(open_account, account=f"a{n}", name=f"name{n}") for n in range(10)))
        .then_all_win()
    )
    assert result.conflicts == 0
