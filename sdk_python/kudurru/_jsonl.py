"""Events as JSON lines, the language of the command line: what `read` writes, `append` takes.

Data that is JSON appears as a value in "data", anything else in "data_base64". JSON that is not written as this client
writes it, such as with spaces, has both, and "data_base64" counts, so that a copy of an event is the same event.
"""

import base64
import binascii
import json
from typing import Any

from kudurru._model import JSON_CONTENT_TYPE, Event, RecordedEvent

_GIVEN_BY_THE_STORE = frozenset({"sortable_unique_id", "position", "recorded_at"})
_KNOWN = _GIVEN_BY_THE_STORE | {
    "event_type", "tags", "data", "data_base64", "content_type", "metadata", "event_id"
}  # fmt: skip


class InputError(Exception):
    """A line is not an event."""


def parse_event(line: str | bytes) -> Event:
    """Make the event that a line describes; what only the store can give is passed over.

    Raises:
        InputError: It describes none, or says something that would be lost.
    """
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError("not a JSON object")
    if unknown := fields.keys() - _KNOWN:
        raise InputError(f"unknown field {min(unknown)!r}")
    event_type, tags, metadata = fields.get("event_type"), fields.get("tags", []), fields.get("metadata", {})
    if not isinstance(event_type, str) or not event_type:
        raise InputError("event_type is missing")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InputError("tags must be a list of strings")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError("metadata must be an object of strings")
    data, content_type = _parse_data(fields)
    return Event(
        event_type,
        data,
        tags=tags,
        content_type=_text(fields, "content_type") or content_type,
        metadata=metadata,
        event_id=_text(fields, "event_id") or None,
    )


def _parse_data(fields: dict[str, Any]) -> tuple[bytes, str]:
    if encoded := _text(fields, "data_base64"):
        try:
            return base64.b64decode(encoded, validate=True), ""
        except binascii.Error:
            raise InputError("data_base64 is not base64") from None
    if "data" in fields:
        return encode_json(fields["data"]), JSON_CONTENT_TYPE
    return b"", ""


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string")
    return value


def event_fields(event: RecordedEvent) -> dict[str, object]:
    """Return an event as a JSON object."""
    fields: dict[str, object] = {
        "sortable_unique_id": event.sortable_unique_id,
        "position": event.position,
        "recorded_at": event.recorded_at.isoformat(),
        "event_id": event.event_id,
        "event_type": event.event_type,
        "tags": event.tags,
    }
    data, content_type = event.data, event.content_type
    exact = not data
    if content_type == JSON_CONTENT_TYPE or content_type.endswith("+json"):
        try:
            fields["data"] = json.loads(data)
            exact = encode_json(fields["data"]) == data
        except ValueError:
            pass
    if not exact:
        fields["data_base64"] = base64.b64encode(data).decode()
    return fields | {"content_type": content_type, "metadata": event.metadata}


def encode_json(value: object) -> bytes:
    """Encode a value as Event.json does."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
