"""Makes tables that were restored to different points in time one store again. The log decides.

Up to the end of the log everything is recorded, and behind it nothing. So the rows of every entry that has its body are
written again, rows above the head are deleted, and what is left of the tags is made from the events. Only events whose
entries are trimmed cannot be made again: if one of them has no row, the restore says which and does not come to an end.

Everything here may be cut off anywhere and begun again. Until it is done, `META#layout` keeps servers from starting.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import START, Cursor
from kudurru_server.storage.blobs.interface import Blobs
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of
from kudurru_server.storage.dynamodb.database import Absent, Database, Item, Question, Same, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.layout import Layout
from kudurru_server.storage.dynamodb.log import Log
from kudurru_server.storage.dynamodb.log_reader import LogReader
from kudurru_server.storage.dynamodb.payloads import Payloads
from kudurru_server.storage.dynamodb.restore_rows import Remains, RestoreError, RowsRestore
from kudurru_server.storage.dynamodb.retries import Pauses
from kudurru_server.storage.dynamodb.roll_forward import RollForward, RollOptions
from kudurru_server.storage.dynamodb.store import DynamoOptions
from kudurru_server.storage.dynamodb.trim import read_floor

_APPLIED = keys.meta_key("applied")
_LATE_SECONDS = 10.0
"""A request whose answer was lost may take effect so late: what it deletes, a server may have written again by then."""
_MOST_BEHIND = 1000
"""Partitions are restored to the same second, in which a log does not grow by more; a larger gap is another damage."""
_SHOWN = 20
"""Positions of missing events that an error names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the log says, and what follows from it."""

    floor: int
    """Entries above it have their bodies, and their rows are written again."""
    floor_cursor: Cursor
    number: int
    """The last entry."""
    head: Cursor
    behind: tuple[int, ...]
    """Entries behind a gap after the last one, which the partitions of the log were restored with; they are deleted."""
    applied: Item | None
    """The record of the watermark: if it moves, a server is at work."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done."""

    entries: int
    """Whose rows were written again."""
    event_rows_deleted: int
    tag_rows_deleted: int


class Restore:
    """Restores one store. Use `open_restore`."""

    def __init__(
        self, database: Database, rows: EventRows, log: Log, layout: Layout, roll: RollForward, *, lease_seconds: float
    ) -> None:
        self._database = database
        self._rows = rows
        self._log = log
        self._layout = layout
        self._roll = roll
        self._lease_seconds = lease_seconds

    async def plan(self) -> Plan:
        """Read the log from its floor to its end, and check it; nothing is written.

        Raises:
            RestoreError: a server is at work on these tables.
            StorageUnavailableError: the log is damaged, or a body or payload is missing, or there is no answer.
        """
        floor = (await read_floor(self._database, self._rows)).number
        begin, token = START, b""
        if floor:
            place = await self._log.reader.place(floor)
            begin, token = place.cursor, place.token
        self._log.begin(floor, begin, token)
        await self._log.catch_up()
        number, head, applied = self._log.number, self._log.head, await self._applied()
        await asyncio.sleep(self._lease_seconds)
        await self._log.catch_up()
        if self._log.number != number or await self._applied() != applied:
            raise RestoreError("a server is at work on these tables: stop every server first")
        behind = tuple([one async for one in self._behind(number)])
        if len(behind) > _MOST_BEHIND:
            raise RestoreError(f"log entry {number + 1} is missing, but {len(behind)} stand behind it: restore the log")
        return Plan(floor, begin, number, head, behind, applied)

    async def run(self, plan: Plan, name: str) -> Restored:
        """Do what the plan says; `name` is no other restore's.

        Raises:
            RestoreError: events are missing that no entry of the log has any more; or a server was at work meanwhile.
            StorageUnavailableError: the log is damaged, or there is no answer.
        """
        await self._layout.begin_restore(name)
        for number in plan.behind:
            await self._delete_entry(number)
        await self._write_again(plan)
        rows = RowsRestore(self._database, self._rows, self._roll, plan.head)
        events = await rows.events()
        self._refuse_gaps(events, plan)
        deleted = await rows.tags(events)
        await self._end(plan, events)
        return Restored(plan.number - plan.floor, events.deleted, deleted)

    async def _write_again(self, plan: Plan) -> None:
        # In batch writes: a request token of these rows may be known already, and then nothing would be written.
        self._log.begin(plan.floor, plan.floor_cursor)
        while self._log.number < plan.number:
            entries = await self._log.entries(self._log.head.position, latest=True)
            if not entries:
                raise StorageUnavailableError(f"log entry {self._log.number + 1} is missing")
            await self._roll.write(entries)

    async def _behind(self, number: int) -> AsyncIterator[int]:
        """Yield the entries above the last one, in its segment and the next."""
        low = number + 1
        for _ in range(2):
            high = (low // keys.SEGMENT_ENTRIES + 1) * keys.SEGMENT_ENTRIES - 1
            for first in range(low, min(high, low + self._log.reader.stripes - 1) + 1):  # one number on each stripe
                pk = keys.log_pk(first, self._log.reader.stripes)
                question = Question(Table.LOG, pk, low, high, consistent=True, attributes=("n",))
                async for item in self._rows.answer(question):
                    yield number_of(item, "n")
            low = high + 1

    async def _delete_entry(self, number: int) -> None:
        key = keys.log_key(number, self._log.reader.stripes)
        await self._rows.asking(lambda: self._database.delete(Table.LOG, key))

    @staticmethod
    def _refuse_gaps(events: Remains, plan: Plan) -> None:
        missing = list(events.missing(_SHOWN))
        if missing:
            raise RestoreError(
                f"events are missing whose log entries (up to {plan.floor}) are trimmed: restore the table of"
                f" events to a later time; positions {', '.join(map(str, missing))}"
                f"{' and more' if len(missing) == _SHOWN else ''}"
            )
        if events.twice:
            raise RestoreError(f"the table of events is of another store: position {events.twice} has two events")

    async def _end(self, plan: Plan, events: Remains) -> None:
        before = plan.applied
        beat = 1 if before is None else number_of(before, "beat") + 1
        item: Item = {
            "pk": _APPLIED.pk,
            "n": _APPLIED.sk,
            "entry_number": plan.number,
            "position": plan.head.position,
            "ticks": plan.head.ticks,
            "highest_id": events.highest_id,
            "holder": "restore",
            "beat": beat,
        }
        await asyncio.sleep(_LATE_SECONDS)
        same = Absent() if before is None else Same({"beat": before["beat"], "holder": before["holder"]})
        refused = await self._rows.asking(lambda: self._database.put(Table.LOG, item, same))
        if refused is not None and refused.item != item:
            raise RestoreError("a server was at work on these tables: stop every server, and restore again")
        await self._layout.end_restore()

    async def _applied(self) -> Item | None:
        return await self._rows.asking(lambda: self._database.get(Table.LOG, _APPLIED, consistent=True))


async def open_restore(
    database: Database, blobs: Blobs | None, options: DynamoOptions, *, chance: random.Random
) -> Restore:
    """Return what restores the tables of `database`, which no server uses.

    Raises:
        DataDirectoryError: they hold no store, or one of another format.
        StorageUnavailableError: there is no answer.
    """
    pauses = Pauses(chance)
    payloads = Payloads(blobs, options.payload_threshold_bytes)
    rows = EventRows(database, payloads, pauses, options.patience_seconds)
    layout = Layout(database, rows)
    await layout.refresh()
    reader = LogReader(database, payloads, rows, layout.stripes)
    log = Log(database, payloads, rows, layout, reader, writer="restore", chance=chance)
    roll = RollForward(
        database,
        rows,
        payloads,
        pauses,
        RollOptions(
            holder="restore",
            write_shard_count=layout.write_shard_count,
            layout="",
            in_transactions=False,
            at_once=options.writes_at_once,
            lease_seconds=options.lease_seconds,
            poll_seconds=options.poll_seconds,
        ),
    )
    return Restore(database, rows, log, layout, roll, lease_seconds=options.lease_seconds)
