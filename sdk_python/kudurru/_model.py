"""The values that appends take and reads return."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from google.protobuf.timestamp_pb2 import Timestamp

from kudurru._cursor import make_cursor
from kudurru._ids import new_event_id
from kudurru._proto import event_pb2
from kudurru._query import strings

JSON_CONTENT_TYPE = "application/json"
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """Something that happened, as you state it.

    The id is made here, once, so that a retried append is recorded once. It is not compared: two events are equal if
    they say the same, which is what a test of your decisions wants to know.

    Attributes:
        event_type: What happened, such as "CourseDefined".
        data: The payload, opaque to the store.
        tags: What it concerns, such as "course:c1".
        content_type: The media type of `data`; may be empty.
        metadata: Facts beside the payload, such as a correlation id.
        event_id: A UUID, unique in the whole store.

    Raises:
        ValueError: A tag is given twice, which happens to computed tags.
    """

    event_type: str
    data: bytes
    tags: tuple[str, ...]
    content_type: str
    metadata: Mapping[str, str] = field(hash=False)
    event_id: str = field(compare=False, repr=False)

    def __init__(
        self,
        event_type: str,
        data: bytes = b"",
        *,
        tags: Iterable[str] = (),
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        event_id: str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "event_type", event_type)
        put(self, "data", data)
        names = strings(tags, "tags")
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the tag {repeated!r} is given twice")
        put(self, "tags", names)
        put(self, "content_type", content_type)
        put(self, "metadata", dict(metadata) if metadata else {})
        put(self, "event_id", event_id or new_event_id())

    @classmethod
    def json(
        cls,
        event_type: str,
        data: object,
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
        event_id: str | None = None,
    ) -> Self:
        """Make an event whose data is a value that `json.dumps` takes."""
        return cls(
            event_type,
            _encode_json(data).encode(),
            tags=tags,
            content_type=JSON_CONTENT_TYPE,
            metadata=metadata,
            event_id=event_id,
        )


class RecordedEvent:
    """An event plus what the store gave it.

    Fields are taken from the received message when they are asked for, which makes reading several times cheaper. An
    event therefore keeps the message that it came in (some hundred KiB) in memory; `copy.copy` makes one that does not.

    It is made by the client, and in tests by `recorded`.
    """

    __slots__ = ("_message",)

    def __init__(self, message: event_pb2.RecordedEvent) -> None:
        self._message = message

    @property
    def event_id(self) -> str:
        """UUID, lower case."""
        return self._message.event.event_id

    @property
    def event_type(self) -> str:
        """What happened."""
        return self._message.event.event_type

    @property
    def tags(self) -> tuple[str, ...]:
        """What it concerns."""
        return tuple(self._message.event.tags)

    @property
    def data(self) -> bytes:
        """The payload."""
        return self._message.event.data

    @property
    def content_type(self) -> str:
        """The media type of `data`; may be empty."""
        return self._message.event.content_type

    @property
    def metadata(self) -> dict[str, str]:
        """Facts beside the payload."""
        return dict(self._message.event.metadata)

    @property
    def sortable_unique_id(self) -> str:
        """The cursor of this event; ordinary string order is store order."""
        return self._message.sortable_unique_id

    @property
    def position(self) -> int:
        """The place in the whole store: 1, 2, 3 … without holes."""
        return self._message.position

    @property
    def recorded_at(self) -> datetime:
        """When it was recorded, in UTC; never goes back from one event to the next."""
        at = self._message.recorded_at
        return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)

    @property
    def event(self) -> Event:
        """The event without what the store gave it, with its id; compare it with the one you expect."""
        return Event(
            self.event_type,
            self.data,
            tags=self.tags,
            content_type=self.content_type,
            metadata=self.metadata,
            event_id=self.event_id,
        )

    def json(self) -> Any:  # noqa: ANN401 - whatever was put in
        """Return `data` decoded as JSON."""
        return json.loads(self._message.event.data)

    def __eq__(self, other: object) -> bool:
        return self._message == other._message if isinstance(other, RecordedEvent) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._message.sortable_unique_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._message.SerializeToString(),)

    def __repr__(self) -> str:
        return f"RecordedEvent({self.position}, {self.event_type!r}, tags={self.tags!r}, {len(self.data)} bytes)"


def _restored(encoded: bytes) -> RecordedEvent:
    return RecordedEvent(event_pb2.RecordedEvent.FromString(encoded))


def recorded(*events: Event, after: int = 0, at: datetime | None = None) -> list[RecordedEvent]:
    """Make the recorded events that a store would return, for tests of code that reads them.

    Args:
        events: The events, in order.
        after: The position of the event before the first one.
        at: When they were recorded; 2000-01-01 UTC if not given.
    """
    moment = at or datetime(2000, 1, 1, tzinfo=UTC)
    recorded_at = Timestamp()
    recorded_at.FromDatetime(moment)
    return [
        RecordedEvent(
            event_pb2.RecordedEvent(
                event=event_message(event),
                sortable_unique_id=make_cursor(moment, position),
                position=position,
                recorded_at=recorded_at,
            )
        )
        for position, event in enumerate(events, after + 1)
    ]


def event_message(event: Event) -> event_pb2.Event:
    """Return the event as it travels."""
    return event_pb2.Event(
        event_id=event.event_id,
        event_type=event.event_type,
        tags=event.tags,
        data=event.data,
        content_type=event.content_type,
        metadata=event.metadata,
    )


@dataclass(frozen=True, slots=True)
class Appended:
    """Where events were recorded.

    Attributes:
        sortable_unique_ids: The cursor of each event, in the order of the append.
        event_ids: The id of each event, in the order of the append.
        last_position: The position of the last of them.
        already_committed: True if an earlier append had recorded these events and this one wrote nothing.
    """

    sortable_unique_ids: tuple[str, ...]
    event_ids: tuple[str, ...]
    last_position: int
    already_committed: bool

    @property
    def head(self) -> str:
        """The cursor of the last event: pass it as `at_least` to read your own writes through any node."""
        return self.sortable_unique_ids[-1]


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the store; an empty cursor and position 0 if it is empty."""

    sortable_unique_id: str
    position: int


@dataclass(frozen=True, slots=True)
class TagInfo:
    """What is known of a tag.

    Attributes:
        exists: Whether at least one event has the tag; if not, the cursors are empty.
        first_sortable_unique_id: The first event with the tag.
        last_sortable_unique_id: The last event with the tag.
        count: How many events have the tag; None unless asked for.
    """

    exists: bool
    first_sortable_unique_id: str
    last_sortable_unique_id: str
    count: int | None
