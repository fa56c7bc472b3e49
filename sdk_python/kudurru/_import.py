"""Appending JSON lines in bulk: in order, in batches, in bounded memory, and as often as you like.

A line that carries its event_id is recorded once, however often its file is appended. A batch that is repeated as it
was is recognised by the store; one that was cut elsewhere, because the file has grown, is compared event by event.
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from kudurru._client import EventStore
from kudurru._cursor import position_of
from kudurru._errors import EventIdExistsError, NotFoundError
from kudurru._jsonl import InputError, parse_event
from kudurru._model import Event, RecordedEvent

_CHUNK_BYTES = 256 * 1024
_BATCH_EVENTS = 1000
_MAX_LINE_BYTES = 16 * 1024 * 1024  # far above the largest event, 1 MiB of data in base64


class LineCutter:
    """Cuts chunks of bytes into batches of events."""

    LAST = b"\n"
    """Feed this in the end: the last line may have no line end."""

    def __init__(self) -> None:
        self._rest = b""
        self._line = 0

    def feed(self, chunk: bytes) -> Iterator[list[Event]]:
        """Yield the events of all lines that are complete."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            raise InputError(f"line {self._line + len(lines) + 1}: longer than {_MAX_LINE_BYTES} bytes")
        batch: list[Event] = []
        for line in lines:
            self._line += 1
            if not line.strip():
                continue
            try:
                batch.append(parse_event(line))
            except (InputError, TypeError) as error:
                raise InputError(f"line {self._line}: {error}") from None
            if len(batch) == _BATCH_EVENTS:
                yield batch
                batch = []
        if batch:
            yield batch


def file_chunks(path: Path, *, then: bytes) -> Iterator[bytes]:
    """Yield the bytes of a file, and `then` after them."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
    yield then


async def stdin_chunks() -> AsyncIterator[bytes]:
    """Yield standard input as it arrives, so that a slow producer's lines are appended at once."""
    source = sys.stdin.buffer
    mode = os.fstat(source.fileno()).st_mode
    if not (
        stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or source.isatty()
    ):  # a file, or /dev/null: it keeps nobody waiting
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk
        return
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            yield chunk
    finally:
        transport.close()


async def append_once(store: EventStore, events: list[Event]) -> tuple[list[tuple[str, str, int]], int]:
    """Append the events that are not recorded yet, in order.

    Returns:
        The event id, cursor and position of each event that was written now, and how many were recorded before.

    Raises:
        EventIdExistsError: An id is recorded with other content.
    """
    try:
        appended = await store.append(events)
    except EventIdExistsError:
        found = await asyncio.gather(*(_find(store, event.event_id) for event in events))
        for event, recorded in zip(events, found, strict=True):
            if recorded is not None and not _says_the_same(event, recorded):
                raise
        missing = [event for event, recorded in zip(events, found, strict=True) if recorded is None]
        if len(missing) == len(events):
            raise
        if not missing:
            return [], len(events)
        appended = await store.append(missing)
        events = missing
        before = len(found) - len(missing)
    else:
        before = 0
    if appended.already_committed:
        return [], before + len(events)
    cursors = appended.sortable_unique_ids
    return [
        (event_id, cursor, position_of(cursor)) for event_id, cursor in zip(appended.event_ids, cursors, strict=True)
    ], before


async def _find(store: EventStore, event_id: str) -> RecordedEvent | None:
    try:
        return await store.get_event(event_id)
    except NotFoundError:
        return None


def _says_the_same(event: Event, recorded: RecordedEvent) -> bool:
    return (
        event.event_type == recorded.event_type
        and set(event.tags) == set(recorded.tags)
        and event.data == recorded.data
        and event.content_type == recorded.content_type
        and event.metadata == recorded.metadata
    )
