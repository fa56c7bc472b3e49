"""The store on DynamoDB: the parts put together behind the contract."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from kudurru_server.model import START, Batch, Cursor, Entry, Query, QueryItem, Stored, TagSummary
from kudurru_server.storage.blobs.interface import Blobs
from kudurru_server.storage.dynamodb.conditions import Conditions
from kudurru_server.storage.dynamodb.database import Database
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.history import History
from kudurru_server.storage.dynamodb.layout import FORMAT, Layout
from kudurru_server.storage.dynamodb.leader import DynamoLeaderRecord
from kudurru_server.storage.dynamodb.log import Log
from kudurru_server.storage.dynamodb.log_reader import LogReader
from kudurru_server.storage.dynamodb.merge import IndexReader
from kudurru_server.storage.dynamodb.payloads import Payloads, payload_of_event
from kudurru_server.storage.dynamodb.replaced import Replaced
from kudurru_server.storage.dynamodb.retries import Pauses
from kudurru_server.storage.dynamodb.roll_forward import RollForward, RollOptions
from kudurru_server.storage.dynamodb.tag_rows import Range, TagRows
from kudurru_server.storage.dynamodb.trim import Trimmer, Trimming
from kudurru_server.storage.interface import Check, Span


@dataclass(frozen=True, slots=True)
class DynamoOptions:
    """How the store uses DynamoDB and S3."""

    stripes: int = 4
    """Partitions that neighbouring log entries are spread over; fixed when the store is made."""
    write_shard_count: int = 4
    """Partitions that the index of all events is spread over; may be raised at any time."""
    payload_threshold_bytes: int = 256 << 10
    """Payloads above it go to S3."""
    in_transactions: bool = True
    """Write an entry's rows in transactions; else in batch writes."""
    prefer_index: bool = False
    """Read history from the index of all events although the log has it."""
    writes_at_once: int = 8
    lease_seconds: float = 3.0
    """A node that has rows to write and moves nothing for so long is replaced."""
    poll_seconds: float = 0.25
    """Between looks at what the node that writes the rows has done."""
    patience_seconds: float = 10.0
    """How long anything is tried; the outcome of a put is unknown after that."""


class DynamoStorage:
    """A `Storage` on a database. Use `open_storage`."""

    def __init__(
        self,
        *,
        log: Log,
        rows: EventRows,
        tag_rows: TagRows,
        history: History,
        conditions: Conditions,
        roll: RollForward,
        leader_record: DynamoLeaderRecord,
        payloads: Payloads,
        replaced: Replaced,
    ) -> None:
        self._log = log
        self._rows = rows
        self._tag_rows = tag_rows
        self._history = history
        self._conditions = conditions
        self._roll = roll
        self.leader_record = leader_record
        self._payloads = payloads
        self._replaced = replaced

    async def begin(self) -> None:
        """Start behind the watermark."""
        applied = await self._roll.look()
        last = await self._log.reader.place(applied.number) if applied.number else None
        self._log.begin(applied.number, applied.cursor, None if last is None else last.token)
        await self._replaced.check_rows()
        await self._replaced.check_end()

    async def head(self) -> Cursor:
        """See `Storage`."""
        await self._log.catch_up()
        return self._log.head

    async def put(self, entry: Entry) -> bool:
        """See `Storage`."""
        await self._replaced.check_log()
        return await self._log.put(entry)

    async def keep(self, encoded: Sequence[bytes]) -> None:
        """See `Storage`."""
        await self._payloads.take_out(list(encoded), payload_of_event)

    async def entries(self, after: int, *, latest: bool = True) -> Sequence[Entry]:
        """See `Storage`."""
        return await self._log.entries(after, latest=latest)

    async def applied(self) -> int:
        """See `Storage`."""
        return (await self._roll.look()).cursor.position

    async def highest_id(self) -> str | None:
        """See `Storage`."""
        return (await self._roll.look()).highest_id

    async def apply(self, entries: Sequence[Entry]) -> None:
        """See `Storage`."""
        await self._replaced.check_log()
        await self._replaced.check_rows()
        await self._roll.apply(entries, self._number_of)

    async def _number_of(self, entry: Entry) -> int:
        return await self._log.reader.number_at(entry.last)

    async def history(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        """See `Storage`."""
        await self._replaced.check_rows()
        return await self._history.read(query, span, max_events, max_bytes)

    async def first_matches(self, checks: Sequence[Check], until: int) -> list[Stored | None]:
        """See `Storage`."""
        await self._replaced.check_rows()
        return list(await asyncio.gather(*(self._conditions.first(check, until) for check in checks)))

    async def find(self, event_ids: Sequence[str], until: int) -> dict[str, Stored]:
        """See `Storage`."""
        await self._replaced.check_rows()
        rows = await self._rows.find(event_ids)
        found = await self._rows.complete([row for row in rows.values() if row.stored.position <= until])
        return {stored.event_id: stored for stored in found}

    async def ticks_at(self, position: int) -> int:
        """See `Storage`."""
        return await self._log.reader.ticks_at(position)

    async def position_before(self, ticks: int, until: int) -> int:
        """See `Storage`."""
        return await self._log.reader.position_before(ticks, until)

    async def tag(self, tag: str, until: int, *, with_count: bool) -> TagSummary | None:
        """See `Storage`."""
        if not until:
            return None
        await self._replaced.check_rows()
        end = Cursor(await self._log.reader.ticks_at(until), until)
        query = Query((QueryItem(tags=(tag,)),))
        first = await self._tag_rows.read(query, Range(START, end), 1)
        last = await self._tag_rows.read(query, Range(START, end, backwards=True), 1)
        if not first.events or not last.events:
            return None
        count = await self._tag_rows.count(tag, end) if with_count else None
        return TagSummary(first.events[0].position, last.events[0].position, count)

    async def tags(self, group: str | None, after: str | None, limit: int) -> list[str]:
        """See `Storage`."""
        await self._replaced.check_rows()
        return await self._tag_rows.listed(group, after, limit)


@asynccontextmanager
async def open_storage(
    database: Database,
    blobs: Blobs | None,
    options: DynamoOptions,
    *,
    chance: random.Random,
    trimming: Trimming | None = None,
) -> AsyncIterator[DynamoStorage]:
    """Open the store in the tables of `database`, which exist; other nodes may have it open, too.

    Without `trimming` the log is kept for ever.

    Raises:
        DataDirectoryError: it has another format.
        StorageUnavailableError: it does not answer.
    """
    pauses = Pauses(chance)
    node = chance.randbytes(8).hex()
    payloads = Payloads(blobs, options.payload_threshold_bytes)
    rows = EventRows(database, payloads, pauses, options.patience_seconds)
    layout = Layout(database, rows)
    await layout.agree(options.stripes, options.write_shard_count)
    reader = LogReader(database, payloads, rows, layout.stripes)
    log = Log(database, payloads, rows, layout, reader, writer=node, chance=chance)
    roll = RollForward(
        database,
        rows,
        payloads,
        pauses,
        RollOptions(
            holder=node,
            write_shard_count=options.write_shard_count,
            layout=f"{FORMAT}:{options.write_shard_count}:{options.payload_threshold_bytes}:{layout.restored}",
            in_transactions=options.in_transactions,
            at_once=options.writes_at_once,
            lease_seconds=options.lease_seconds,
            poll_seconds=options.poll_seconds,
        ),
    )
    tag_rows = TagRows(rows)
    index = IndexReader(rows, layout)
    history = History(reader, rows, tag_rows, index, pauses, prefer_index=options.prefer_index)
    storage = DynamoStorage(
        log=log,
        rows=rows,
        tag_rows=tag_rows,
        history=history,
        conditions=Conditions(database, rows, tag_rows, reader, history),
        roll=roll,
        leader_record=DynamoLeaderRecord(database, rows),
        payloads=payloads,
        replaced=Replaced(database, log, rows, roll, layout),
    )
    await storage.begin()
    async with nullcontext() if trimming is None else Trimmer(database, rows, reader, roll, trimming).running():
        yield storage
