"""Trims the log: an applied entry older than the retention loses its body, and keeps its key and all else for ever.

A deleted key could be written again, and a node that slept would fork the store. So nothing here creates or deletes a
log key. `META#floor` says up to which entry bodies may be gone: it is raised before the first of them goes, so that
every entry above it has its body, which a restore builds on. The parts of a large body go before the entry's word of
them: a crash leaves no part that nobody knows of, and a reader that misses a part takes the rows, as it does for every
entry without a body.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import TICKS_PER_SECOND
from kudurru_server.storage.dynamodb import chunks, keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.database import Below, Database, Item, Present, Table
from kudurru_server.storage.dynamodb.entry_item import BODY_ATTRIBUTES, PART_BYTES, has_body
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.log_reader import LogReader
from kudurru_server.storage.dynamodb.roll_forward import RollForward

_ENTRIES = 400
_BYTES = 2 << 20
"""At most this much is trimmed at a time: a removal costs a write unit a kilobyte, on the partitions of the log."""
_AT_ONCE = 8
_BUSY_SECONDS = 1.0
_IDLE_SECONDS = 60.0
_KEY = keys.meta_key("floor")

_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trimming:
    """Which entries are old."""

    retention_seconds: float
    clock: Callable[[], int]
    """The store's time in ticks, which the entries carry as well."""


@dataclass(frozen=True, slots=True)
class Floor:
    """How far the log is trimmed."""

    number: int = 0
    """Up to this entry bodies may be gone; above it every entry has its body."""
    trimmed: int = 0
    """Up to this entry they are gone."""


async def read_floor(database: Database, rows: EventRows) -> Floor:
    """Read how far the log is trimmed."""
    item = await rows.asking(lambda: database.get(Table.LOG, _KEY, consistent=True)) or {}
    return Floor(
        number=number_of(item, "entry_number") if "entry_number" in item else 0,
        trimmed=number_of(item, "trimmed") if "trimmed" in item else 0,
    )


class Trimmer:
    """Trims the log while this node is the one that writes the rows; a second one at the same time does no harm."""

    def __init__(
        self, database: Database, rows: EventRows, log: LogReader, roll: RollForward, trimming: Trimming
    ) -> None:
        self._database = database
        self._rows = rows
        self._log = log
        self._roll = roll
        self._trimming = trimming

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Trim in the background.

        Not in a task group, which would wrap the caller's own exceptions.
        """
        task = asyncio.ensure_future(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                trimmed = await self.step()
            except StorageUnavailableError as error:
                _logger.warning("trim_failed", reason=error.reason, error=error.message)
                trimmed = 0
            except Exception as error:
                _logger.exception("trim_failed", exc_info=error)
                trimmed = 0
            took = loop.time() - began
            await asyncio.sleep(max(0.0, _BUSY_SECONDS - took) if trimmed else _IDLE_SECONDS)

    async def step(self) -> int:
        """Trim the next entries that are old; return how many."""
        applied = await self._roll.look()
        if applied.holder != self._roll.holder:
            return 0
        floor = await read_floor(self._database, self._rows)
        low = floor.trimmed + 1
        if not self._old(await self._log.items(low, min(low, applied.number))):
            return 0
        old = self._old(await self._log.items(low, min(floor.trimmed + _ENTRIES, applied.number)))
        if not old:
            return 0
        end = number_of(old[-1], "n")
        await self._raise("entry_number", end)
        for start in range(0, len(old), _AT_ONCE):
            await asyncio.gather(*map(self._trim, old[start : start + _AT_ONCE]))
        await self._raise("trimmed", end)
        return len(old)

    def _old(self, items: list[Item]) -> list[Item]:
        """Return the first items, as far as they are old and not too many bytes."""
        border = self._trimming.clock() - int(self._trimming.retention_seconds * TICKS_PER_SECOND)
        found: list[Item] = []
        size = 0
        for item in items:
            if number_of(item, "ticks") > border or size > _BYTES:
                break
            found.append(item)
            size += chunks.size_bytes(item)
            size += number_of(item, "spilled_parts") * PART_BYTES if "spilled_parts" in item else 0
        return found

    async def _trim(self, item: Item) -> None:
        if not has_body(item):
            return
        if "spilled_to" in item:
            for part in range(number_of(item, "spilled_parts")):
                await self._delete_part(text_of(item, "spilled_to"), part)
        key = keys.log_key(number_of(item, "n"), self._log.stripes)
        await self._rows.asking(
            lambda: self._database.update(Table.LOG, key, {}, Present(), remove=BODY_ATTRIBUTES),
        )

    async def _delete_part(self, name: str, part: int) -> None:
        await self._rows.asking(lambda: self._database.delete(Table.LOG, keys.spill_key(name, part)))

    async def _raise(self, name: str, number: int) -> None:
        values: Item = {name: number}
        await self._rows.asking(lambda: self._database.update(Table.LOG, _KEY, values, Below(name, number)))
