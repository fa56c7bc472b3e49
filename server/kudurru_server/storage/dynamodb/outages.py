"""What the operator is told when DynamoDB fails: which call, on which table, and why, once a minute each."""

import asyncio

import structlog

from kudurru_server.storage.dynamodb.retries import DatabaseError

_AGAIN_SECONDS = 60.0
_MISSING = frozenset({"ResourceNotFoundException", "TableNotFoundException"})

_log = structlog.get_logger()


class Outages:
    """Takes note of calls that were given up."""

    def __init__(self) -> None:
        self._logged: dict[tuple[str, str], float] = {}
        self.missing_tables = 0
        """How often a table was not there: what is there next may be another one of the same name."""

    def note(self, error: DatabaseError) -> None:
        """Log a failure, which names the operation and the table, unless that was done lately."""
        if error.code in _MISSING:
            self.missing_tables += 1
        now = asyncio.get_running_loop().time()
        failure = error.code, error.message
        if now - self._logged.get(failure, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
            return
        self._logged = {known: at for known, at in self._logged.items() if now - at < _AGAIN_SECONDS} | {failure: now}
        _log.error("dynamodb_fails", code=error.code, failure=error.message, detail=error.detail)
