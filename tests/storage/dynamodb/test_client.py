"""What the client asks of DynamoDB, and what it makes of the answers."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiobotocore.session import get_session
from hypothesis import given
from hypothesis import strategies as st
from kudurru_server.storage.dynamodb.answers import decode_page
from kudurru_server.storage.dynamodb.aws import Connection
from kudurru_server.storage.dynamodb.client import DynamoDatabase, OnCall, OnCapacity, open_database
from kudurru_server.storage.dynamodb.clock import ServerClock
from kudurru_server.storage.dynamodb.database import Absent, Item, Key, Page, Present, Question, Refused, Table, Value
from kudurru_server.storage.dynamodb.retries import OutcomeUnknownError, ThrottledError
from kudurru_server.storage.dynamodb.values import item_from_wire, item_to_wire

from tests.storage.dynamodb.canned_service import Canned, Service, answer, refusal
from tests.storage.dynamodb.test_values import ITEMS, in_json

LOG_KEY = Key("LOG#0#0", 7)


@asynccontextmanager
async def opened(
    service: Service,
    *,
    concurrency: int = 8,
    clock: ServerClock | None = None,
    on_capacity: OnCapacity | None = None,
    on_call: OnCall | None = None,
) -> AsyncIterator[DynamoDatabase]:
    connection = Connection(service.endpoint, concurrency=concurrency)
    async with open_database("t-", connection, clock=clock, on_capacity=on_capacity, on_call=on_call) as database:
        yield database


def json_item(item: Mapping[str, Value]) -> dict[str, Any]:
    return {name: in_json(value) for name, value in item_to_wire(dict(item)).items()}


async def test_a_put_says_its_condition_and_wants_the_old_item(service: Service) -> None:
    async with opened(service) as database:
        assert await database.put(Table.LOG, {"pk": "a", "n": 1, "body": b"\xff"}, Absent()) is None
    assert service.requests == [
        (
            "PutItem",
            {
                "TableName": "t-log",
                "Item": {"pk": {"S": "a"}, "n": {"N": "1"}, "body": {"B": "/w=="}},
                "ConditionExpression": "attribute_not_exists(#n0)",
                "ExpressionAttributeNames": {"#n0": "pk"},
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                "ReturnConsumedCapacity": "TOTAL",
            },
        )
    ]
    assert [headers["User-Agent"].split()[0] for headers in service.headers] == ["kudurru-server"]


@pytest.mark.parametrize("there", [{"pk": "a", "n": 1, "token": b"\x00\xff", "ids": ["x"]}, None])
async def test_a_refused_write_brings_what_is_there(service: Service, there: Item | None) -> None:
    more = {"Item": json_item(there)} if there else {}
    service.will(refusal("ConditionalCheckFailedException", 400, **more))
    async with opened(service) as database:
        assert await database.put(Table.LOG, {"pk": "a", "n": 1}, Absent()) == Refused(there)
        assert await database.update(Table.LOG, LOG_KEY, {"a": 1}, Present()) == Refused(there)


async def test_an_update_sets_and_removes(service: Service) -> None:
    async with opened(service) as database:
        assert await database.update(Table.LOG, LOG_KEY, {"a": "b"}, Present(), remove=["body"]) is None
    request = service.requests[0][1]
    assert request["Key"] == {"pk": {"S": "LOG#0#0"}, "n": {"N": "7"}}
    assert request["UpdateExpression"] == "SET #n0 = :v0 REMOVE #n1"
    assert request["ConditionExpression"] == "attribute_exists(#n2)"
    assert request["ExpressionAttributeNames"] == {"#n0": "a", "#n1": "body", "#n2": "pk"}


async def test_a_question_names_its_index_and_range(service: Service) -> None:
    more: Item = {"pk": "a", "sk": "b", "gsi1pk": "ALL_EVENTS#0", "sortable_unique_id": "5"}
    service.will(answer({"Items": [], "LastEvaluatedKey": json_item(more)}))
    question = Question(Table.EVENTS, "ALL_EVENTS#0", "0", "9", index="all_events", forward=False, attributes=("pk",))
    async with opened(service) as database:
        page = await database.query(question, 5, {**more, "sortable_unique_id": "4"})
    assert page == Page([], more)
    assert service.requests[0][1] == {
        "TableName": "t-events",
        "IndexName": "all_events",
        "ScanIndexForward": False,
        "ConsistentRead": False,
        "KeyConditionExpression": "#n0 = :v2 AND #n1 BETWEEN :v0 AND :v1",
        "ProjectionExpression": "#n2",
        "ExpressionAttributeNames": {"#n0": "gsi1pk", "#n1": "sortable_unique_id", "#n2": "pk"},
        "ExpressionAttributeValues": {":v0": {"S": "0"}, ":v1": {"S": "9"}, ":v2": {"S": "ALL_EVENTS#0"}},
        "Limit": 5,
        "ExclusiveStartKey": json_item({**more, "sortable_unique_id": "4"}),
        "ReturnConsumedCapacity": "TOTAL",
    }


@pytest.mark.parametrize(("low", "high"), [("b", "a"), (2, 1), (10, 9)])
async def test_an_empty_range_is_answered_without_a_call(service: Service, low: str | int, high: str | int) -> None:
    async with opened(service) as database:
        assert await database.query(Question(Table.LOG, "a", low, high)) == Page([])
    assert not service.requests


@given(st.lists(ITEMS, max_size=3))
def test_a_page_is_decoded_as_botocore_does_it(items: list[Item]) -> None:
    content = {
        "Items": [json_item(item) for item in items],
        "Count": len(items),
        "LastEvaluatedKey": {"pk": {"S": "a"}},
    }
    service = Service()
    service.will(answer(content))
    custom: dict[str, Any] = {}
    decode_page({"status_code": 200, "body": service.answers[0].body}, custom)
    assert custom["Items"] == items


async def test_a_query_answers_what_a_plain_client_does(service: Service) -> None:
    items: list[Item] = [{"pk": "a", "n": number, "body": bytes([number]), "ids": ["x", "ü"]} for number in range(9)]
    content = {
        "Items": [json_item(item) for item in items],
        "Count": 9,
        "LastEvaluatedKey": json_item({"pk": "a", "n": 8}),
    }
    service.will(answer(content))
    async with opened(service) as database:
        page = await database.query(Question(Table.LOG, "a", 0, 8))
    async with get_session().create_client("dynamodb", endpoint_url=service.endpoint) as plain:
        theirs = await plain.query(TableName="t-log")
    assert page.items == items == [item_from_wire(item) for item in theirs["Items"]]
    assert page.more == item_from_wire(theirs["LastEvaluatedKey"])


async def test_get_many_tells_which_keys_were_not_looked_at(service: Service) -> None:
    service.will(
        answer(
            {
                "Responses": {"t-log": [json_item({"pk": "a", "n": 1})]},
                "UnprocessedKeys": {"t-log": {"Keys": [json_item({"pk": "a", "n": 2})]}},
            }
        )
    )
    async with opened(service) as database:
        found = await database.get_many(Table.LOG, [Key("a", 1), Key("a", 2), Key("a", 1)])
        assert await database.get_many(Table.LOG, []) == ([], [])
    assert found == ([{"pk": "a", "n": 1}], [Key("a", 2)])
    assert len(service.requests[0][1]["RequestItems"]["t-log"]["Keys"]) == 2


async def test_write_many_tells_what_was_not_written(service: Service) -> None:
    missed: Item = {"pk": "a", "sk": "2", "frame": b"\x01", "tags": []}
    service.will(answer({"UnprocessedItems": {"t-tags": [{"PutRequest": {"Item": json_item(missed)}}]}}))
    async with opened(service) as database:
        writes: list[tuple[Table, Item]] = [
            (Table.TAGS, {"pk": "a", "sk": "1"}),
            (Table.EVENTS, {"pk": "b", "sk": "b"}),
            (Table.TAGS, missed),
        ]
        assert await database.write_many(writes) == [(Table.TAGS, missed)]
        assert await database.write_many([]) == []
    assert {name: len(puts) for name, puts in service.requests[0][1]["RequestItems"].items()} == {
        "t-tags": 2,
        "t-events": 1,
    }


async def test_a_transaction_carries_a_token_of_its_own_and_of_its_tables(service: Service) -> None:
    for prefix, token in (("t-", "a"), ("t-", "a"), ("t-", "b"), ("u-", "a")):
        async with open_database(prefix, Connection(service.endpoint)) as database:
            await database.transact([(Table.TAGS, {"pk": "a", "sk": "b"})], token)
            await database.transact([], token)
    first, again, another, elsewhere = (request["ClientRequestToken"] for _, request in service.requests)
    assert first == again
    assert len({first, another, elsewhere}) == 3
    assert len(first) == 36


async def test_every_call_reports_the_units_it_consumed(service: Service) -> None:
    seen: list[tuple[str, Table, float, float]] = []
    several = [
        {"TableName": "t-events", "CapacityUnits": 4.0, "WriteCapacityUnits": 3.0, "ReadCapacityUnits": 1.0},
        {"TableName": "t-tags", "CapacityUnits": 2.0},
    ]
    service.will(
        answer({"ConsumedCapacity": {"TableName": "t-log", "CapacityUnits": 0.5}}),
        answer({"ConsumedCapacity": several}),
        answer({"ConsumedCapacity": several, "UnprocessedItems": {}}),
        answer({}),
    )
    async with opened(service, on_capacity=lambda *units: seen.append(units)) as database:
        await database.query(Question(Table.LOG, "a", 0, 1))
        await database.transact([(Table.TAGS, {"pk": "a", "sk": "b"})], "t" * 36)
        await database.write_many([(Table.TAGS, {"pk": "a", "sk": "b"})])
        await database.delete(Table.TAGS, Key("a", "b"))
    assert seen == [
        ("Query", Table.LOG, 0.5, 0.0),
        ("TransactWriteItems", Table.EVENTS, 1.0, 3.0),
        ("TransactWriteItems", Table.TAGS, 0.0, 2.0),
        ("BatchWriteItem", Table.EVENTS, 1.0, 3.0),
        ("BatchWriteItem", Table.TAGS, 0.0, 2.0),
    ]


async def test_a_refused_write_reports_the_units_of_what_is_there(service: Service) -> None:
    seen: list[tuple[str, Table, float, float]] = []
    there: Item = {"pk": "a", "n": 1, "body": bytes(2000)}
    service.will(
        refusal("ConditionalCheckFailedException", 400, Item=json_item(there)),
        refusal("ConditionalCheckFailedException", 400),
    )
    async with opened(service, on_capacity=lambda *units: seen.append(units)) as database:
        await database.put(Table.LOG, {"pk": "a", "n": 1}, Absent())
        await database.update(Table.LOG, LOG_KEY, {"a": 1}, Present())
    assert seen == [("PutItem", Table.LOG, 0.0, 2.0), ("UpdateItem", Table.LOG, 0.0, 1.0)]


async def test_every_attempt_is_told_with_its_outcome(service: Service) -> None:
    seen: list[tuple[str, str]] = []
    service.will(
        answer({}),
        refusal("ConditionalCheckFailedException", 400),
        refusal("ThrottlingException", 400),
        Canned(drops=True),
    )
    async with opened(service, on_call=lambda *call: seen.append(call)) as database:
        await database.delete(Table.TAGS, Key("a", "b"))
        await database.put(Table.LOG, {"pk": "a", "n": 1}, Absent())
        with pytest.raises(ThrottledError):
            await database.get(Table.LOG, LOG_KEY, consistent=False)
        with pytest.raises(OutcomeUnknownError):
            await database.get(Table.LOG, LOG_KEY, consistent=False)
    assert seen == [
        ("DeleteItem", "OK"),
        ("PutItem", "ConditionalCheckFailedException"),
        ("GetItem", "ThrottlingException"),
        ("GetItem", "NoAnswer"),
    ]


async def test_answers_and_refusals_set_the_clock(service: Service) -> None:
    date = "Tue, 14 Nov 2023 22:13:20 GMT"
    clock = ServerClock()
    service.will(answer({}, Date=date))
    async with opened(service, clock=clock) as database:
        before = clock.now_ticks()
        assert await database.get(Table.LOG, LOG_KEY, consistent=True) is None
        assert clock.now_ticks() < before


async def test_no_more_calls_are_under_way_than_allowed(service: Service) -> None:
    service.release = asyncio.Event()
    async with opened(service, concurrency=2) as database, asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(database.get(Table.LOG, Key("a", number), consistent=False))
        await service.asked.wait()
        service.release.set()
    assert len(service.requests) == 6
    assert service.most_under_way <= 2


async def test_calls_are_served_first_come_first_served(service: Service) -> None:
    async with opened(service, concurrency=1) as database, asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(database.get(Table.LOG, Key("a", number), consistent=False))
    assert [request["Key"]["n"]["N"] for _, request in service.requests] == list("012345")


async def test_a_cancelled_call_is_cancelled_and_frees_its_place(service: Service) -> None:
    service.release = asyncio.Event()
    async with opened(service, concurrency=1) as database:
        call = asyncio.create_task(database.get(Table.LOG, LOG_KEY, consistent=False))
        await service.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        service.release.set()
        assert await database.get(Table.LOG, LOG_KEY, consistent=False) is None


async def test_bytes_arrive_as_they_were(service: Service) -> None:
    every = bytes(range(256))
    service.will(answer({"Item": {"pk": {"S": "a"}, "body": {"B": base64.b64encode(every).decode()}}}))
    async with opened(service) as database:
        assert await database.get(Table.LOG, LOG_KEY, consistent=True) == {"pk": "a", "body": every}
    assert service.requests[0][1]["ConsistentRead"] is True
