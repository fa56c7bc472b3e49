"""Asyncio client for the Kudurru event store: append, read, subscribe and decide."""

from kudurru._client import EventStore, connect
from kudurru._cursor import cursor_at
from kudurru._errors import (
    ConditionFailedError,
    CursorOutOfRangeError,
    DeadlineExceededError,
    EventIdExistsError,
    InvalidRequestError,
    KudurruError,
    NotFoundError,
    OutcomeUnknownError,
    OverloadedError,
    Reason,
    ServerError,
    UnavailableError,
)
from kudurru._model import Appended, Event, Head, RecordedEvent, TagInfo, recorded
from kudurru._query import Condition, Query, QueryItem
from kudurru._read import Read
from kudurru._subscribe import CaughtUp, Checkpoint, FellBehind, Subscription

__all__ = [
    "Appended",
    "CaughtUp",
    "Checkpoint",
    "Condition",
    "ConditionFailedError",
    "CursorOutOfRangeError",
    "DeadlineExceededError",
    "Event",
    "EventIdExistsError",
    "EventStore",
    "FellBehind",
    "Head",
    "InvalidRequestError",
    "KudurruError",
    "NotFoundError",
    "OutcomeUnknownError",
    "OverloadedError",
    "Query",
    "QueryItem",
    "Read",
    "Reason",
    "RecordedEvent",
    "ServerError",
    "Subscription",
    "TagInfo",
    "UnavailableError",
    "connect",
    "cursor_at",
    "recorded",
]
