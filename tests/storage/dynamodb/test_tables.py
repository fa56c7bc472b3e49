"""What DynamoDB Local does not know of tables: recovery, refused rights, slow indexes."""

from typing import Any

import pytest
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.aws import Connection, open_client
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.retries import OperatorError

from tests.storage.dynamodb.canned_service import Canned, Service, answer, refusal


def there(table: Table, status: str = "ACTIVE") -> Canned:
    found: dict[str, Any] = {**tables.definition(table), "TableStatus": status}
    found["GlobalSecondaryIndexes"] = [
        {**index, "IndexStatus": status} for index in found.get("GlobalSecondaryIndexes", ())
    ]
    return answer({"Table": found})


def recovery(status: str) -> Canned:
    description = {"PointInTimeRecoveryStatus": status}
    return answer({"ContinuousBackupsDescription": {"PointInTimeRecoveryDescription": description}})


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_POLL_SECONDS", 0.0)


async def create(service: Service, *answers: Canned) -> list[str]:
    """Create tables that are there, then get more answers; return what was asked after that."""
    all_there = [there(table) for table in Table]
    service.will(*all_there, *all_there, *all_there, *answers)
    async with open_client("dynamodb", Connection(service.endpoint)) as client:
        await tables.create(client, "t-")
    return [operation for operation, _ in service.requests[3 * len(Table) :]]


async def test_recovery_is_turned_on_where_it_is_off(service: Service) -> None:
    on = recovery("ENABLED")
    assert await create(service, on, recovery("DISABLED"), answer({}), on, on) == [
        "DescribeContinuousBackups",
        "DescribeContinuousBackups",
        "UpdateContinuousBackups",
        "DescribeContinuousBackups",
        "DescribeContinuousBackups",
    ]
    name, request = service.requests[-3]
    assert (name, request["TableName"]) == ("UpdateContinuousBackups", "t-events")


async def test_recovery_is_tried_again_until_a_new_table_is_ready_for_it(service: Service) -> None:
    early = refusal("ContinuousBackupsUnavailableException")
    off, on = recovery("DISABLED"), recovery("ENABLED")
    asked = await create(service, off, early, off, answer({}), on)
    assert asked.count("UpdateContinuousBackups") == 2


async def test_recovery_that_is_not_allowed_is_the_operators_fault(service: Service) -> None:
    with pytest.raises(OperatorError, match="AccessDeniedException"):
        await create(service, refusal("AccessDeniedException"))


async def test_a_description_does_without_rights_on_backups(service: Service) -> None:
    service.will(*(each for table in Table for each in (there(table), refusal("AccessDeniedException"))))
    async with open_client("dynamodb", Connection(service.endpoint)) as client:
        found = await tables.describe(client, "t-")
    assert [description.point_in_time_recovery for description in found] == [None] * len(Table)


async def test_tables_are_awaited_until_they_and_their_indexes_are_active(service: Service) -> None:
    log, events, tags, projections = Table
    service.will(
        *(there(table, "CREATING") for table in Table),
        there(log, "CREATING"),
        there(log),
        there(events, "CREATING"),
        *(there(table) for table in (events, tags, projections)),
        *(there(table) for table in Table),
    )
    async with open_client("dynamodb", Connection(service.endpoint)) as client:
        await tables.create(client, "t-", protect=False)
    assert len(service.requests) == 14


async def test_a_service_without_deletion_protection_gets_tables_without_it(service: Service) -> None:
    missing, unknown = refusal("ResourceNotFoundException"), refusal("ValidationException")
    service.will(
        *(missing, unknown, answer({})),
        *(there(table) for table in list(Table)[1:]),
        *(there(table) for table in (*Table, *Table)),
        refusal("UnknownOperationException"),
    )
    async with open_client("dynamodb", Connection(service.endpoint)) as client:
        await tables.create(client, "t-")
    assert [request.get("DeletionProtectionEnabled") for _, request in service.requests[1:3]] == [True, None]
