"""What the operator is told of failures."""

from unittest.mock import patch

from kudurru_server.storage.dynamodb.outages import Outages
from kudurru_server.storage.dynamodb.retries import OperatorError, OutcomeUnknownError
from structlog.testing import capture_logs


async def test_each_failure_is_told_once_a_minute_with_what_the_service_says() -> None:
    outages = Outages()
    denied = OperatorError("AccessDeniedException", "PutItem on log failed with HTTP 400", "user u may not")
    with patch("asyncio.get_running_loop") as loop, capture_logs() as logs:
        for now in (0.0, 1.0, 59.0, 60.0, 61.0):
            loop.return_value.time.return_value = now
            outages.note(denied)
        outages.note(OutcomeUnknownError("TimeoutError", "no answer to GetItem on log"))
    assert [line["code"] for line in logs] == ["AccessDeniedException", "AccessDeniedException", "TimeoutError"]
    assert logs[0]["failure"] == "PutItem on log failed with HTTP 400"
    assert logs[0]["detail"] == "user u may not"


async def test_missing_tables_are_counted() -> None:
    outages = Outages()
    for code in ("ResourceNotFoundException", "TableNotFoundException", "AccessDeniedException"):
        outages.note(OperatorError(code, "GetItem on log failed with HTTP 400"))
    assert outages.missing_tables == 2
