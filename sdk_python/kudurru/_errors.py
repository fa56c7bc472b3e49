"""What can go wrong, in a form that programs can act on.

```text
KudurruError                 reason, message, metadata
├── ConditionFailedError     an event matches a condition; nothing was written
├── EventIdExistsError       an id is recorded already, and not by this append; nothing was written
├── InvalidRequestError      the request breaks a rule or a limit; nothing was written
├── CursorOutOfRangeError    a cursor belongs to another store, or to one that was restored
├── NotFoundError            no event has this id
├── OverloadedError          the server may not hold more; this attempt wrote nothing; try again later
├── UnavailableError         no server answered; an append that raises it was never sent
├── DeadlineExceededError    no answer in time; never raised by an append
├── OutcomeUnknownError      an append may or may not have been recorded; append the same events again to find out
└── ServerError              a fault of the server, or a server of another kind
```

A refusal speaks for its own attempt only. `append` keeps to that within one call; whoever appends the same events again
after an OutcomeUnknownError should read an OverloadedError as "still unknown", too.
"""

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why, as `google.rpc.ErrorInfo.reason` says it. A newer server's reason becomes a member that has no name here."""

    UNSPECIFIED = "UNSPECIFIED"
    CONDITION_FAILED = "CONDITION_FAILED"
    EVENT_ID_EXISTS = "EVENT_ID_EXISTS"
    EVENT_ID_INVALID = "EVENT_ID_INVALID"
    EVENT_ID_REPEATED = "EVENT_ID_REPEATED"
    EVENT_ID_IN_FUTURE = "EVENT_ID_IN_FUTURE"
    EVENT_TYPE_INVALID = "EVENT_TYPE_INVALID"
    TAG_INVALID = "TAG_INVALID"
    TAG_REPEATED = "TAG_REPEATED"
    TOO_MANY_TAGS = "TOO_MANY_TAGS"
    DATA_TOO_LARGE = "DATA_TOO_LARGE"
    METADATA_TOO_LARGE = "METADATA_TOO_LARGE"
    CONTENT_TYPE_INVALID = "CONTENT_TYPE_INVALID"
    NO_EVENTS = "NO_EVENTS"
    TOO_MANY_EVENTS = "TOO_MANY_EVENTS"
    APPEND_TOO_LARGE = "APPEND_TOO_LARGE"
    TOO_MANY_CONDITIONS = "TOO_MANY_CONDITIONS"
    QUERY_TOO_LARGE = "QUERY_TOO_LARGE"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    FIELD_INVALID = "FIELD_INVALID"
    CURSOR_MALFORMED = "CURSOR_MALFORMED"
    CURSOR_OUT_OF_RANGE = "CURSOR_OUT_OF_RANGE"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"  # noqa: S105 - not a secret
    EVENT_NOT_FOUND = "EVENT_NOT_FOUND"
    AT_LEAST_NOT_REACHED = "AT_LEAST_NOT_REACHED"
    OVERLOADED = "OVERLOADED"
    STORAGE_FULL = "STORAGE_FULL"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"

    @classmethod
    def _missing_(cls, value: object) -> "Reason":
        member = str.__new__(cls, value)
        member._name_ = member._value_ = str(value)
        return member


class KudurruError(Exception):
    """A call failed.

    Attributes:
        reason: Why; UNSPECIFIED if it was not the store that said so, such as a connection that was refused.
        message: For people; never parse it.
        metadata: Facts that belong to the reason.
    """

    def __init__(self, reason: Reason, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(reason, message, metadata)
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = metadata or {}

    def __str__(self) -> str:
        return self.message if self.reason is Reason.UNSPECIFIED else f"{self.reason}: {self.message}"


class ConditionFailedError(KudurruError):
    """An event matches a condition. Nothing was written; the properties describe one such event."""

    @property
    def condition_index(self) -> int:
        """Which condition failed, counted from 0."""
        return int(self.metadata.get("condition_index", 0))

    @property
    def sortable_unique_id(self) -> str:
        """The cursor of the event."""
        return self.metadata.get("sortable_unique_id", "")

    @property
    def position(self) -> int:
        """The position of the event."""
        return int(self.metadata.get("position", 0))

    @property
    def event_id(self) -> str:
        """The id of the event."""
        return self.metadata.get("event_id", "")

    @property
    def event_type(self) -> str:
        """The type of the event."""
        return self.metadata.get("event_type", "")


class EventIdExistsError(KudurruError):
    """An event id is recorded already, by an append that this one does not repeat. Nothing was written."""

    @property
    def event_id(self) -> str:
        """The id that is recorded."""
        return self.metadata.get("event_id", "")

    @property
    def position(self) -> int:
        """Where it is recorded."""
        return int(self.metadata.get("position", 0))


class InvalidRequestError(KudurruError):
    """The request breaks a rule or a limit. Nothing was written, and the same request will fail again."""


class CursorOutOfRangeError(KudurruError):
    """A cursor lies beyond the head or contradicts the store. Start over from a cursor of this store."""


class NotFoundError(KudurruError):
    """No event has this id."""


class OverloadedError(KudurruError):
    """More is waiting than the server may hold, or its disk is full. This attempt wrote nothing; try again later."""


class UnavailableError(KudurruError):
    """No server answered, for as long as the timeout allowed. An append that raises it was never sent."""


class DeadlineExceededError(KudurruError):
    """A call other than an append was not answered in time."""


class OutcomeUnknownError(KudurruError):
    """An append may or may not have been recorded, now or a little later.

    Appending the same Event objects again, with their ids, is safe at any time and finds out.
    """


class ServerError(KudurruError):
    """The server has a fault, or does not speak this protocol."""
