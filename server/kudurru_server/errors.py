"""What can go wrong, as a tree.

    KudurruError                 has a reason (a name of error_reason.proto), a message and metadata
    ├── InvalidRequestError      the request breaks a limit or a rule; nothing was written
    ├── CursorOutOfRangeError    the cursor belongs to another store
    ├── NotFoundError            there is no such thing
    ├── NotReachedError          the store did not reach `at_least` in time
    ├── ConditionFailedError     an event matches a condition; nothing was written
    ├── EventIdExistsError       an id is recorded already, by a different append; nothing was written
    ├── OverloadedError          too much is waiting; nothing was written
    ├── StorageFullError         the disk is full; nothing was written
    └── UnavailableError         the outcome is unknown, or the server is going away
        └── StorageUnavailableError

    DataDirectoryError           the embedded store cannot be opened; the server does not start

Refusals of an append are values of an outcome; everywhere else these are raised. Messages hold facts, never payload.
"""


class KudurruError(Exception):
    """A failure with a reason that programs can act on."""

    def __init__(self, reason: str, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidRequestError(KudurruError):
    """The request breaks a limit or a rule; nothing was written."""


class CursorOutOfRangeError(KudurruError):
    """The cursor lies beyond the head or contradicts the store's own ids."""

    def __init__(self, field: str, cursor: object, head: object) -> None:
        super().__init__(
            "CURSOR_OUT_OF_RANGE",
            f"{field} {cursor} is not a cursor of this store, whose head is {str(head) or 'empty'}",
            field=field,
            head=head,
        )


class NotFoundError(KudurruError):
    """There is no such event."""


class NotReachedError(KudurruError):
    """The store did not reach `at_least` in time."""


class ConditionFailedError(KudurruError):
    """An event matches a condition; nothing was written."""


class EventIdExistsError(KudurruError):
    """An event id is recorded already, and not by this append; nothing was written."""


class OverloadedError(KudurruError):
    """Too much is waiting to be written; nothing was written."""

    def __init__(self, message: str) -> None:
        super().__init__("OVERLOADED", message)


class StorageFullError(KudurruError):
    """The disk is full; nothing was written."""

    def __init__(self) -> None:
        super().__init__("STORAGE_FULL", "the storage is full")


class UnavailableError(KudurruError):
    """The outcome of an append is unknown, or the server is going away."""


class StorageUnavailableError(UnavailableError):
    """The storage failed or did not answer; whether it wrote is unknown."""

    def __init__(self, message: str = "the storage does not answer") -> None:
        super().__init__("STORAGE_UNAVAILABLE", message)


class ShuttingDownError(UnavailableError):
    """The server is going away; a call refused with this did nothing."""

    def __init__(self) -> None:
        super().__init__("SHUTTING_DOWN", "the server is shutting down")


class DataDirectoryError(Exception):
    """The embedded store cannot be opened: in use by another process, not writable, or of another format."""
