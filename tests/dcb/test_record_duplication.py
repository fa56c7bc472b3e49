"""Prevent record duplication: what a client sends twice is recorded once, however it comes to be sent twice.

A person who presses the button again sends a new request with the token of the first: the model recognises it by a
condition. A program that got no answer sends the same events again: the store recognises their ids.
"""

from functools import partial
from uuid import NAMESPACE_URL, uuid5

from kudurru import Condition, ConditionFailedError, Event, EventIdExistsError, EventStore, Query

from tests.dcb.scenario import Given, RefusedError


class OrderPlacedAlreadyError(RefusedError):
    """An order was placed with this token."""


def order_placed(order: str, token: str) -> Event:
    """State that an order was placed, and with which token of the client's."""
    return Event("OrderPlaced", tags=[f"order:{order}", f"token:{token}"])


async def place_order(store: EventStore, order: str, token: str) -> None:
    """Place an order, unless one was placed with the token; nothing needs to be read for that."""
    placed_before = Query.of(types=["OrderPlaced"], tags=[f"token:{token}"])
    try:
        await store.append(order_placed(order, token), condition=Condition(placed_before))
    except ConditionFailedError as conflict:
        raise OrderPlacedAlreadyError from conflict


async def append_once(store: EventStore, *events: Event) -> None:
    """Append events that nobody has recorded."""
    assert not (await store.append(events)).already_committed


async def append_again(store: EventStore, *events: Event) -> None:
    """Append events as the SDK does when it got no answer."""
    again = await store.append(events)
    assert again.already_committed
    first = [await store.get_event(event.event_id) for event in events]
    assert again.sortable_unique_ids == tuple(event.sortable_unique_id for event in first)


async def test_an_order_is_placed(given: Given) -> None:
    await given().when(place_order, "o1", "t1").then(order_placed("o1", "t1"))


async def test_a_token_places_one_order(given: Given) -> None:
    await given(order_placed("o1", "t1")).when(place_order, "o2", "t1").then_refused(OrderPlacedAlreadyError)


async def test_another_token_places_another_order(given: Given) -> None:
    await given(order_placed("o1", "t1")).when(place_order, "o2", "t2").then(order_placed("o2", "t2"))


async def test_a_token_on_another_kind_of_event_places_no_order(given: Given) -> None:
    await given(Event("BasketFilled", tags=["token:t1"])).when(place_order, "o1", "t1").then(order_placed("o1", "t1"))


async def test_one_of_many_racers_places_an_order_with_a_token(given: Given) -> None:
    placed = await (
        given()
        .when_racing(*(partial(place_order, order=f"o{n}", token="t1") for n in range(20)))  # noqa: S106 - no secret
        .then_one_wins(others=OrderPlacedAlreadyError)
    )
    assert placed in [order_placed(f"o{n}", "t1") for n in range(20)]


async def test_the_same_event_is_recorded_once(given: Given) -> None:
    event = order_placed("o1", "t1")
    await given(event).when(append_again, event).then_nothing()


async def test_events_that_say_the_same_are_two_events(given: Given) -> None:
    event = order_placed("o1", "t1")
    await given(event).when(append_once, order_placed("o1", "t1")).then(event)


async def test_an_append_that_succeeded_is_not_refused_for_its_own_event(given: Given) -> None:
    event = order_placed("o1", "t1")

    async def place_again(store: EventStore) -> None:
        again = await store.append(event, condition=Condition(Query.of(tags=["token:t1"])))
        assert again.already_committed

    await given(event).when(place_again).then_nothing()


async def test_a_program_may_make_the_id_from_the_token(given: Given) -> None:
    def placed() -> Event:
        return Event("OrderPlaced", tags=["order:o1"], event_id=str(uuid5(NAMESPACE_URL, "order/t1")))

    await given(placed()).when(append_again, placed()).then_nothing()


async def test_an_id_does_not_stand_for_something_else(given: Given) -> None:
    event = order_placed("o1", "t1")
    other = Event("OrderPlaced", tags=["order:o2"], event_id=event.event_id)
    await given(event).when(append_once, other).then_refused(EventIdExistsError)


async def test_what_was_recorded_does_not_hide_what_was_not(given: Given) -> None:
    event = order_placed("o1", "t1")
    await given(event).when(append_once, event, order_placed("o2", "t2")).then_refused(EventIdExistsError)


async def test_racers_with_the_same_event_all_hear_that_it_is_recorded(given: Given) -> None:
    event = order_placed("o1", "t1")
    answers = []

    async def place(store: EventStore) -> None:
        answers.append(await store.append(event))

    result = await given().when_racing(*[place] * 10).then_all_win()
    assert result.recorded == [event]
    assert sorted(answer.already_committed for answer in answers) == [False] + [True] * 9
    assert len({answer.head for answer in answers}) == 1
