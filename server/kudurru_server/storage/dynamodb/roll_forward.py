"""Roll forward: the rows of recorded entries are written, and the watermark `META#applied` follows.

One node does it at a time, whoever holds the lease; the others wait for the watermark. The lease is judged by
"unchanged for so long on my own clock", never by comparing clocks. Two at once are harmless: the same rows are the same
bytes, and only the holder, as the record stands when it writes it, moves the watermark.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import START, Cursor, Entry, Stored, parts
from kudurru_server.storage.dynamodb import chunks, keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.chunks import Chunk, Write
from kudurru_server.storage.dynamodb.database import Absent, Below, Database, Item, Refused, Same, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows, event_item, tag_items
from kudurru_server.storage.dynamodb.payloads import Cut, Payloads, payload_of_frame
from kudurru_server.storage.dynamodb.retries import Pauses

_BATCH_ITEMS = 25
_GROUP_EVENTS = 512  # events between two moves of the watermark
_KNOWN_TAGS = 100_000
_KEY = keys.meta_key("applied")


@dataclass(frozen=True, slots=True)
class RollOptions:
    """How rows are written."""

    holder: str
    write_shard_count: int
    layout: str
    """What the bytes of the rows depend on beside the entries: a part of every request token."""
    in_transactions: bool
    """Else in batch writes, at half the cost: atomicity does not depend on it."""
    at_once: int
    lease_seconds: float
    poll_seconds: float


@dataclass(frozen=True, slots=True)
class Applied:
    """The watermark as it is recorded."""

    number: int = 0
    cursor: Cursor = START
    highest_id: str = ""
    holder: str | None = None
    beat: int | None = None
    """Counts the writes to the record."""


def applied_of(item: Item | None) -> Applied:
    """Decode the record of the watermark."""
    if item is None:
        return Applied()
    return Applied(
        number=number_of(item, "entry_number"),
        cursor=Cursor(number_of(item, "ticks"), number_of(item, "position")),
        highest_id=text_of(item, "highest_id"),
        holder=text_of(item, "holder"),
        beat=number_of(item, "beat"),
    )


class RollForward:
    """Writes rows, or waits until another node has."""

    def __init__(
        self, database: Database, rows: EventRows, payloads: Payloads, pauses: Pauses, options: RollOptions
    ) -> None:
        self._database = database
        self._rows = rows
        self._payloads = payloads
        self._pauses = pauses
        self._options = options
        self._known_tags: dict[str, None] = {}
        self._turn = asyncio.Lock()
        self._held = Applied()
        """The record as this node has written it last."""

    @property
    def holder(self) -> str:
        """The name under which this node holds the lease."""
        return self._options.holder

    async def look(self) -> Applied:
        """Read the watermark."""
        return applied_of(await self._rows.asking(lambda: self._database.get(Table.LOG, _KEY, consistent=True)))

    async def apply(self, entries: Sequence[Entry], number_of_last: Callable[[Entry], Awaitable[int]]) -> None:
        """Return when the rows of `entries` are written and the watermark is at their end, whoever did it."""
        target = entries[-1].last
        loop = asyncio.get_running_loop()
        seen, since = await self.look(), loop.time()
        while seen.cursor.position < target:
            if seen.holder in {None, self._options.holder} or loop.time() - since >= self._options.lease_seconds:
                if seen == self._held or await self._move(seen, seen):
                    await self._holding_on(partial(self._write_all, entries, number_of_last))
            else:
                await asyncio.sleep(self._options.poll_seconds)
            now = await self.look()
            if now != seen:
                seen, since = now, loop.time()

    async def _holding_on(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, and show the others now and then that this node is alive."""
        done = asyncio.Event()
        beating = asyncio.ensure_future(self._beat(done))
        try:
            await work()
        finally:
            done.set()
            await beating

    async def _beat(self, done: asyncio.Event) -> None:
        while not done.is_set():
            try:
                async with asyncio.timeout(self._options.lease_seconds / 3):
                    await done.wait()
            except TimeoutError:
                async with self._turn:
                    with suppress(StorageUnavailableError):  # the work will find out
                        await self._move(self._held, self._held)

    async def _move(self, seen: Applied, to: Applied) -> bool:
        """Write the record if it is still as `seen`; return whether it is what was written."""
        beat = (seen.beat or 0) + 1
        values: Item = {
            "entry_number": to.number,
            "position": to.cursor.position,
            "ticks": to.cursor.ticks,
            "highest_id": to.highest_id,
            "holder": self._options.holder,
            "beat": beat,
        }
        written = Applied(to.number, to.cursor, to.highest_id, self._options.holder, beat)
        if seen.beat is None:
            item: Item = {"pk": _KEY.pk, "n": _KEY.sk, **values}
            refused = await self._rows.asking(lambda: self._database.put(Table.LOG, item, Absent()))
        else:
            same = Same({"beat": seen.beat, "holder": seen.holder})
            refused = await self._rows.asking(lambda: self._database.update(Table.LOG, _KEY, values, same))
        if self._is_written(refused, written):
            self._held = written
            return True
        return False

    @staticmethod
    def _is_written(refused: Refused | None, written: Applied) -> bool:
        # An attempt whose answer was lost finds its own effect in the way.
        return refused is None or (refused.item is not None and applied_of(refused.item) == written)

    async def _write_all(self, entries: Sequence[Entry], number_of_last: Callable[[Entry], Awaitable[int]]) -> None:
        """Write rows and move the watermark while the lease is held."""
        for group in _groups([entry for entry in entries if entry.last > self._held.cursor.position]):
            await self.write(group)
            last = group[-1]
            number = await number_of_last(last)
            async with self._turn:
                highest_id = max(self._held.highest_id, *(max(entry.ids) for entry in group))
                to = Applied(number, Cursor(last.ticks, last.last), highest_id)
                if not await self._move(self._held, to):
                    return

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write the rows of entries, whatever the watermark is."""
        events = await asyncio.gather(*map(self._cut, entries))
        newest = {parts(stored.label)[0]: stored for some in events for stored, _ in some}
        tags = {tag for some in events for stored, _ in some for tag in parts(stored.label)[1]}
        work: list[Callable[[], Awaitable[None]]] = [
            *(partial(self._write_chunk, chunk) for some in events for chunk in chunks.cut(map(self._rows_of, some))),
            *(partial(self._write_type, stored) for stored in newest.values()),
            partial(self.list_tags, tags),
        ]
        limit = asyncio.Semaphore(self._options.at_once)
        for failure in await asyncio.gather(*(_limited(limit, one) for one in work), return_exceptions=True):
            if failure is not None:
                raise failure

    async def _cut(self, entry: Entry) -> list[tuple[Stored, Cut | None]]:
        """Return the events of an entry without their large payloads, which are kept, and what is missing of each."""
        frames = list(entry.frames)
        cuts = {cut.place: cut for cut in await self._payloads.take_out(frames, payload_of_frame)}
        return [
            (replace(entry.stored(entry.first + place), frame=frame), cuts.get(place))
            for place, frame in enumerate(frames)
        ]

    def _rows_of(self, event: tuple[Stored, Cut | None]) -> tuple[str, list[Write]]:
        stored, missing = event
        own = event_item(stored, missing, self._options.write_shard_count)
        return stored.event_id, [(Table.EVENTS, own), *((Table.TAGS, item) for item in tag_items(stored, missing))]

    async def _write_chunk(self, chunk: Chunk) -> None:
        if self._options.in_transactions:
            token = keys.token(chunk.event_ids, chunk.number, self._options.layout)
            await self._rows.asking(lambda: self._database.transact(chunk.writes, token))
        else:
            await self.write_many(chunk.writes)

    async def write_many(self, writes: Sequence[Write]) -> None:
        """Write rows, each by itself."""
        rest = iter(writes)
        while left := list(islice(rest, _BATCH_ITEMS)):
            attempt = 0
            while left:
                tried = len(left)
                left = await self._rows.asking(partial(self._database.write_many, left))
                if left:
                    attempt = attempt + 1 if len(left) == tried else 1
                    await self._pauses.before(attempt)

    async def _write_type(self, stored: Stored) -> None:
        event_type, tags = parts(stored.label)
        values: Item = {
            "sortable_unique_id": str(Cursor(stored.ticks, stored.position)),
            "position": stored.position,
            "event_id": stored.event_id,
            "event_type": event_type,
            "tags": list(tags),
        }
        key = keys.type_key(event_type)
        below = Below("position", stored.position)
        await self._rows.asking(lambda: self._database.update(Table.TAGS, key, values, below))

    async def list_tags(self, tags: Iterable[str]) -> None:
        """Write the rows by which tags are listed."""
        new = sorted(tag for tag in tags if tag not in self._known_tags)
        rows = {key: tag for tag in new for key in keys.listing_keys(tag)}
        await self.write_many([(Table.TAGS, {"pk": key.pk, "sk": key.sk}) for key in rows])
        for tag in new:
            self._known_tags[tag] = None
        while len(self._known_tags) > _KNOWN_TAGS:
            self._known_tags.pop(next(iter(self._known_tags)))


async def _limited(limit: asyncio.Semaphore, work: Callable[[], Awaitable[None]]) -> None:
    async with limit:
        await work()


def _groups(entries: Sequence[Entry]) -> Iterable[list[Entry]]:
    group: list[Entry] = []
    events = 0
    for entry in entries:
        group.append(entry)
        events += len(entry.ids)
        if events >= _GROUP_EVENTS:
            yield group
            group, events = [], 0
    if group:
        yield group
