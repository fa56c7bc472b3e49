"""The names of all tags, in the order they are listed. Runs know tags by hash only; this is where their names are."""

import sqlite3
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from kudurru_server.model import group_of

_KNOWN_SETS = 1 << 16
_KNOWN_WAYS = 4  # 2 MiB: enough that a store with 100 k live tags writes a name once; one way forgets a third of them


class TagNames:
    """A SQLite file of tags. It is written before the run that has them, so it covers at least what the runs do."""

    def __init__(self, path: Path, store_id: str) -> None:
        """Open the file; if it is not of this store, it is emptied."""
        self._writer = self._connect(path)
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute(
            "CREATE TABLE IF NOT EXISTS tags (tag_group TEXT, tag TEXT, PRIMARY KEY (tag_group, tag)) WITHOUT ROWID"
        )
        self._writer.execute("CREATE TABLE IF NOT EXISTS coverage (store_id TEXT, position INTEGER)")
        self._reader = self._connect(path)
        self._store_id = store_id
        self._known = np.zeros((_KNOWN_WAYS, _KNOWN_SETS), dtype=np.int64)
        self._way = 0  # the one to write next
        self.covered = 0
        """The last position whose tags are all in here."""
        row = self._writer.execute("SELECT position FROM coverage WHERE store_id = ?", (store_id,)).fetchone()
        if row is None:
            self.clear()
        else:
            self.covered = row[0]

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._writer.close()

    def clear(self) -> None:
        """Forget every name."""
        self._writer.executescript("BEGIN; DELETE FROM tags; DELETE FROM coverage; COMMIT;")
        self._writer.execute("INSERT INTO coverage VALUES (?, 0)", (self._store_id,))
        self.covered = 0

    def add(self, tags: AbstractSet[bytes], last: int) -> None:
        """Make the names durable; they are those of the events up to position `last` that are not covered yet."""
        names = list(tags)
        # Python's own hash of bytes, since its key is secret: nobody can choose a tag that hides another one.
        hashes = np.fromiter(map(hash, names), dtype=np.int64, count=len(names))
        sets = hashes & (_KNOWN_SETS - 1)
        new = (self._known[:, sets] != hashes).all(axis=0)
        added = [names[place].decode() for place in np.flatnonzero(new).tolist()]
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            rows = sorted((group_of(tag), tag) for tag in added)
            self._writer.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", rows)
            self._writer.execute("UPDATE coverage SET position = max(position, ?)", (last,))
            self._writer.execute("COMMIT")
        except sqlite3.Error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        self._known[self._way, sets[new]] = hashes[new]
        self._way = (self._way + 1) % _KNOWN_WAYS
        self.covered = max(self.covered, last)

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
