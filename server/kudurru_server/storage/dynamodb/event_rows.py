"""The derived rows of events: what they look like, and what is read from them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import Cursor, Entry, Limits, Stored
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import bytes_of, number_of, text_of, texts_of
from kudurru_server.storage.dynamodb.database import Database, Item, Key, Page, Question, Table
from kudurru_server.storage.dynamodb.entry_item import Place
from kudurru_server.storage.dynamodb.outages import Outages
from kudurru_server.storage.dynamodb.payloads import Cut, Payloads
from kudurru_server.storage.dynamodb.retries import DatabaseError, OperatorError, Pauses, patiently

_GET_MANY = 100
_SMALL_FRAME_BYTES = 4096
"""A tag row carries the frame up to here, so that a read by tag needs no second look-up."""
ITEM_BYTES = 409_600
"""DynamoDB's limit, with the names of attributes."""
_ROW_OVERHEAD_BYTES = 1_000  # keys, positions, ids, names of attributes, and what encoding adds once
_PAIR_OVERHEAD_BYTES = 12  # what encoding adds to a tag or to a metadata pair
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Row:
    """An event as one of its rows has it."""

    stored: Stored
    cut: Cut | None
    """What the frame lacks."""
    has_frame: bool
    """False: only the event's own row has the frame."""


def largest_row_bytes(limits: Limits) -> int:
    """Return how large the row of an event may become that is within the limits, a payload of `data_bytes` included."""
    tags = limits.tags_per_event * (limits.tag_bytes + _PAIR_OVERHEAD_BYTES)
    metadata = limits.metadata_bytes + limits.metadata_pairs * _PAIR_OVERHEAD_BYTES
    frame = limits.data_bytes + limits.event_type_bytes + tags + metadata + limits.content_type_bytes
    return frame + limits.event_type_bytes + tags + _ROW_OVERHEAD_BYTES


def event_item(stored: Stored, cut: Cut | None, write_shard_count: int) -> Item:
    """Return the row of an event, whose frame lacks what `cut` says."""
    key = keys.event_key(stored.event_id)
    cursor = str(Cursor(stored.ticks, stored.position))
    shard = keys.shard_of(cursor, write_shard_count)
    item = {"pk": key.pk, "sk": key.sk, "gsi1pk": keys.shard_pk(shard), **_common(stored), "frame": stored.frame}
    if cut is not None:
        item |= {"payload_sha256": cut.digest, "payload_offset": cut.offset}
    return item


def tag_items(stored: Stored, cut: Cut | None) -> list[Item]:
    """Return the rows of an event's tags."""
    _, *tags = stored.label.split("\t")
    rest = _common(stored)
    if cut is None and len(stored.frame) <= _SMALL_FRAME_BYTES:
        rest["frame"] = stored.frame
    sk = keys.tag_sk(Cursor(stored.ticks, stored.position), stored.event_id)
    return [{"pk": keys.tag_pk(tag), "sk": sk, **rest} for tag in tags]


def _common(stored: Stored) -> Item:
    event_type, *tags = stored.label.split("\t")
    return {
        "sortable_unique_id": str(Cursor(stored.ticks, stored.position)),
        "position": stored.position,
        "event_id": stored.event_id,
        "event_type": event_type,
        "tags": tags,
        "append_first": stored.append_first,
        "append_count": stored.append_count,
    }


def row_of(item: Item) -> Row:
    """Decode a row of an event or of a tag."""
    frame = bytes_of(item, "frame") if "frame" in item else b""
    cut = None
    if "payload_sha256" in item:
        cut = Cut(0, number_of(item, "payload_offset"), text_of(item, "payload_sha256"))
    stored = Stored(
        event_id=text_of(item, "event_id"),
        position=number_of(item, "position"),
        ticks=int(text_of(item, "sortable_unique_id")[:19]),
        append_first=number_of(item, "append_first"),
        append_count=number_of(item, "append_count"),
        label="\t".join((text_of(item, "event_type"), *texts_of(item, "tags"))),
        frame=frame,
    )
    return Row(stored, cut, "frame" in item)


class EventRows:
    """Reads events from their rows."""

    def __init__(self, database: Database, payloads: Payloads, pauses: Pauses, patience_seconds: float) -> None:
        self._database = database
        self._payloads = payloads
        self._pauses = pauses
        self._patience_seconds = patience_seconds
        self.outages = Outages()

    async def find(self, event_ids: Iterable[str]) -> dict[str, Row]:
        """Return the rows of those events that have one, consistently; frames may lack their payloads."""
        wanted = [keys.event_key(event_id) for event_id in dict.fromkeys(event_ids)]
        chunks = (wanted[start : start + _GET_MANY] for start in range(0, len(wanted), _GET_MANY))
        found = await asyncio.gather(*map(self._get_many, chunks))
        return {row.stored.event_id: row for items in found for row in map(row_of, items)}

    async def _get_many(self, wanted: list[Key]) -> list[Item]:
        items: list[Item] = []
        attempt = 0
        while wanted:
            some, wanted = await self.asking(partial(self._database.get_many, Table.EVENTS, wanted))
            items += some
            if wanted:
                attempt = 1 if some else attempt + 1
                await self._pauses.before(attempt)
        return items

    async def entry(self, place: Place) -> Entry:
        """Return the entry whose events have the ids of `place`: its body is trimmed, so all of them have rows.

        Raises:
            StorageUnavailableError: the rows are not there or do not answer: the tables do not belong together.
        """
        rows = await self.find(place.ids)
        for position, event_id in enumerate(place.ids, place.first):
            if event_id not in rows or rows[event_id].stored.position != position:
                raise StorageUnavailableError(
                    f"log entry {place.number} has no body, and its event at position {position} no row"
                )
        found = await self.complete([rows[event_id] for event_id in place.ids])
        appends = dict.fromkeys((stored.append_first, stored.append_count) for stored in found)
        return Entry(
            first=place.first,
            ticks=place.ticks,
            ids=place.ids,
            labels=[stored.label for stored in found],
            frames=[stored.frame for stored in found],
            appends=list(appends),
        )

    async def complete(self, rows: Sequence[Row]) -> list[Stored]:
        """Return the events of rows with whole frames."""
        bare = [row.stored.event_id for row in rows if not row.has_frame]
        if bare:
            found = await self.find(bare)
            rows = [row if row.has_frame else found[row.stored.event_id] for row in rows]
        cuts = [Cut(place, row.cut.offset, row.cut.digest) for place, row in enumerate(rows) if row.cut is not None]
        if not cuts:
            return [row.stored for row in rows]
        frames = [row.stored.frame for row in rows]
        await self._payloads.put_back(frames, cuts)
        return [replace(row.stored, frame=frame) for row, frame in zip(rows, frames, strict=True)]

    async def page(self, question: Question, limit: int | None = None, start: Item | None = None) -> Page:
        """Return the next page of an answer that is not empty, or the last."""
        while True:
            page = await self.asking(partial(self._database.query, question, limit, start))
            if page.items or page.more is None:
                return page
            start = page.more

    async def answer(self, question: Question) -> AsyncIterator[Item]:
        """Yield every item of an answer."""
        page = await self.page(question)
        while True:
            for item in page.items:
                yield item
            if page.more is None:
                return
            page = await self.page(question, start=page.more)

    async def asking(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Ask until there is an answer.

        Raises:
            StorageUnavailableError: there is none.
        """
        try:
            return await patiently(call, self._pauses, self._patience_seconds)
        except DatabaseError as error:
            self.outages.note(error)
            outcome = "refuses" if isinstance(error, OperatorError) else "does not answer"
            raise StorageUnavailableError(f"DynamoDB {outcome}: {error.message} ({error.code})") from error
