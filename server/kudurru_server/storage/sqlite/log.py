"""The commit log in a SQLite file: WAL with `synchronous=FULL`, so a commit is one fsync and survives a power cut.

A row is a block of up to about 16 KiB of frames: packed rows scan several times faster than a row an event, and
larger ones make reads by tag pay for bytes they do not want. An entry is the rows of one transaction.

`write` and `reset_wal` belong to one thread, `checkpoint` to another, the reading functions to a third; each has its
own connection.
"""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from kudurru_server.errors import DataDirectoryError, StorageFullError, StorageUnavailableError
from kudurru_server.model import START, Cursor, Entry
from kudurru_server.storage import block
from kudurru_server.storage.interface import Span

BLOCK_BYTES = 16 * 1024
_PAGE_BYTES = 16 * 1024  # 2 % more appends than with 4 KiB, and shorter pauses; reads do not mind
FORMAT = 1
_OLDEST_SQLITE = (3, 38, 0)  # JSON functions are always there, and strict tables
_APPLICATION_ID = 0x4B554455  # "KUDU", shown by file(1)
_MMAP_BYTES = 2**40  # SQLite caps it at its own maximum; mapped pages double the speed of tag reads
_PRAGMAS = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
_SCHEMA = """
CREATE TABLE log (
    first INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    ticks INTEGER NOT NULL,
    block_index BLOB NOT NULL,
    frames BLOB NOT NULL
) STRICT;
CREATE TABLE store (id TEXT NOT NULL) STRICT;
INSERT INTO store VALUES (lower(hex(randomblob(16))));
"""


Block = tuple[int, int, bytes, bytes]
"""First position, ticks, index and frames."""


class Log:
    """The log file, opened for writing by this process alone."""

    def __init__(self, path: Path) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise DataDirectoryError(f"the embedded store needs SQLite 3.38, and Python has {sqlite3.sqlite_version}")
        self._path = path
        self._writer: sqlite3.Connection | None = None
        self._head = START
        try:
            self._open_writer()
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
            self._reader.execute(f"PRAGMA mmap_size = {_MMAP_BYTES}")
            self._checkpointer = self._connect()
        except sqlite3.Error as error:
            raise DataDirectoryError(f"cannot open {path}: {error}") from error

    def close(self) -> None:
        """Write the WAL back and close every connection."""
        self._reader.close()
        self._checkpointer.close()
        if self._writer is not None:
            self._writer.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
        if found != ([0, 0] if is_empty else [_APPLICATION_ID, FORMAT]):
            connection.close()
            raise DataDirectoryError(f"{self._path} is not a log of a format that this version knows")
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        if is_empty:
            connection.executescript(f"BEGIN; {_SCHEMA} {_PRAGMAS} COMMIT;")
        row = connection.execute("SELECT first + count - 1, ticks FROM log ORDER BY first DESC LIMIT 1").fetchone()
        self._head = Cursor(ticks=row[1], position=row[0]) if row else START
        self._writer = connection
        return connection

    @property
    def store_id(self) -> str:
        """A random name made with the log, by which what is derived from it knows it."""
        row: tuple[str] = self._reader.execute("SELECT id FROM store").fetchone()
        return row[0]

    @property
    def head(self) -> Cursor:
        """The cursor of the last event, as far as the writer knows."""
        return self._head

    def write(self, entry: Entry) -> bool:
        """Record `entry` after the head and make it durable; False if its place is taken."""
        values: list[int | bytes] = []
        for piece in block.cut(entry, BLOCK_BYTES):
            index, frames = block.pack_index(piece), b"".join(piece.frames)
            values += (piece.first, len(piece.ids), piece.ticks, index, frames)
        # One statement is one transaction, and takes the interpreter lock once: three take twice as long under load.
        places = ", ".join(["(?, ?, ?, ?, ?)"] * (len(values) // 5))
        try:
            writer = self._writer or self._open_writer()
            if entry.first != self._head.position + 1:
                return False
            writer.execute(f"INSERT INTO log VALUES {places}", values)  # noqa: S608 - places only
        except (sqlite3.Error, DataDirectoryError) as error:
            self._abandon_writer()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StorageFullError from error
            raise StorageUnavailableError from error
        self._head = Cursor(ticks=entry.ticks, position=entry.last)
        return True

    def _abandon_writer(self) -> None:
        # A new connection reads the head again: whatever the failed one did is then known.
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def checkpoint(self) -> int:
        """Copy the WAL into the file without stopping the writer; return how many bytes the WAL file has."""
        self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return self._path.with_name(self._path.name + "-wal").stat().st_size

    def reset_wal(self) -> None:
        """Let the WAL begin again at its start, unless a reader is in the way; quick right after `checkpoint`."""
        if self._writer is not None:
            self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def ticks_at(self, position: int) -> int:
        """Return the ticks of the event at `position`."""
        row: tuple[int] = self._reader.execute(
            "SELECT ticks FROM log WHERE first <= ? ORDER BY first DESC LIMIT 1", (position,)
        ).fetchone()
        return row[0]

    def position_before(self, ticks: int, until: int) -> int:
        """Return the last position up to `until` of lower ticks, by binary search: ticks rise with positions."""
        low, high = 0, until
        while low < high:
            middle = (low + high + 1) // 2
            if self.ticks_at(middle) < ticks:
                low = middle
            else:
                high = middle - 1
        return low

    def scan(self, span: Span) -> sqlite3.Cursor:
        """Select the blocks with positions in `span`; those at its ends may hold others too. Close the cursor."""
        order = "DESC" if span.backwards else "ASC"
        return self._reader.execute(
            "SELECT first, ticks, block_index, frames FROM log WHERE first <= ?2"  # noqa: S608 - a constant of two
            f" AND first >= ifnull((SELECT max(first) FROM log WHERE first <= ?1), 1) ORDER BY first {order}",
            (span.after + 1, span.until),
        )

    def holding(self, positions: Iterable[int], *, backwards: bool = False) -> sqlite3.Cursor:
        """Select the blocks that hold any of `positions`, in order (or in its reverse). Close the cursor."""
        order = "DESC" if backwards else "ASC"
        return self._reader.execute(
            "SELECT first, ticks, block_index, frames FROM log WHERE first IN"  # noqa: S608 - a constant of two
            f" (SELECT (SELECT max(first) FROM log WHERE first <= value) FROM json_each(?)) ORDER BY first {order}",
            (json.dumps(list(positions)),),
        )
