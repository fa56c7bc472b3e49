"""Invoice number: 1, 2, 3 … without a hole, also if many invoices are made at the same time."""

from functools import partial

from kudurru import Condition, ConditionFailedError, Event, EventStore, Query

from tests.dcb.scenario import Given

INVOICES = Query.of(types=["InvoiceIssued"])


def invoice_issued(number: int, order: str) -> Event:
    """State that an order has an invoice of this number."""
    return Event.json("InvoiceIssued", {"number": number}, tags=[f"invoice:{number}", f"order:{order}"])


async def issue_invoice(store: EventStore, order: str) -> int:
    """Issue an invoice and return its number, which is the last one's plus one."""
    while True:
        newest = store.read(INVOICES, backwards=True, limit=1)
        number = 1
        async for invoice in newest:
            number = invoice.json()["number"] + 1
        try:
            await store.append(invoice_issued(number, order), condition=Condition(INVOICES, after=newest.head))
        except ConditionFailedError:
            continue  # somebody else took the number
        return number


async def test_the_first_invoice_has_the_number_1(given: Given) -> None:
    await given().when(issue_invoice, "o1").then(invoice_issued(1, "o1"))


async def test_numbers_rise_by_one(given: Given) -> None:
    await (
        given(invoice_issued(1, "o1"), invoice_issued(2, "o2")).when(issue_invoice, "o3").then(invoice_issued(3, "o3"))
    )


async def test_other_events_take_no_number(given: Given) -> None:
    await (
        given(invoice_issued(1, "o1"), Event("OrderShipped", tags=["order:o1"]))
        .when(issue_invoice, "o2")
        .then(invoice_issued(2, "o2"))
    )


async def test_thirty_racers_get_the_numbers_from_1_to_30(given: Given) -> None:
    orders = {f"order:o{n}" for n in range(30)}
    result = await given().when_racing(*(partial(issue_invoice, order=f"o{n}") for n in range(30))).then_all_win()
    assert [event.tags[0] for event in result.recorded] == [f"invoice:{n}" for n in range(1, 31)]
    assert {event.tags[1] for event in result.recorded} == orders
    assert result.conflicts >= 29  # the barrier: all but one of the first appends came too late
