"""Every failure of AWS has a meaning, and no message quotes what was written."""

import pytest
from kudurru_server.storage.dynamodb.aws import Connection
from kudurru_server.storage.dynamodb.client import DynamoDatabase, open_database
from kudurru_server.storage.dynamodb.database import Absent, Key, Question, Table
from kudurru_server.storage.dynamodb.retries import (
    MEANINGS,
    ConflictError,
    DatabaseError,
    OperatorError,
    OutcomeUnknownError,
    RequestError,
    ThrottledError,
    meaning,
)

from tests.storage.dynamodb.canned_service import Canned, Service, answer, refusal

SECRET = "secret"  # noqa: S105 - what no message may hold
CODES = [
    ("TransactionConflictException", 400, ConflictError),
    ("ReplicatedWriteConflictException", 400, ConflictError),
    ("TransactionInProgressException", 400, OutcomeUnknownError),
    ("IdempotentParameterMismatchException", 400, RequestError),
    ("ProvisionedThroughputExceededException", 400, ThrottledError),
    ("ThrottlingException", 400, ThrottledError),
    ("RequestLimitExceeded", 400, ThrottledError),
    ("LimitExceededException", 400, ThrottledError),
    ("InternalServerError", 500, OutcomeUnknownError),
    ("ServiceUnavailable", 503, OutcomeUnknownError),
    ("SomethingNew", 502, OutcomeUnknownError),
    ("SomethingNew", 400, RequestError),
    ("SomethingNew", 403, OperatorError),
    ("SomethingNew", 429, ThrottledError),
    ("ValidationException", 400, RequestError),
    ("ItemCollectionSizeLimitExceededException", 400, RequestError),
    ("ResourceNotFoundException", 400, OperatorError),
    ("ExpiredTokenException", 400, OperatorError),
    ("UnrecognizedClientException", 400, OperatorError),
    ("InvalidSignatureException", 400, OperatorError),
    ("AccessDeniedException", 400, OperatorError),
    ("KMSDisabledException", 400, OperatorError),
]
REASONS = [
    (["None", "TransactionConflict"], ConflictError),
    (["ProvisionedThroughputExceeded", "TransactionConflict"], ThrottledError),
    (["ThrottlingError"], ThrottledError),
    (["ItemCollectionSizeLimitExceeded", "ThrottlingError"], RequestError),
    (["TransactionConflict", "ValidationError"], RequestError),
    (["ConditionalCheckFailed", "None"], RequestError),
    (["SomethingNew"], RequestError),
    ([], ConflictError),
]


async def put(service: Service, connection: Connection | None = None) -> None:
    connection = connection or Connection(service.endpoint)
    async with open_database("t-", connection) as database:
        await database.put(Table.TAGS, {"pk": SECRET, "sk": SECRET}, Absent())


@pytest.mark.parametrize(("code", "status", "kind"), CODES)
async def test_every_code_has_a_meaning(service: Service, code: str, status: int, kind: type[DatabaseError]) -> None:
    service.will(refusal(code, status))
    with pytest.raises(DatabaseError) as caught:
        await put(service)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert caught.value.__cause__ is not None
    assert len(service.requests) == 1
    if kind not in (OperatorError, ThrottledError):  # theirs are texts for operators
        assert SECRET not in str(caught.value)
    assert "PutItem on t-tags" in str(caught.value)


@pytest.mark.parametrize(("reasons", "kind"), REASONS)
async def test_a_cancelled_transaction_is_read_reason_by_reason(
    service: Service, reasons: list[str], kind: type[DatabaseError]
) -> None:
    causes = [{"Code": reason, "Message": SECRET, "Item": {"a": {"S": SECRET}}} for reason in reasons]
    service.will(refusal("TransactionCanceledException", CancellationReasons=causes))
    async with open_database("t-", Connection(service.endpoint)) as database:
        with pytest.raises(DatabaseError) as caught:
            await database.transact([(Table.TAGS, {"pk": "a", "sk": "b"})], "token")
    assert type(caught.value) is kind
    assert SECRET not in str(caught.value)
    assert all(reason in str(caught.value) for reason in reasons if reason != "None")


def test_every_code_of_the_table_means_one_of_the_five() -> None:
    kinds = {OutcomeUnknownError, ThrottledError, ConflictError, OperatorError, RequestError}
    assert set(MEANINGS.values()) == kinds
    assert meaning("SlowDown", 503) is ThrottledError
    assert meaning("ConditionalRequestConflict", 409) is ConflictError


@pytest.mark.parametrize(
    "damaged",
    [
        answer({}, **{"x-amz-crc32": "1"}),
        answer({}, **{"x-amz-crc32": "x"}),
        Canned(b"<html>welcome</html>"),
        Canned(b""),
        Canned(b"<html>bad gateway</html>", 502),
        Canned(b'{"Item":', 200),
        Canned(drops=True),
    ],
)
async def test_an_answer_that_does_not_tell_leaves_the_outcome_unknown(service: Service, damaged: Canned) -> None:
    service.will(damaged)
    with pytest.raises(OutcomeUnknownError):
        await put(service)
    assert len(service.requests) == 1


async def test_a_page_that_is_not_json_is_damage(service: Service) -> None:
    service.will(Canned(b"{nonsense}"))
    async with open_database("t-", Connection(service.endpoint)) as database:
        with pytest.raises(OutcomeUnknownError):
            await database.query(Question(Table.LOG, "a", 0, 1))


async def test_no_answer_in_time_leaves_the_outcome_unknown(service: Service) -> None:
    service.will(Canned(hangs=True))
    with pytest.raises(OutcomeUnknownError):
        await put(service, Connection(service.endpoint, read_timeout_seconds=0.05))
    assert len(service.requests) == 1


async def test_nobody_who_listens_leaves_the_outcome_unknown(service: Service) -> None:
    with pytest.raises(OutcomeUnknownError):
        await put(service, Connection("http://127.0.0.1:1"))


async def test_a_missing_region_is_the_operators_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(OperatorError, match="NoRegionError"):
        async with open_database("t-", Connection()):
            pass


async def test_an_endpoint_that_is_no_url_is_the_operators_fault(service: Service) -> None:
    del service
    with pytest.raises(OperatorError, match="InvalidEndpoint"):
        async with open_database("t-", Connection("nonsense")):
            pass


async def test_missing_credentials_are_the_operators_fault(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(OperatorError, match="NoCredentialsError"):
        await put(service)


async def test_a_table_of_another_shape_is_the_operators_fault(service: Service) -> None:
    service.will(answer({"Item": {"pk": {"S": SECRET}, "odd": {"BOOL": True}}}))
    async with open_database("t-", Connection(service.endpoint)) as database:
        assert isinstance(database, DynamoDatabase)
        with pytest.raises(OperatorError, match="odd"):
            await database.get(Table.TAGS, Key("a", "b"), consistent=True)
