"""A failure that is tried again until it ends is logged when it begins and when it ends, not every time."""

import structlog

from kudurru_server.errors import KudurruError

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

    def works(self) -> None:
        """Take note of a success."""
        if self._reason is not None:
            _logger.info("works_again", after=self._event)
            self._reason = None
