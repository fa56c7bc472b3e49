"""From messages to values: every limit is checked here, before anything else happens.

The common event is checked by a few expressions over a whole append; only the suspicious are looked at one by one.
"""

import re
import uuid
from collections.abc import Sequence

from kudurru_server._proto import event_pb2
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.event_ids import make_event_ids, uuid7_ticks
from kudurru_server.errors import InvalidRequestError
from kudurru_server.model import START, Append, Condition, Cursor, Limits, Query, QueryItem, group_of

_CURSOR = re.compile(r"[0-9]{30}")
_IDS = re.compile(r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12},)+")
_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EMPTY_PARTS = ("\t\t", "\t\n", "\n\t", "\n\n")
_ID_CHARACTERS = 37  # with the comma behind it
_SMALL_BYTES = 256  # an encoded event up to here breaks no usual limit but those of its type and tags
_PAIR_BYTES = 5  # the least that a further metadata pair takes
_FIELD_BYTES = 16  # more than the tag and length of a field


def same_content(one: bytes, other: bytes) -> bool:
    """Tell whether two encoded events mean the same, tags and metadata in any order."""
    first, second = event_pb2.Event.FromString(one), event_pb2.Event.FromString(other)
    for event in (first, second):
        event.tags[:] = sorted(event.tags)
    return bool(first == second)


class Converter:
    """Turns requests into values, within limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        sized = (limits.data_bytes, limits.metadata_bytes, limits.content_type_bytes)
        self._small_bytes = min(_SMALL_BYTES, _PAIR_BYTES * limits.metadata_pairs, *sized)
        self._largest_bytes = (
            sum(sized)
            + limits.event_type_bytes
            + limits.tags_per_event * (limits.tag_bytes + _FIELD_BYTES)
            + limits.metadata_pairs * 3 * _FIELD_BYTES
            + 8 * _FIELD_BYTES
        )

    def append(self, request: pb.AppendRequest) -> Append:
        """Convert an append.

        Raises:
            InvalidRequestError: it breaks a limit.
        """
        limits, events = self._limits, request.events
        if not events:
            raise InvalidRequestError("NO_EVENTS", "an append needs an event")
        if len(events) > limits.events_per_append:
            raise _too("TOO_MANY_EVENTS", "events in an append", len(events), limits.events_per_append)
        conditions = self._conditions(request.conditions)
        ids: list[str] = []
        labels: list[str] = []
        encoded: list[bytes] = []
        tags_in_all = 0
        suspicious = False
        for index, event in enumerate(events):
            ids.append(event.event_id)
            names = event.tags[:]  # a slice costs less than the iterator
            tags = len(names)
            tags_in_all += tags
            names.insert(0, event.event_type)
            labels.append("\t".join(names))
            if tags > limits.tags_per_event or (tags > 1 and len({*names}) <= tags):
                suspicious = True
            data = event.SerializeToString()
            encoded.append(data)
            if len(data) > self._small_bytes:
                self._check_sizes(event, index, len(data))
        if suspicious or self._are_suspicious(labels, tags_in_all):
            for index, event in enumerate(events):
                self._check_label(event, index)
        fresh = False
        if not _are_canonical(ids):
            fresh = self._mend_ids(events, ids)
            encoded = [event.SerializeToString() for event in events]
        _check_distinct(ids)
        size = sum(map(len, encoded))
        if size > limits.append_bytes:
            raise _too("APPEND_TOO_LARGE", "bytes in an append", size, limits.append_bytes)
        oldest, newest = uuid7_ticks(ids)
        return Append(
            ids=ids,
            labels=labels,
            encoded=encoded,
            conditions=conditions,
            size_bytes=size + sum(condition.ByteSize() for condition in request.conditions),
            lowest_id=min(ids),
            newest_id_ticks=newest,
            oldest_id_ticks=oldest,
            fresh_ids=fresh,
        )

    @staticmethod
    def _mend_ids(events: Sequence[event_pb2.Event], ids: list[str]) -> bool:
        """Make the missing ids, and write the others as they are kept; return whether all of them were missing."""
        missing = ids.count("")
        made = iter(make_event_ids(missing))
        for index, event in enumerate(events):
            ids[index] = event.event_id = _event_id(ids[index], index) if ids[index] else next(made)
        return missing == len(ids)

    def _are_suspicious(self, labels: list[str], tags_in_all: int) -> bool:
        text = "\n".join(["", *labels, ""])
        bare = text.replace("\t", "").replace("\n", "")
        longest = max(map(len, labels)) * (1 if text.isascii() else 4)
        return (
            longest > min(self._limits.event_type_bytes, self._limits.tag_bytes)
            or text.count("\t") != tags_in_all
            or text.count("\n") != len(labels) + 1
            or any(empty in text for empty in _EMPTY_PARTS)
            or (not bare.isprintable() and _CONTROL.search(bare) is not None)
        )

    def _check_label(self, event: event_pb2.Event, index: int) -> None:
        limits = self._limits
        where = {"event_index": index}
        if not _is_name(event.event_type, limits.event_type_bytes):
            raise InvalidRequestError(
                "EVENT_TYPE_INVALID", f"event {index}: its type is not {_name(limits.event_type_bytes)}", **where
            )
        tags = list(event.tags)
        if len(tags) > limits.tags_per_event:
            raise _too("TOO_MANY_TAGS", f"tags of event {index}", len(tags), limits.tags_per_event, **where)
        if not all(_is_name(tag, limits.tag_bytes) for tag in tags):
            raise InvalidRequestError("TAG_INVALID", f"event {index}: a tag is not {_name(limits.tag_bytes)}", **where)
        if len(set(tags)) < len(tags):
            raise InvalidRequestError("TAG_REPEATED", f"event {index} has a tag twice", **where)

    def _check_sizes(self, event: event_pb2.Event, index: int, size_bytes: int) -> None:
        limits = self._limits
        if len(event.data) > limits.data_bytes:
            raise _too(
                "DATA_TOO_LARGE",
                f"bytes of data of event {index}",
                len(event.data),
                limits.data_bytes,
                event_index=index,
            )
        if len(event.content_type.encode()) > limits.content_type_bytes:
            raise InvalidRequestError(
                "CONTENT_TYPE_INVALID",
                f"event {index}: its content type is longer than {limits.content_type_bytes} bytes",
                event_index=index,
            )
        if len(event.metadata) > limits.metadata_pairs:
            raise _too(
                "METADATA_TOO_LARGE",
                f"pairs of metadata of event {index}",
                len(event.metadata),
                limits.metadata_pairs,
                event_index=index,
            )
        if size_bytes > self._largest_bytes:
            raise _too(  # fields that this version does not know are kept, but they have no limit of their own
                "DATA_TOO_LARGE", f"bytes of event {index}", size_bytes, self._largest_bytes, event_index=index
            )
        size = sum(len(key.encode()) + len(value.encode()) for key, value in event.metadata.items())
        if size > limits.metadata_bytes:
            raise _too(
                "METADATA_TOO_LARGE",
                f"bytes of metadata of event {index}",
                size,
                limits.metadata_bytes,
                event_index=index,
            )

    def _conditions(self, conditions: Sequence[event_pb2.AppendCondition]) -> tuple[Condition, ...]:
        if not conditions:
            return ()
        if len(conditions) > self._limits.conditions_per_append:
            raise _too(
                "TOO_MANY_CONDITIONS", "conditions of an append", len(conditions), self._limits.conditions_per_append
            )
        return tuple(
            Condition(self.query(condition.fail_if_events_match), cursor(condition.after, f"conditions[{index}].after"))
            for index, condition in enumerate(conditions)
        )

    def query(self, query: event_pb2.Query) -> Query:
        """Convert a query; one with an item that matches everything matches everything.

        Raises:
            InvalidRequestError: it breaks a limit, or has a type or tag that no event can have.
        """
        limits = self._limits
        if len(query.items) > limits.query_items:
            raise _too("QUERY_TOO_LARGE", "items of a query", len(query.items), limits.query_items)
        items = []
        for item in query.items:
            types, tags = tuple(dict.fromkeys(item.event_types)), tuple(dict.fromkeys(item.tags))
            if len(types) > limits.query_items:
                raise _too("QUERY_TOO_LARGE", "event types of a query item", len(types), limits.query_items)
            if len(tags) > limits.tags_per_event:
                raise _too("TOO_MANY_TAGS", "tags of a query item", len(tags), limits.tags_per_event)
            if not all(_is_name(event_type, limits.event_type_bytes) for event_type in types):
                raise InvalidRequestError(
                    "EVENT_TYPE_INVALID", f"an event type is not {_name(limits.event_type_bytes)}"
                )
            if not all(_is_name(tag, limits.tag_bytes) for tag in tags):
                raise InvalidRequestError("TAG_INVALID", f"a tag is not {_name(limits.tag_bytes)}")
            items.append(QueryItem(types, tags))
        return Query(tuple(items)) if all(item.event_types or item.tags for item in items) else Query()

    def tag(self, tag: str) -> str:
        """Check a tag that is asked about."""
        if not _is_name(tag, self._limits.tag_bytes):
            raise InvalidRequestError("TAG_INVALID", f"the tag is not {_name(self._limits.tag_bytes)}")
        return tag

    def page_token(self, token: str, group: str | None) -> str | None:
        """Convert a page token of ListTags: the last tag of the page before.

        Raises:
            InvalidRequestError: it is none, or one of another group.
        """
        if not token:
            return None
        if not _is_name(token, self._limits.tag_bytes) or (group is not None and group_of(token) != group):
            raise InvalidRequestError("PAGE_TOKEN_INVALID", "page_token was not made by this call")
        return token

    def check_message(self, request: pb.AppendStreamRequest) -> None:
        """Check the size of a message of AppendStream.

        Raises:
            InvalidRequestError: it has too many appends.
        """
        if len(request.appends) > self._limits.appends_per_message:
            raise _too(
                "MESSAGE_TOO_LARGE", "appends in a message", len(request.appends), self._limits.appends_per_message
            )

    def check_message_bytes(self, appends: Sequence[Append]) -> None:
        """Check the bytes of a message of AppendStream, counted as those of an append are.

        Raises:
            InvalidRequestError: there are too many.
        """
        size = sum(append.size_bytes for append in appends)
        if size > self._limits.message_bytes:
            raise _too("MESSAGE_TOO_LARGE", "bytes in a message", size, self._limits.message_bytes)


def cursor(text: str, field: str) -> Cursor:
    """Convert a cursor.

    Raises:
        InvalidRequestError: it is neither empty nor 30 digits.
    """
    if not text:
        return START
    if not _CURSOR.fullmatch(text):
        raise InvalidRequestError("CURSOR_MALFORMED", f"{field} is not 30 decimal digits", field=field)
    return Cursor(int(text[:19]), int(text[19:]))


def event_id(text: str) -> str:
    """Convert an event id that is asked about."""
    return _event_id(text, None)


def _are_canonical(ids: Sequence[str]) -> bool:
    text = ",".join(ids)
    return len(text) == _ID_CHARACTERS * len(ids) - 1 and _IDS.fullmatch(text + ",") is not None


def _check_distinct(ids: Sequence[str]) -> None:
    if len(set(ids)) == len(ids):
        return
    places = {event_id: place for place, event_id in reversed(list(enumerate(ids)))}
    index = next(place for place, event_id in enumerate(ids) if places[event_id] != place)
    raise InvalidRequestError("EVENT_ID_REPEATED", f"event {index} has the id of an earlier one", event_index=index)


def _event_id(text: str, index: int | None) -> str:
    if not _ID.fullmatch(text):
        where = {} if index is None else {"event_index": index}
        raise InvalidRequestError("EVENT_ID_INVALID", "an event id is not a UUID of 36 characters", **where)
    return str(uuid.UUID(text))


def _is_name(text: str, limit_bytes: int) -> bool:
    return 0 < len(text.encode()) <= limit_bytes and _CONTROL.search(text) is None


def _name(limit_bytes: int) -> str:
    return f"1 to {limit_bytes} bytes of text without control characters"


def _too(reason: str, what: str, given: int, limit: int, **metadata: object) -> InvalidRequestError:
    return InvalidRequestError(reason, f"{given} {what}, where the limit is {limit}", limit=limit, **metadata)
