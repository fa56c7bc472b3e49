"""A failure that is tried again until it ends is logged when it begins and when it ends, not every time."""

import structlog

from kudurru_server.errors import KudurruError, StorageUnavailableError

_logger = structlog.get_logger()


class Complaint:
    """Logs the failures of one kind of work."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._reason: str | None = None

    def fails(self, error: KudurruError) -> None:
        """Take note of a failure."""
        if error.reason != self._reason:
            self._reason = error.reason
            _logger.warning(self._event, reason=error.reason, error=error.message)

    def answer(self, error: Exception) -> KudurruError:
        """Log why the store did not do what it was asked to, and return what callers are told."""
        if isinstance(error, KudurruError):
            self.fails(error)
            return error
        _logger.error(self._event, exc_info=error)
        return StorageUnavailableError("a fault of the server; its log says more")

    def works(self) -> None:
        """Take note of a success."""
        if self._reason is not None:
            _logger.info("works_again", after=self._event)
            self._reason = None
