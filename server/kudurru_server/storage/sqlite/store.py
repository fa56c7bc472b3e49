"""The embedded store: the log and the index of one data directory, each kind of work in a thread of its own.

writer      puts entries; an fsync each
reader      every question, one after the other: a pool of readers is slower, because each step of a statement takes the
            interpreter lock
applier     writes runs
maintainer  copies the WAL back and merges runs, while the others go on
"""

import asyncio
import fcntl
import os
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TypeVar

import structlog

from kudurru_server.errors import DataDirectoryError, StorageUnavailableError
from kudurru_server.model import MAX_POSITION, Batch, Cursor, Entry, Query, QueryItem, Stored, TagSummary, matches
from kudurru_server.storage import block
from kudurru_server.storage.interface import Check, Span
from kudurru_server.storage.sqlite.index import Index, tag_key, type_key
from kudurru_server.storage.sqlite.log import Log
from kudurru_server.storage.sqlite.run import sync_folder

_T = TypeVar("_T")
_logger = structlog.get_logger()

_ENTRIES_BYTES = 8 << 20
_CHUNK = 1024  # candidates looked at together
_CHUNKS = 16  # at most so many before others have their turn
_EMPTY_CHUNKS = 256  # likewise, if their candidates drop out in memory
_CHECKPOINT_BYTES = 16 << 20  # of new WAL
_FULL_BYTES = 1 << 20  # with less free space a failure is put down to it
_WAL_BYTES = 128 << 20  # above this the WAL is made to begin again


class SqliteStorage:
    """A `Storage` in a data directory. Use `open_storage`."""

    def __init__(self, data_dir: Path, log: Log, index: Index) -> None:
        self._data_dir = data_dir
        self._log = log
        self._index = index
        self._writer = ThreadPoolExecutor(1, "log-writer")
        self._reader = ThreadPoolExecutor(1, "reader")
        self._applier = ThreadPoolExecutor(1, "applier")
        self._maintainer = ThreadPoolExecutor(1, "maintainer")
        self._unsaved_bytes = 0
        self._maintenance: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    async def close(self) -> None:
        """Wait for running work, then close the files. Nothing may be called afterwards."""
        self._closing = True
        await asyncio.gather(*self._maintenance.values())
        for executor in (self._writer, self._reader, self._applier, self._maintainer):
            await asyncio.to_thread(executor.shutdown)
        self._index.close()
        self._log.close()

    async def head(self) -> Cursor:
        """See `Storage`."""
        return self._log.head

    async def put(self, entry: Entry) -> bool:
        """See `Storage`."""
        written = await self._run(self._writer, self._log.write, entry)
        if written:
            self._unsaved_bytes += sum(map(len, entry.frames))
            if self._unsaved_bytes > _CHECKPOINT_BYTES:
                self._maintain("checkpoint", self._checkpoint)
        return written

    async def keep(self, encoded: Sequence[bytes]) -> None:
        """See `Storage`: everything fits into the log."""

    async def entries(self, after: int, *, latest: bool = True) -> Sequence[Entry]:  # noqa: ARG002 - it always is
        """See `Storage`."""
        return await self._run(self._reader, self._entries, after)

    async def applied(self) -> int:
        """See `Storage`."""
        return self._index.applied

    async def highest_id(self) -> str | None:
        """See `Storage`."""
        return max((str(uuid.UUID(bytes=run.header.highest_id)) for run in self._index.runs), default="")

    async def apply(self, entries: Sequence[Entry]) -> None:
        """See `Storage`."""
        run = await self._run(self._applier, self._index.apply, entries)
        self._index.runs = (*self._index.runs, run)
        if self._index.merge_due():
            self._maintain("merge", self._merge)

    async def history(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        """See `Storage`."""
        return await self._run(self._reader, self._history, query, span, max_events, max_bytes)

    async def first_matches(self, checks: Sequence[Check], until: int) -> list[Stored | None]:
        """See `Storage`."""
        return await self._run(self._reader, self._first_matches, checks, until)

    async def find(self, event_ids: Sequence[str], until: int) -> dict[str, Stored]:
        """See `Storage`."""
        return await self._run(self._reader, self._find, event_ids, until)

    async def ticks_at(self, position: int) -> int:
        """See `Storage`."""
        return await self._run(self._reader, self._log.ticks_at, position)

    async def position_before(self, ticks: int, until: int) -> int:
        """See `Storage`."""
        return await self._run(self._reader, self._log.position_before, ticks, until)

    async def tag(self, tag: str, until: int, *, with_count: bool) -> TagSummary | None:
        """See `Storage`."""
        return await self._run(self._reader, self._tag, tag, until, with_count)

    async def tags(self, group: str | None, after: str | None, limit: int) -> list[str]:
        """See `Storage`."""
        return await self._run(self._reader, self._index.tag_names.page, group, after, limit)

    async def _run(self, executor: ThreadPoolExecutor, function: Callable[..., _T], *arguments: object) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
        except (sqlite3.Error, OSError) as error:
            raise StorageUnavailableError(f"the storage failed: {error}") from error
        except StorageUnavailableError as error:
            if shutil.disk_usage(self._data_dir).free < _FULL_BYTES:
                raise StorageUnavailableError(f"{error.message}; its disk is full") from error
            raise

    # ── maintenance: at most one of a kind at a time ──

    def _maintain(self, kind: str, work: Callable[[], Awaitable[None]]) -> None:
        running = self._maintenance.get(kind)
        if running is None or running.done():
            self._maintenance[kind] = asyncio.ensure_future(self._logged(kind, work))

    @staticmethod
    async def _logged(kind: str, work: Callable[[], Awaitable[None]]) -> None:
        # Tried again with the next put or apply; nothing depends on it but speed and disk space.
        try:
            await work()
        except StorageUnavailableError as error:
            _logger.warning("maintenance_failed", kind=kind, error=str(error.__cause__ or error))
        except Exception:  # the store goes on without it
            _logger.exception("maintenance_failed", kind=kind)

    async def _checkpoint(self) -> None:
        self._unsaved_bytes = 0
        if await self._run(self._maintainer, self._log.checkpoint) > _WAL_BYTES:
            await self._run(self._writer, self._log.reset_wal)

    async def _merge(self) -> None:
        while not self._closing and (group := self._index.merge_due()):
            merged = await self._run(self._maintainer, self._index.merge, group)
            runs = self._index.runs
            at = runs.index(group[0])
            self._index.runs = (*runs[:at], merged, *runs[at + len(group) :])
            await self._run(self._maintainer, self._index.delete, group)

    # ── questions: all in the reader's thread ──

    def _entries(self, after: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        with closing(self._log.scan(Span(after, MAX_POSITION))) as blocks:
            for first, ticks, index, frames in blocks:
                entry = block.unpack(first, ticks, index, frames)
                if entry.last > after:
                    found.append(entry.piece(max(0, after + 1 - first), len(entry.ids)))
                size += len(frames)
                if size >= _ENTRIES_BYTES:
                    break
        return found

    def _history(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        if query.items:
            return self._filtered(query, span, max_events, max_bytes)
        pieces: list[bytes] = []
        count = size = 0
        reached = span.until + 1 if span.backwards else span.after
        with closing(self._log.scan(span)) as blocks:
            for first, _, index, frames in blocks:
                low, high = max(span.after + 1, first), min(span.until, first + block.count_of(index) - 1)
                if high < low:
                    continue
                room = max_events - count
                if span.backwards:
                    low = reached = max(low, high - room + 1)
                else:
                    high = reached = min(high, low + room - 1)
                pieces.append(block.slice_of(first, index, frames, low, high, backwards=span.backwards))
                count, size = count + high - low + 1, size + len(pieces[-1])
                if count >= max_events or size >= max_bytes:
                    break
        return Batch(b"".join(pieces), count, reached)

    def _filtered(self, query: Query, span: Span, max_events: int, max_bytes: int) -> Batch:
        pieces: list[bytes] = []
        size = 0
        at_most = min(_CHUNK, max_events)
        end = reached = span.after + 1 if span.backwards else span.until
        for _ in range(_CHUNKS):
            positions, reached = _gather(self._index.candidates(query, span, at_most), at_most, end)
            for position, label, frame in self._events(positions, backwards=span.backwards):
                if matches(query, label):
                    pieces.append(frame)
                    size += len(frame)
                    if len(pieces) >= max_events or size >= max_bytes:
                        return Batch(b"".join(pieces), len(pieces), position)
            if reached == end:
                break
            span = span.beyond(reached)
            at_most = min(_CHUNK, at_most * 8)  # few may be wanted, but then they are rare
        return Batch(b"".join(pieces), len(pieces), reached)

    def _events(self, positions: Sequence[int], *, backwards: bool) -> Iterator[tuple[int, str, bytes]]:
        """Yield position, label and frame of the events at ascending (or descending) `positions`."""
        if not positions:
            return
        at = 0
        with closing(self._log.holding(positions, backwards=backwards)) as blocks:
            for first, _, index_bytes, frames in blocks:
                index = block.Index(index_bytes)
                offsets, labels, last = index.offsets, index.labels, first + index.count - 1
                while at < len(positions) and first <= positions[at] <= last:
                    place = positions[at] - first
                    yield positions[at], labels[place], frames[offsets[place] : offsets[place + 1]]
                    at += 1

    def _stored(self, positions: Sequence[int]) -> Iterator[Stored]:
        at = 0
        with closing(self._log.holding(positions)) as blocks:
            for first, ticks, index_bytes, frames in blocks:
                entry = block.unpack(first, ticks, index_bytes, frames)
                while at < len(positions) and positions[at] <= entry.last:
                    yield entry.stored(positions[at])
                    at += 1

    def _first_matches(self, checks: Sequence[Check], until: int) -> list[Stored | None]:
        # Most answers are no, and the last position of each key tells: one search of every run for all checks together.
        keys = {key for check in checks for item in check.query.items for key in _keys(item)}
        last = self._index.last_of(list(keys))
        found: list[Stored | None] = []
        for check in checks:
            items = tuple(item for item in check.query.items if _possible(item, last, check.after))
            asked = bool(items) or not check.query.items
            position = self._first(Query(items), Span(check.after, until)) if asked else None
            found.append(None if position is None else next(self._stored([position])))
        return found

    def _first(self, query: Query, span: Span) -> int | None:
        while span.after < span.until:
            batch = self._history(query, span, max_events=1, max_bytes=1)
            if batch.count:
                return batch.reached
            span = span.beyond(batch.reached)
        return None

    def _find(self, event_ids: Sequence[str], until: int) -> dict[str, Stored]:
        positions = [position for position in self._index.positions_of_ids(event_ids) if position <= until]
        wanted = set(event_ids)
        return {stored.event_id: stored for stored in self._stored(positions) if stored.event_id in wanted}

    def _tag(self, tag: str, until: int, with_count: bool) -> TagSummary | None:  # noqa: FBT001 - by place in a thread
        query = Query((QueryItem(tags=(tag,)),))
        first = self._first(query, Span(0, until))
        last = self._first(query, Span(0, until, backwards=True))
        if first is None or last is None:
            return None
        # Hashes decide the count: a collision among 64 bits would count another tag's events too.
        return TagSummary(first, last, self._index.count(tag, until) if with_count else None)


def _gather(chunks: Iterator[tuple[list[int], int]], at_least: int, end: int) -> tuple[list[int], int]:
    """Take chunks until they hold `at_least` positions, or are many; return them and how far they reach."""
    positions: list[int] = []
    for number, (chunk, reached) in enumerate(chunks, 1):
        positions += chunk
        if len(positions) >= at_least or number == _EMPTY_CHUNKS:
            return positions, reached
    return positions, end


def _keys(item: QueryItem) -> list[int]:
    return [tag_key(tag) for tag in item.tags] or [type_key(event_type) for event_type in item.event_types]


def _possible(item: QueryItem, last: Mapping[int, int], after: int) -> bool:
    hits = [last.get(key, 0) > after for key in _keys(item)]
    return all(hits) if item.tags else any(hits)


@asynccontextmanager
async def open_storage(data_dir: Path) -> AsyncIterator[SqliteStorage]:
    """Open the store in `data_dir`, made if it is missing, for this process alone.

    Raises:
        DataDirectoryError: another process has it, or it cannot be opened or written.
    """
    lock = _lock(data_dir)
    try:
        storage = await asyncio.to_thread(_open, data_dir)
        try:
            yield storage
        finally:
            await storage.close()
    finally:
        os.close(lock)


def _lock(data_dir: Path) -> int:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        sync_folder(data_dir.absolute().parent)
        lock = os.open(data_dir / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise DataDirectoryError(f"cannot use {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise DataDirectoryError(f"{data_dir} is in use by another process") from error
    return lock


def _open(data_dir: Path) -> SqliteStorage:
    log = Log(data_dir / "log.sqlite3")
    try:
        sync_folder(data_dir)
        index = Index(data_dir / "index", log.store_id)
        index.open(log.head, {last: log.ticks_at(last) for last in index.last_positions() if last <= log.head.position})
    except (OSError, sqlite3.Error) as error:
        log.close()
        raise DataDirectoryError(f"cannot open {data_dir / 'index'}: {error}") from error
    return SqliteStorage(data_dir, log, index)
