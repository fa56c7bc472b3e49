"""Notices that tables were replaced, emptied or restored under a running server, or since one ran.

A put at the next place of another log would be acknowledged behind a hole, and a question to emptied rows would be
answered with "there is none". So before a put it is checked that the last entry is still there, and before a question
that the rows of the last entry that has rows are; not every time, but when a table was found missing, and else at
intervals too short to replace a table in.
"""

import asyncio

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import parts
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.database import Database, Item, Question, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.layout import Layout
from kudurru_server.storage.dynamodb.log import Log
from kudurru_server.storage.dynamodb.roll_forward import RollForward

_INTERVAL_SECONDS = 5.0
"""DynamoDB takes longer to delete a table and to make one of the same name."""


class _Turn:
    """Says when it is time to check."""

    def __init__(self) -> None:
        self._at = -_INTERVAL_SECONDS
        self._missing = 0

    def is_due(self, missing: int) -> bool:
        return missing != self._missing or asyncio.get_running_loop().time() - self._at >= _INTERVAL_SECONDS

    def done(self, missing: int) -> None:
        self._at, self._missing = asyncio.get_running_loop().time(), missing


class Replaced:
    """Checks that tables are the ones that were there before."""

    def __init__(self, database: Database, log: Log, rows: EventRows, roll: RollForward, layout: Layout) -> None:
        self._database = database
        self._layout = layout
        self._log = log
        self._rows = rows
        self._roll = roll
        self._log_turn = _Turn()
        self._rows_turn = _Turn()

    async def check_log(self) -> None:
        """Return if the log is the one this node has followed.

        Raises:
            StorageUnavailableError: it is not, or does not answer; nothing may be put.
        """
        missing = self._rows.outages.missing_tables
        if self._log_turn.is_due(missing):
            await self._log.check()
            self._log_turn.done(missing)

    async def check_rows(self) -> None:
        """Return if the rows are there that are recorded as written.

        Raises:
            StorageUnavailableError: they are not, or do not answer; what they say is not to be trusted.
        """
        missing = self._rows.outages.missing_tables
        if self._rows_turn.is_due(missing):
            applied = await self._roll.look()
            if applied.number:
                await self._check_rows_of(applied.number)
            self._rows_turn.done(missing)

    async def check_end(self) -> None:
        """Return if no event has a row and is not in the log.

        Raises:
            StorageUnavailableError: one has: the log was restored to an earlier time than the events.
        """
        last = await asyncio.gather(*map(self._last_row, range(self._layout.write_shard_count)))
        position = max((number_of(row, "position") for row in last if row is not None), default=0)
        if position and await self._log.reader.find(position) is None:
            raise StorageUnavailableError(
                f"event {position} has rows, but the log does not reach so far: it was restored to an earlier time; "
                "run `kudurru-server tables restore`"
            )

    async def _last_row(self, shard: int) -> Item | None:
        pk, low, high = keys.shard_pk(shard), keys.FIRST_CURSOR, keys.LAST_CURSOR
        question = Question(Table.EVENTS, pk, low, high, index=keys.ALL_EVENTS, forward=False)
        page = await self._rows.page(question, 1)
        if not page.items:
            return None
        key = keys.event_key(text_of(page.items[0], "event_id"))  # which the index may still show when it is deleted
        return await self._rows.asking(lambda: self._database.get(Table.EVENTS, key, consistent=True))

    async def _check_rows_of(self, number: int) -> None:
        place = await self._log.reader.place(number)
        found = (await self._rows.find(place.ids[-1:])).get(place.ids[-1])
        if found is None:
            raise _lacking(Table.EVENTS, number)
        event_type, _ = parts(found.stored.label)
        key = keys.type_key(event_type)
        item = await self._rows.asking(lambda: self._database.get(Table.TAGS, key, consistent=True))
        if item is None or number_of(item, "position") < place.last:
            raise _lacking(Table.TAGS, number)


def _lacking(table: Table, number: int) -> StorageUnavailableError:
    return StorageUnavailableError(
        f"the table of {table} lacks rows of log entry {number}, recorded as written: it was replaced or restored; "
        "`kudurru-server tables restore` writes them again"
    )
