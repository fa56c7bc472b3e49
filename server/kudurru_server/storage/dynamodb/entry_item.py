"""A log entry as an item: what the log says of it, and its body, or where the parts of a large body lie."""

from collections.abc import Sequence
from dataclasses import dataclass

from xxhash import xxh3_128_digest

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.frame import make_frames
from kudurru_server.model import Cursor, Entry
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import bytes_of, number_of
from kudurru_server.storage.dynamodb.body import Body
from kudurru_server.storage.dynamodb.database import Item, Value

PART_BYTES = 380_000
"""Of a body, in one item: with the rest of the item it stays below DynamoDB's 409,600 bytes."""
_ENTRY_BYTES = 400_000
_OVERHEAD_BYTES = 1_000
ID_BYTES = 16
BODY_ATTRIBUTES = ("body", "spilled_to", "spilled_parts", "checksum")
"""What an entry loses when it is trimmed."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the log says of an entry, whatever has become of its body."""

    number: int
    first: int
    last: int
    ticks: int
    token: bytes
    previous_token: bytes
    ids: list[str]

    @property
    def cursor(self) -> Cursor:
        """The cursor of its last event."""
        return Cursor(self.ticks, self.last)


def fits(packed: bytes, events: int) -> bool:
    """Tell whether a body of so many events fits into the entry's own item."""
    return len(packed) + ID_BYTES * events + _OVERHEAD_BYTES <= _ENTRY_BYTES


def to_item(entry: Entry, place: Place, stripes: int, writer: str, body: dict[str, Value]) -> Item:
    """Return the item of `entry`; `body` holds the attributes that `body_attributes` made."""
    key = keys.log_key(place.number, stripes)
    return {
        "pk": key.pk,
        "n": key.sk,
        "first_position": entry.first,
        "event_count": len(entry.ids),
        "ticks": entry.ticks,
        "first_id": str(Cursor(entry.ticks, entry.first)),
        "last_id": str(Cursor(entry.ticks, entry.last)),
        "event_ids": bytes.fromhex("".join(entry.ids).replace("-", "")),
        "writer": writer,
        "token": place.token,
        "previous_token": place.previous_token,
        **body,
    }


def body_attributes(packed: bytes, spilled_to: str | None) -> dict[str, Value]:
    """Return the attributes that hold a body, or say where it is."""
    checksum = xxh3_128_digest(packed)
    if spilled_to is None:
        return {"body": packed, "checksum": checksum}
    parts = -(-len(packed) // PART_BYTES)
    return {"spilled_to": spilled_to, "spilled_parts": parts, "checksum": checksum}


def check(packed: bytes, checksum: Value, number: int) -> bytes:
    """Return the body if it is whole.

    Raises:
        StorageUnavailableError: it is damaged.
    """
    if xxh3_128_digest(packed) != checksum:
        raise StorageUnavailableError(f"the body of log entry {number} is damaged")
    return packed


def has_body(item: Item) -> bool:
    """Tell whether an entry has not been trimmed."""
    return "body" in item or "spilled_to" in item


def place_of(item: Item) -> Place:
    """Decode what the log says of an entry."""
    first, count = number_of(item, "first_position"), number_of(item, "event_count")
    return Place(
        number=number_of(item, "n"),
        first=first,
        last=first + count - 1,
        ticks=number_of(item, "ticks"),
        token=bytes_of(item, "token"),
        previous_token=bytes_of(item, "previous_token"),
        ids=_ids(bytes_of(item, "event_ids")),
    )


def to_entry(place: Place, body: Body) -> Entry:
    """Return the entry at a place; the events of `body` are whole."""
    appends: list[tuple[int, int]] = []
    first = place.first
    for count in body.counts:
        appends.append((first, count))
        first += count
    return Entry(place.first, place.ticks, place.ids, body.labels, frames_of(place, body.events), appends)


def frames_of(place: Place, events: Sequence[bytes]) -> list[bytes]:
    """Return the frames of the events of an entry."""
    return make_frames(events, place.first, place.ticks)


def _ids(packed: bytes) -> list[str]:
    digits = packed.hex()
    ids = (digits[at : at + 32] for at in range(0, len(digits), 32))
    return [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in ids]
