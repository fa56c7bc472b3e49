"""The names of all tags, in the order they are listed. Runs know tags by hash only; this is where their names are."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kudurru_server.model import group_of
from kudurru_server.storage.sqlite.run import Hashes

_KNOWN_SLOTS = 1 << 18  # 2 MiB: enough that a store with 100 k live tags writes a name once


class TagNames:
    """A SQLite file of tags; a name is written when its hash is not among those written lately."""

    def __init__(self, path: Path) -> None:
        self._writer = self._connect(path)
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute(
            "CREATE TABLE IF NOT EXISTS tags (tag_group TEXT, tag TEXT, PRIMARY KEY (tag_group, tag)) WITHOUT ROWID"
        )
        self._reader = self._connect(path)
        self._known = np.zeros(_KNOWN_SLOTS, dtype=np.uint64)

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._writer.close()

    def add(self, hashes: Hashes, tags: Sequence[bytes]) -> None:
        """Make the names of tags durable; `hashes` are theirs, each once."""
        slots = hashes & np.uint64(_KNOWN_SLOTS - 1)
        new = self._known[slots] != hashes
        if not new.any():
            return
        names = [tags[index].decode() for index in np.flatnonzero(new).tolist()]
        rows = sorted((group_of(tag), tag) for tag in names)
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            self._writer.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", rows)
            self._writer.execute("COMMIT")
        except sqlite3.Error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        self._known[slots[new]] = hashes[new]

    def page(self, group: str | None, after: str | None, limit: int) -> list[str]:
        """Return up to `limit` tags after `after`, by group and then by tag; only those of `group` if given."""
        start = (group or "", "") if after is None else (group_of(after), after)
        bound = "" if group is None else " AND tag_group = ?4"
        parameters: tuple[str | int, ...] = (*start, limit) if group is None else (*start, limit, group)
        rows = self._reader.execute(
            f"SELECT tag FROM tags WHERE (tag_group, tag) > (?1, ?2){bound}"  # noqa: S608 - a constant of two
            " ORDER BY tag_group, tag LIMIT ?3",
            parameters,
        )
        return [tag for (tag,) in rows]
