"""A run: an immutable, sorted file that says at which positions a key occurs, for an unbroken range of positions.

A key is the 64-bit hash of a tag, a type or an event id; who asks verifies a hit against the event. The file is a
header, then all hashes in order (u64), then for each its position relative to the run's first (u32). It is written
beside its name and renamed when it is durable, so a run is there whole or not at all, and the folder is the only
catalogue.

The idea is the log-structured merge tree's: writing a sorted run touches no page of older ones, so the cost of a row
does not grow with the store as that of a B-tree does. Sorting and searching are numpy's, which leaves the interpreter
to others.
"""

import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.uint32]

_MAGIC = b"KUDURUN1"
_HEADER = struct.Struct("<8sQQQQI16s16s")  # magic, first, last, ticks of last, rows, level, lowest and highest event id
_HEADER_BYTES = 128
_SLICE_ROWS = 1 << 16
_SYNC_BYTES = 4 << 20  # a small fsync now and then: one large one would hold up the log's own
_FEW_KEYS = 64  # up to here plain bisection is quicker: each call of numpy's gives the interpreter lock away
_NONE: Offsets = np.empty(0, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What is known of a run without looking inside."""

    first: int
    last: int
    last_ticks: int
    rows: int
    level: int
    lowest_id: bytes
    highest_id: bytes

    def pack(self) -> bytes:
        """Encode the header, padded to its fixed size."""
        fields = (self.first, self.last, self.last_ticks, self.rows, self.level, self.lowest_id, self.highest_id)
        return _HEADER.pack(_MAGIC, *fields).ljust(_HEADER_BYTES, b"\0")


class Run:
    """An open run; its arrays are mapped, not read."""

    def __init__(self, path: Path) -> None:
        """Open the run at `path`; ValueError if it is not a whole one."""
        self.path = path
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
        if len(start) < _HEADER_BYTES or not start.startswith(_MAGIC):
            raise ValueError(f"{path.name} is not a run")
        self.header = RunHeader(*_HEADER.unpack_from(start)[1:])
        rows = self.header.rows
        if path.stat().st_size != _HEADER_BYTES + 12 * rows:
            raise ValueError(f"{path.name} has the wrong size")
        data = np.memmap(path, dtype=np.uint8, mode="r")
        self.hashes: Hashes = data[_HEADER_BYTES : _HEADER_BYTES + 8 * rows].view(np.uint64).view(np.ndarray)
        self.offsets: Offsets = data[_HEADER_BYTES + 8 * rows :].view(np.uint32).view(np.ndarray)
        self.searchable = memoryview(self.hashes.data)

    @property
    def first(self) -> int:
        """The first position it covers."""
        return self.header.first

    @property
    def last(self) -> int:
        """The last position it covers."""
        return self.header.last

    def postings(self, key: int, after: int, until: int) -> Offsets:
        """Return where `key` occurs in (after, until], ascending, relative to `first`."""
        low, high = self._range(key)
        if low == high:
            return _NONE
        found = self.offsets[low:high]
        start = int(np.searchsorted(found, np.uint32(after + 1 - self.first))) if after >= self.first else 0
        stop = int(np.searchsorted(found, np.uint32(until + 1 - self.first))) if until < self.last else len(found)
        return found[start:stop]

    def _range(self, key: int) -> tuple[int, int]:
        low = bisect_left(self.searchable, key)
        if low == len(self.searchable) or self.searchable[low] != key:
            return low, low
        return low, bisect_right(self.searchable, key, low)

    def last_positions(self, keys: Hashes) -> list[int]:
        """Return the last position of each key, 0 where it does not occur."""
        if len(keys) <= _FEW_KEYS:
            ranges = [self._range(key) for key in keys.tolist()]
            return [self.first + int(self.offsets[high - 1]) if low < high else 0 for low, high in ranges]
        at = np.searchsorted(self.hashes, keys, side="right") - 1
        found = (at >= 0) & (self.hashes[at] == keys)
        positions: list[int] = np.where(found, self.offsets[at].astype(np.int64) + self.first, 0).tolist()
        return positions


def write(folder: Path, header: RunHeader, hashes: Hashes, offsets: Offsets) -> Run:
    """Sort the rows, which come in order of position, drop repeated ones, write the rest durably, and open the run.

    `header.rows` is counted here.
    """
    order = np.argsort(hashes, kind="stable")
    hashes, offsets = hashes[order], offsets[order]
    new = np.ones(len(hashes), dtype=bool)  # kinds of keys may collide: a row must still be there once, and in order
    new[1:] = (hashes[1:] != hashes[:-1]) | (offsets[1:] != offsets[:-1])
    hashes, offsets = hashes[new], offsets[new]
    with _Writer(folder, replace(header, rows=len(hashes))) as writer:
        writer.rows(hashes, offsets)
    return Run(writer.path)


def merge(folder: Path, runs: Sequence[Run]) -> Run:
    """Write one run in place of adjacent `runs`, and open it; the others stay until they are deleted.

    It goes by ranges of hashes, so that memory stays small whatever the size; a hash that fills a range alone is copied
    run by run.
    """
    headers = [run.header for run in runs]
    header = RunHeader(
        first=headers[0].first,
        last=headers[-1].last,
        last_ticks=headers[-1].last_ticks,
        rows=sum(header.rows for header in headers),
        level=max(header.level for header in headers) + 1,
        lowest_id=min(header.lowest_id for header in headers),
        highest_id=max(header.highest_id for header in headers),
    )
    starts = [0] * len(runs)
    low = 0
    with _Writer(folder, header) as writer:
        for high in _borders(runs):
            stops = [bisect_left(run.searchable, high) for run in runs]
            pieces = [
                (run.hashes[start:stop], run.offsets[start:stop] + np.uint32(run.first - header.first))
                for run, start, stop in zip(runs, starts, stops, strict=True)
            ]
            if high == low + 1:
                for hashes, offsets in pieces:
                    writer.rows(hashes, offsets)
            else:
                hashes = np.concatenate([piece[0] for piece in pieces])
                order = np.argsort(hashes, kind="stable")  # runs come in order of position, so equal hashes stay so
                writer.rows(hashes[order], np.concatenate([piece[1] for piece in pieces])[order])
            starts, low = stops, high
    return Run(writer.path)


def _borders(runs: Sequence[Run]) -> list[int]:
    """Return ascending hashes that cut the rows of all runs into ranges of bounded size; the last one is above all."""
    largest = max(runs, key=lambda run: run.header.rows)
    step = max(1, _SLICE_ROWS * largest.header.rows // sum(run.header.rows for run in runs))
    samples: list[int] = largest.hashes[step::step].tolist()
    frequent = {one for one, following in pairwise(samples) if one == following}
    return sorted({*samples, *(key + 1 for key in frequent), 1 << 64})


class _Writer:
    """Writes a run beside its name; it gets its name on a clean exit."""

    def __init__(self, folder: Path, header: RunHeader) -> None:
        self.path = folder / f"{header.first:011d}-{header.last:011d}.run"
        self._unfinished = self.path.with_suffix(".unfinished")
        self._header = header
        self._written = 0
        self._unsynced = 0

    def __enter__(self) -> Self:
        self._file = os.open(self._unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        return self

    def rows(self, hashes: Hashes, offsets: Offsets) -> None:
        """Write the next rows."""
        self._put(hashes.tobytes(), _HEADER_BYTES + 8 * self._written)
        self._put(offsets.tobytes(), _HEADER_BYTES + 8 * self._header.rows + 4 * self._written)
        self._written += len(hashes)

    def _put(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file, view, at)
            view, at = view[done:], at + done
        self._unsynced += len(data)
        if self._unsynced > _SYNC_BYTES:
            os.fdatasync(self._file)
            self._unsynced = 0

    def __exit__(self, failure: object, *_: object) -> None:
        try:
            if failure is None:
                self._put(self._header.pack(), 0)
                os.fsync(self._file)
                self._unfinished.rename(self.path)
                sync_folder(self.path.parent)
        finally:
            os.close(self._file)
            self._unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
