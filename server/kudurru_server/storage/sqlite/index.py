"""The derived rows of the embedded store: sorted runs, oldest first, and the rules that keep them few.

`apply` makes a run of level 0; when sixteen neighbours have the same level, `merge_due` makes one run of the next level
from them. Every position up to the watermark is in exactly one run.
"""

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import Cursor, Entry, Query, QueryItem
from kudurru_server.storage.interface import Span
from kudurru_server.storage.sqlite import run as run_file
from kudurru_server.storage.sqlite.run import Hashes, Offsets, Run, RunHeader
from kudurru_server.storage.sqlite.tag_names import TagNames

FAN_OUT = 16  # 3 % more appends in the first minute than with 8: a row is rewritten less often
_YIELD_EVERY = 2048  # events: about 1 ms of interpreter time
_LARGEST_SPAN = 1 << 32  # a run holds positions relative to its first in 32 bits
_TYPE_SALT = 0x5851F42D4C957F2D  # so that a type and a tag of the same name have different keys
_ID_FACTORS = np.array([0x9E3779B97F4A7C15, 0xD1342543DE82EF95], dtype=np.uint64)


def tag_key(tag: str) -> int:
    """Return the key of a tag."""
    return xxh3_64_intdigest(tag.encode())


def type_key(event_type: str) -> int:
    """Return the key of an event type."""
    return xxh3_64_intdigest(event_type.encode()) ^ _TYPE_SALT


def id_keys(event_ids: Sequence[str]) -> Hashes:
    """Return the keys of event ids."""
    halves = np.frombuffer(_id_bytes("".join(event_ids)), dtype=">u8").astype(np.uint64)
    keys: Hashes = halves[::2] * _ID_FACTORS[0] ^ halves[1::2] * _ID_FACTORS[1]
    return keys


def _id_bytes(event_id: str) -> bytes:
    return bytes.fromhex(event_id.replace("-", ""))


_RUN_NAME = re.compile(r"(\d{11})-(\d{11})\.run")


class Index:
    """The runs of one data directory. `apply` and `merge` may run in threads of their own; `runs` is replaced whole."""

    def __init__(self, folder: Path, store_id: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.tag_names = TagNames(folder / "tags.sqlite3", store_id)
        self.runs: tuple[Run, ...] = ()

    def open(self, head: Cursor, ticks_at: dict[int, int]) -> None:
        """Open the runs that cover the log from its beginning without a gap; delete what is left over or not of it.

        Args:
            head: the log's; what is beyond it belongs to a log that is gone.
            ticks_at: the log's ticks at the last position of every run (as `last_positions` lists them).
        """
        for path in self._folder.glob("*.unfinished"):
            path.unlink()
        runs: list[Run] = []
        if self.tag_names.covered > head.position:
            self.tag_names.clear()
        for path, first, last in self._files():
            covered = runs[-1].last if runs else 0
            if first == covered + 1 and first <= last <= min(head.position, self.tag_names.covered):
                try:
                    run = Run(path)
                except ValueError:
                    run = None
                if run is not None and run.header.last_ticks == ticks_at[last]:
                    runs.append(run)
                    continue
            path.unlink()
        self.runs = tuple(runs)

    def last_positions(self) -> list[int]:
        """Return the last position of every run file there is."""
        return [last for _, first, last in self._files() if 1 <= first <= last]

    def _files(self) -> list[tuple[Path, int, int]]:
        # By first position, the longest first: a merged run comes before those it replaces.
        names = [(path, _RUN_NAME.fullmatch(path.name)) for path in self._folder.iterdir()]
        files = [(path, int(name[1]), int(name[2])) for path, name in names if name]
        return sorted(files, key=lambda file: (file[1], -file[2]))

    def close(self) -> None:
        """Close the files."""
        self.runs = ()
        self.tag_names.close()

    @property
    def applied(self) -> int:
        """The last position that the runs cover."""
        return self.runs[-1].last if self.runs else 0

    def apply(self, entries: Sequence[Entry]) -> Run:
        """Write a run for entries that begin right after `applied`; the caller adds it to `runs`."""
        labels = [label for entry in entries for label in entry.labels]
        ids = [event_id for entry in entries for event_id in entry.ids]
        names: list[bytes] = []  # an event's type, its tags, the next one's type …
        keys: list[int] = []
        for start in range(0, len(labels), _YIELD_EVERY):
            piece = "\t".join(labels[start : start + _YIELD_EVERY]).encode().split(b"\t")
            names += piece
            keys += [xxh3_64_intdigest(name) for name in piece]
            time.sleep(0)  # let the event loop have the interpreter
        hashes: Hashes = np.array(keys, dtype=np.uint64)
        counts = np.array([label.count("\t") + 1 for label in labels])
        is_type = np.zeros(len(keys), dtype=bool)
        is_type[np.cumsum(counts) - counts] = True
        tags = set(compress(names, ~is_type))
        hashes[is_type] ^= np.uint64(_TYPE_SALT)
        header = RunHeader(
            first=entries[0].first,
            last=entries[-1].last,
            last_ticks=entries[-1].ticks,
            rows=0,
            level=0,
            lowest_id=_id_bytes(min(ids)),
            highest_id=_id_bytes(max(ids)),
        )
        hashes = np.insert(hashes, np.cumsum(counts), id_keys(ids))  # behind each event's tags
        offsets = np.repeat(np.arange(len(ids), dtype=np.uint32), counts + 1)
        try:
            self.tag_names.add(tags, header.last)
            return run_file.write(self._folder, header, hashes, offsets)
        except (OSError, sqlite3.Error) as error:
            raise StorageUnavailableError(f"the index cannot be written: {error}") from error

    def merge_due(self) -> tuple[Run, ...]:
        """Return the neighbours to merge next, or nothing."""
        runs = self.runs
        for start in range(len(runs) - FAN_OUT + 1):
            group = runs[start : start + FAN_OUT]
            if group[-1].last - group[0].first >= _LARGEST_SPAN:
                continue
            if all(run.header.level == group[0].header.level for run in group):
                return group
        return ()

    def merge(self, group: Sequence[Run]) -> Run:
        """Merge neighbours; the caller replaces them in `runs` and then calls `delete`."""
        try:
            return run_file.merge(self._folder, group)
        except OSError as error:
            raise StorageUnavailableError(f"the index cannot be merged: {error}") from error

    @staticmethod
    def delete(group: Iterable[Run]) -> None:
        """Remove merged runs from disk; who still looks into one keeps it open."""
        for run in group:
            run.path.unlink(missing_ok=True)

    def last_of(self, keys: Sequence[int]) -> dict[int, int]:
        """Return the last position of each key; keys that do not occur are absent."""
        wanted: Hashes = np.array(keys, dtype=np.uint64)
        last: dict[int, int] = {}
        for run in self.runs:
            last.update((key, at) for key, at in zip(keys, run.last_positions(wanted), strict=True) if at)
        return last

    def positions_of_ids(self, event_ids: Sequence[str]) -> list[int]:
        """Return positions where the events with these ids may be; runs that cannot hold them are passed over."""
        lowest, highest = _id_bytes(min(event_ids)), _id_bytes(max(event_ids))
        wanted = id_keys(event_ids)
        found: set[int] = set()
        for run in self.runs:
            if run.header.lowest_id <= highest and lowest <= run.header.highest_id:
                for key, last in zip(wanted.tolist(), run.last_positions(wanted), strict=True):
                    if last:
                        found.update((run.postings(key, 0, run.last).astype(np.int64) + run.first).tolist())
        return sorted(found)

    def candidates(self, query: Query, span: Span, at_most: int) -> Iterator[tuple[list[int], int]]:
        """Yield positions in `span` that may match, in chunks in its order, and how far each chunk reaches."""
        runs = [run for run in self.runs if run.first <= span.until and span.after < run.last]
        for run in reversed(runs) if span.backwards else runs:
            rest = Span(max(span.after, run.first - 1), min(span.until, run.last), span.backwards)
            while rest.after < rest.until:
                chunk, border = self._chunk(run, query, rest, at_most)
                reached = (rest.after + 1 if rest.backwards else rest.until) if border is None else border
                yield chunk, reached
                rest = rest.beyond(reached)

    def _chunk(self, run: Run, query: Query, span: Span, at_most: int) -> tuple[list[int], int | None]:
        # Each item's rarest list, cut to the chunk; the chunk ends where the first list that was cut ends.
        lists = [found for item in query.items for found in self._rarest(run, item, span)]
        border: int | None = None
        for found, _ in lists:
            if len(found) > at_most:
                edge = int(found[-at_most] if span.backwards else found[at_most - 1])
                border = edge if border is None else (max if span.backwards else min)(border, edge)
        chunk: set[int] = set()
        for found, others in lists:
            cut = found
            if border is not None and span.backwards:
                cut = found[int(np.searchsorted(found, np.uint32(border), side="left")) :]
            elif border is not None:
                cut = found[: int(np.searchsorted(found, np.uint32(border), side="right"))]
            for other in others:
                cut = _common(cut, other)
            chunk.update((cut.astype(np.int64) + run.first).tolist())
        return sorted(chunk, reverse=span.backwards), None if border is None else border + run.first

    @staticmethod
    def _rarest(run: Run, item: QueryItem, span: Span) -> list[tuple[Offsets, list[Offsets]]]:
        if not item.tags:
            return [(run.postings(type_key(event_type), span.after, span.until), []) for event_type in item.event_types]
        keys = [tag_key(tag) for tag in item.tags]
        if len(item.event_types) == 1:  # a single type competes for the rarest like a tag
            keys.append(type_key(item.event_types[0]))
        lists = sorted((run.postings(key, span.after, span.until) for key in keys), key=len)
        return [(lists[0], lists[1:])] if len(lists[0]) else []

    def count(self, tag: str, until: int) -> int:
        """Return at how many positions up to `until` the tag's key occurs."""
        key = tag_key(tag)
        return sum(len(run.postings(key, 0, until)) for run in self.runs if run.first <= until)


def _common(found: Offsets, other: Offsets) -> Offsets:
    if not len(found) or not len(other):
        return found[:0]
    at = np.minimum(np.searchsorted(other, found), len(other) - 1)
    common: Offsets = found[other[at] == found]
    return common
