"""The nine operations on DynamoDB Local."""

import uuid
from collections.abc import AsyncIterator

import pytest
from kudurru_server.model import MAX_POSITION
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.aws import Connection, open_client
from kudurru_server.storage.dynamodb.client import DynamoDatabase, open_database
from kudurru_server.storage.dynamodb.database import (
    Absent,
    Below,
    Item,
    Key,
    Page,
    Present,
    Question,
    Refused,
    Same,
    Table,
)
from kudurru_server.storage.dynamodb.retries import RequestError

from tests.aws.components import Component

KEY = Key("LOG#0#0", 1)
FULL: Item = {"pk": "LOG#0#0", "n": 1, "body": bytes(range(256)), "ids": ["a", "ü", ""], "none": "", "high": 10**19}


@pytest.fixture
async def database(dynamodb: Component, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamoDatabase]:
    """Return a database with empty tables."""
    for name, value in dynamodb.environment.items():
        monkeypatch.setenv(name, value)
    prefix = f"{uuid.uuid4().hex}-"
    # the first calls of a cold JVM take their time
    connection = Connection(read_timeout_seconds=20.0)
    async with open_client("dynamodb", connection) as client:
        await tables.create(client, prefix)
    async with open_database(prefix, connection) as opened:
        yield opened


def event(number: int) -> tuple[Table, Item]:
    name = f"EVENT#{number}"
    return Table.EVENTS, {
        "pk": name,
        "sk": name,
        "gsi1pk": "ALL_EVENTS#0",
        "sortable_unique_id": f"{number:030d}",
        "frame": bytes([number % 256]),
    }


def fresh_token() -> str:
    return uuid.uuid4().hex.ljust(36, "0")


async def every(database: DynamoDatabase, question: Question, limit: int) -> list[Item]:
    """Return all items of a question, page by page."""
    items: list[Item] = []
    more: Item | None = None
    while True:
        page = await database.query(question, limit, more)
        assert len(page.items) <= limit
        items += page.items
        more = page.more
        if more is None:
            return items


async def test_what_is_put_is_got(database: DynamoDatabase) -> None:
    assert await database.get(Table.LOG, KEY, consistent=True) is None
    assert await database.put(Table.LOG, FULL, Absent()) is None
    assert await database.get(Table.LOG, KEY, consistent=True) == FULL
    await database.delete(Table.LOG, KEY)
    await database.delete(Table.LOG, KEY)
    assert await database.get(Table.LOG, KEY, consistent=False) is None


async def test_a_refused_put_writes_nothing_and_brings_the_item(database: DynamoDatabase) -> None:
    await database.put(Table.LOG, FULL)
    assert await database.put(Table.LOG, {"pk": KEY.pk, "n": 1, "x": 1}, Absent()) == Refused(FULL)
    assert await database.put(Table.LOG, {"pk": KEY.pk, "n": 2}, Present()) == Refused(None)
    assert await database.get(Table.LOG, KEY, consistent=True) == FULL


async def test_conditions_hold_as_they_say(database: DynamoDatabase) -> None:
    item: Item = {"pk": "a", "n": 1, "number": 5, "text": "m", "list": ["x", "y"]}
    await database.put(Table.LOG, item)
    for true in (
        Present(),
        Same({"number": 5, "text": "m", "list": ["x", "y"], "none": None}),
        Same({}),
        Below("number", 6),
        Below("text", "n"),
        Below("none", 0),
    ):
        assert await database.put(Table.LOG, item, true) is None, true
    for false in (Absent(), Same({"number": 6}), Same({"text": None}), Below("number", 5), Below("text", "m")):
        assert await database.put(Table.LOG, item, false) == Refused(item), false


async def test_an_update_sets_and_removes_on_its_condition(database: DynamoDatabase) -> None:
    await database.put(Table.LOG, {"pk": KEY.pk, "n": 1, "body": b"x", "size": 1})
    assert await database.update(Table.LOG, KEY, {"size": 2}, Present(), remove=["body"]) is None
    assert await database.get(Table.LOG, KEY, consistent=True) == {"pk": KEY.pk, "n": 1, "size": 2}
    refused = await database.update(Table.LOG, KEY, {"size": 1}, Below("size", 1))
    assert refused == Refused({"pk": KEY.pk, "n": 1, "size": 2})
    assert await database.update(Table.LOG, Key("new", 0), {"size": 1}, Below("size", 1)) is None
    assert await database.get(Table.LOG, Key("new", 0), consistent=True) == {"pk": "new", "n": 0, "size": 1}
    assert await database.update(Table.LOG, Key("newer", 0), {"a": 1}, Present(), remove=["b"]) == Refused(None)


async def test_a_range_is_inclusive_and_ordered_both_ways(database: DynamoDatabase) -> None:
    for number in (1, 2, 9, 10, 11, MAX_POSITION):
        await database.put(Table.LOG, {"pk": "a", "n": number, "body": b"x"})
    for forward in (True, False):
        question = Question(Table.LOG, "a", 2, 10, forward=forward, consistent=True, attributes=("n",))
        expected: list[Item] = [{"n": number} for number in (2, 9, 10)]
        assert await every(database, question, 2) == (expected if forward else expected[::-1])
    assert await database.query(Question(Table.LOG, "a", 12, MAX_POSITION - 1)) == Page([])
    assert await database.query(Question(Table.LOG, "a", 2, 1)) == Page([])


async def test_the_rows_of_a_tag_lie_in_the_order_of_their_names(database: DynamoDatabase) -> None:
    names = ["a", "b", "b#1", "b~", "c", "ü"]
    await database.write_many([(Table.TAGS, {"pk": "t", "sk": name}) for name in reversed(names)])
    found = await every(database, Question(Table.TAGS, "t", "b", "c"), 1)
    assert [item["sk"] for item in found] == ["b", "b#1", "b~", "c"]


async def test_a_transaction_of_a_hundred_repeated_with_its_token_writes_once(database: DynamoDatabase) -> None:
    writes, token = [event(number) for number in range(100)], fresh_token()
    await database.transact(writes, token)
    await database.delete(Table.EVENTS, Key("EVENT#5", "EVENT#5"))
    await database.transact(writes, token)
    assert await database.get(Table.EVENTS, Key("EVENT#5", "EVENT#5"), consistent=True) is None
    with pytest.raises(RequestError, match="IdempotentParameterMismatch"):
        await database.transact(writes[:3], token)
    with pytest.raises(RequestError, match="ValidationException"):
        await database.transact([event(1), event(1)], fresh_token())


async def test_the_index_answers_in_order_page_by_page(database: DynamoDatabase) -> None:
    events = [event(number) for number in range(40)]
    await database.transact(events, fresh_token())
    for forward in (True, False):
        question = Question(
            Table.EVENTS, "ALL_EVENTS#0", f"{5:030d}", f"{34:030d}", index="all_events", forward=forward
        )
        items = [item for _, item in events[5:35]]
        assert await every(database, question, 7) == (items if forward else items[::-1])


async def test_a_scan_finds_everything_page_by_page(database: DynamoDatabase) -> None:
    large: Item = {"pk": "a", "body": bytes(300_000)}
    for number in range(8):
        await database.put(Table.LOG, {**large, "n": number})
    items: list[Item] = []
    pages, more = 0, None
    while True:
        page = await database.scan(Table.LOG, ("n", "body"), more)
        pages, items, more = pages + 1, items + page.items, page.more
        if more is None:
            break
    assert pages > 1
    assert sorted(str(item["n"]) for item in items) == [str(number) for number in range(8)]
    assert all(item.keys() == {"n", "body"} for item in items)


async def test_many_are_got_at_once(database: DynamoDatabase) -> None:
    keys = [Key(f"EVENT#{number}", f"EVENT#{number}") for number in range(100)]
    for start in range(0, 50, 25):
        assert await database.write_many([event(number) for number in range(start, start + 25)]) == []
    items, missed = await database.get_many(Table.EVENTS, keys)
    assert missed == []
    assert sorted(str(item["pk"]) for item in items) == sorted(key.pk for key in keys[:50])


async def test_items_of_several_tables_are_written_at_once(database: DynamoDatabase) -> None:
    tag: Item = {"pk": "TAG#a", "sk": "1"}
    assert await database.write_many([(Table.TAGS, tag), event(1), (Table.LOG, FULL)]) == []
    assert await database.get(Table.TAGS, Key("TAG#a", "1"), consistent=True) == tag
    assert await database.get(Table.LOG, KEY, consistent=True) == FULL
