"""Dynamic product price: the price a customer was shown is honoured for a while after it has changed."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from operator import or_

import pytest
from kudurru import Event, EventStore, Query, RecordedEvent

from tests.dcb.scenario import Given, RefusedError

GRACE = timedelta(minutes=10)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


class ProductUnknownError(RefusedError):
    """Nobody has offered the product."""


class PriceNotValidError(RefusedError):
    """The product does not cost that, or not any more."""


def product_offered(product: str, *, price: int, at: datetime = NOON - timedelta(days=1)) -> Event:
    """State the first price of a product."""
    return Event.json("ProductOffered", {"price": price, "at": at.isoformat()}, tags=[f"product:{product}"])


def price_changed(product: str, *, price: int, at: datetime = NOON) -> Event:
    """State what a product costs from now on."""
    return Event.json("PriceChanged", {"price": price, "at": at.isoformat()}, tags=[f"product:{product}"])


def products_ordered(order: str, **prices: int) -> Event:
    """State which products were ordered, and at which prices."""
    tags = [f"order:{order}", *(f"product:{product}" for product in prices)]
    return Event.json("ProductsOrdered", {"prices": prices}, tags=tags)


def prices_of(product: str) -> Query:
    """Return the query for all prices that a product has had."""
    return Query.of(types=["ProductOffered", "PriceChanged"], tags=[f"product:{product}"])


def valid_prices(history: list[RecordedEvent], product: str, now: datetime, grace: timedelta) -> set[int]:
    """Return the price of a product, and those that a customer may still have been shown.

    Raises:
        ProductUnknownError: It has no price at all.
    """
    prices = [event.json() for event in history if f"product:{product}" in event.tags]
    if not prices:
        raise ProductUnknownError
    replaced_at = [datetime.fromisoformat(later["at"]) for later in prices[1:]]
    in_grace = {old["price"] for old, end in zip(prices, replaced_at, strict=False) if now < end + grace}
    return in_grace | {prices[-1]["price"]}


async def change_price(store: EventStore, product: str, *, price: int, now: datetime = NOON) -> None:
    """Change what a product costs."""

    def decide(history: list[RecordedEvent]) -> Event | None:
        if not history:
            raise ProductUnknownError
        if history[-1].json()["price"] == price:
            return None
        return price_changed(product, price=price, at=now)

    await store.decide(prices_of(product), decide)


async def order(
    store: EventStore, name: str, shown: Mapping[str, int], *, now: datetime = NOON, grace: timedelta = GRACE
) -> None:
    """Order products at the prices that were shown, all of them or none."""

    def decide(history: list[RecordedEvent]) -> Event:
        for product, price in shown.items():
            if price not in valid_prices(history, product, now, grace):
                raise PriceNotValidError
        return products_ordered(name, **shown)

    await store.decide(reduce(or_, map(prices_of, shown)), decide)


async def test_a_product_is_ordered_at_its_price(given: Given) -> None:
    await given(product_offered("tea", price=5)).when(order, "o1", {"tea": 5}).then(products_ordered("o1", tea=5))


@pytest.mark.parametrize("price", [4, 6])
async def test_a_price_it_never_had_is_refused(given: Given, price: int) -> None:
    await given(product_offered("tea", price=5)).when(order, "o1", {"tea": price}).then_refused(PriceNotValidError)


async def test_an_unknown_product_is_refused(given: Given) -> None:
    await given(product_offered("tea", price=5)).when(order, "o1", {"rum": 5}).then_refused(ProductUnknownError)


async def test_a_price_changes(given: Given) -> None:
    await given(product_offered("tea", price=5)).when(change_price, "tea", price=6).then(price_changed("tea", price=6))


async def test_the_same_price_is_no_change(given: Given) -> None:
    await given(product_offered("tea", price=5)).when(change_price, "tea", price=5).then_nothing()


@pytest.mark.parametrize("price", [5, 6])
async def test_after_a_change_both_prices_are_honoured_for_a_while(given: Given, price: int) -> None:
    await (
        given(product_offered("tea", price=5), price_changed("tea", price=6, at=NOON))
        .when(order, "o1", {"tea": price}, now=NOON + GRACE - MOMENT)
        .then(products_ordered("o1", tea=price))
    )


async def test_after_that_while_the_old_price_is_refused(given: Given) -> None:
    await (
        given(product_offered("tea", price=5), price_changed("tea", price=6, at=NOON))
        .when(order, "o1", {"tea": 5}, now=NOON + GRACE)
        .then_refused(PriceNotValidError)
    )


async def test_the_while_begins_when_a_price_ends_not_when_it_began(given: Given) -> None:
    await (
        given(
            product_offered("tea", price=5),
            price_changed("tea", price=6, at=NOON - 3 * GRACE),
            price_changed("tea", price=7, at=NOON - MOMENT),
        )
        .when(order, "o1", {"tea": 6})
        .then(products_ordered("o1", tea=6))
    )


async def test_two_changes_in_a_short_while_leave_three_prices(given: Given) -> None:
    await (
        given(
            product_offered("tea", price=5),
            price_changed("tea", price=6, at=NOON - 2 * MOMENT),
            price_changed("tea", price=7, at=NOON - MOMENT),
        )
        .when(order, "o1", {"tea": 5})
        .then(products_ordered("o1", tea=5))
    )


async def test_several_products_are_ordered_together(given: Given) -> None:
    await (
        given(product_offered("tea", price=5), product_offered("rum", price=20), price_changed("rum", price=25))
        .when(order, "o1", {"tea": 5, "rum": 20})
        .then(products_ordered("o1", tea=5, rum=20))
    )


async def test_one_wrong_price_refuses_the_whole_order(given: Given) -> None:
    await (
        given(product_offered("tea", price=5), product_offered("rum", price=20))
        .when(order, "o1", {"tea": 5, "rum": 19})
        .then_refused(PriceNotValidError)
    )


async def test_the_price_of_one_product_is_not_that_of_another(given: Given) -> None:
    await (
        given(product_offered("tea", price=5), product_offered("rum", price=20))
        .when(order, "o1", {"tea": 20, "rum": 5})
        .then_refused(PriceNotValidError)
    )


async def test_orders_of_the_same_product_do_not_meet(given: Given) -> None:
    result = await (
        given(product_offered("tea", price=5))
        .when_racing(*(partial(order, name=f"o{n}", shown={"tea": 5}) for n in range(10)))
        .then_all_win()
    )
    assert result.conflicts == 0


async def test_an_order_that_meets_a_change_is_honoured(given: Given) -> None:
    result = await (
        given(product_offered("tea", price=5), product_offered("rum", price=20))
        .when_racing(
            partial(change_price, product="rum", price=25), partial(order, name="o1", shown={"tea": 5, "rum": 20})
        )
        .then_all_win()
    )
    change, ordered = price_changed("rum", price=25), products_ordered("o1", tea=5, rum=20)
    assert result.recorded in ([change, ordered], [ordered, change])


async def test_without_grace_an_order_never_follows_the_change_it_met(given: Given) -> None:
    result = await (
        given(product_offered("tea", price=5))
        .when_racing(
            partial(change_price, product="tea", price=6),
            *(partial(order, name=f"o{n}", shown={"tea": 5}, grace=timedelta(0)) for n in range(10)),
        )
        .result()
    )
    assert result.recorded[-1] == price_changed("tea", price=6)
    assert [type(refusal) for refusal in result.refusals] == [PriceNotValidError] * result.conflicts
    assert len(result.recorded) + len(result.refusals) == 11
