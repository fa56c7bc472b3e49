"""The keys of every item. Pure functions: the order of sort keys is the order of events."""

import hashlib
from collections.abc import Sequence

from kudurru_server.model import Cursor, group_of
from kudurru_server.storage.dynamodb.database import Key

SEGMENT_ENTRIES = 65_536
FIRST_CURSOR = "0" * 30
"""Below every sortable unique id."""
LAST_CURSOR = "9" * 30
ALL_EVENTS = "all_events"
"""The index of all events: partition key `gsi1pk`, sort key `sortable_unique_id`."""
_ABOVE_IDS = "~"
"""Sorts above every digit, letter and `#`."""


def log_pk(number: int, stripes: int) -> str:
    """Return the partition of entry `number`: neighbours lie on different stripes."""
    return f"LOG#{number // SEGMENT_ENTRIES}#{number % stripes}"


def log_key(number: int, stripes: int) -> Key:
    """Return the key of entry `number`."""
    return Key(log_pk(number, stripes), number)


def meta_key(name: str) -> Key:
    """Return the key of one of the log's own records."""
    return Key(f"META#{name}", 0)


def spill_key(name: str, part: int) -> Key:
    """Return the key of a part of the body of an entry that is too large for one item."""
    return Key(f"SPILL#{name}", part)


def event_key(event_id: str) -> Key:
    """Return the key of an event."""
    return Key(f"EVENT#{event_id}", f"EVENT#{event_id}")


def shard_pk(shard: int) -> str:
    """Return the partition of a shard of the index of all events."""
    return f"ALL_EVENTS#{shard}"


def shard_of(sortable_unique_id: str, write_shard_count: int) -> int:
    """Return the shard of the index of all events that an event is written to."""
    digest = hashlib.sha256(sortable_unique_id.encode()).digest()
    return (int.from_bytes(digest[:4], "little") & 0x7FFF_FFFF) % write_shard_count


def tag_pk(tag: str) -> str:
    """Return the partition of a tag's rows."""
    return f"TAG#{tag}"


def tag_sk(cursor: Cursor, event_id: str) -> str:
    """Return the sort key of a tag's row."""
    return f"{cursor}#{event_id}"


def tag_span(after: Cursor, until: Cursor) -> tuple[str, str]:
    """Return the lowest and highest sort key of a tag's rows in (after, until], both cursors of events."""
    return f"{after}{_ABOVE_IDS}" if str(after) else FIRST_CURSOR, f"{until}{_ABOVE_IDS}"


def type_key(event_type: str) -> Key:
    """Return the key of the row that knows the last event of a type."""
    return Key(f"TYPE#{event_type}", "LAST")


LOWEST_NAME = " "
HIGHEST_NAME = "\U0010ffff"
"""Around every tag: none has a character below a space."""

GROUPS_PK = "GROUPS"
"""The partition that lists every group, in order."""


def group_pk(group: str) -> str:
    """Return the partition that lists the tags of a group, in order."""
    return f"GROUP#{group}"


def listing_keys(tag: str) -> tuple[Key, Key]:
    """Return the keys of the rows by which a tag is listed: its group's among the groups, and its own in the group."""
    group = group_of(tag)
    return Key(GROUPS_PK, f"#{group}"), Key(group_pk(group), tag)


def token(event_ids: Sequence[str], chunk: int, layout: str) -> str:
    """Return the request token of a transaction: the same rows of the same layout always have the same one."""
    text = "\n".join((*event_ids, str(chunk), layout))
    return hashlib.sha256(text.encode()).hexdigest()[:36]
