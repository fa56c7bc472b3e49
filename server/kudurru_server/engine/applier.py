"""The applier: has the derived rows of what is recorded written, and moves the watermark.

It never stops: what fails is tried again. A crash loses nothing, because the next start goes on from the watermark.
"""

import asyncio

import structlog

from kudurru_server.engine.complaint import Complaint
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import KudurruError
from kudurru_server.model import START, Cursor, Entry
from kudurru_server.storage.interface import Storage

_RETRY_SECONDS = 1.0
_logger = structlog.get_logger()


async def recover(storage: Storage, tail: Tail, unapplied_limit_bytes: int) -> None:
    """Load what a crash left without derived rows into the tail; of more than it may hold, write the rows first.

    Raises:
        StorageUnavailableError: the log cannot be read; or there is more than the tail may hold, and its rows cannot be
            written.
    """
    position = await storage.applied()
    left = Cursor(await storage.ticks_at(position), position) if position else START
    pending: list[Entry] = []
    size = 0
    while entries := await storage.entries(position):
        for entry in entries:
            pending.append(entry)
            size += sum(map(len, entry.frames))
            position = entry.last
            if size > unapplied_limit_bytes:
                await storage.apply(pending)
                left = Cursor(entry.ticks, position)
                pending, size = [], 0
    tail.begin(left, await storage.highest_id())
    for entry in pending:
        tail.load(entry)


async def run_applier(storage: Storage, tail: Tail, delay_seconds: float | None) -> None:
    """Apply what is recorded, for ever: after a delay, or, if it is None, when a generation is complete."""
    complaint = Complaint("apply_failed")
    while True:
        entries = tail.to_apply(whole=delay_seconds is None)
        if not entries:
            if delay_seconds is None:
                await tail.sealed.wait()
            else:
                await tail.changed()
                await asyncio.sleep(delay_seconds)
            continue
        try:
            await storage.apply(entries)
        except KudurruError as error:
            complaint.fails(error)
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        complaint.works()
        tail.mark_applied(entries[-1].last)
