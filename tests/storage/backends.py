"""The backends that the conformance suite runs on. A new one joins by one more line in `BACKENDS`."""

import contextlib
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Protocol

from kudurru_server.model import MAX_TICKS
from kudurru_server.storage.dynamodb import store as dynamodb
from kudurru_server.storage.dynamodb.store import DynamoOptions
from kudurru_server.storage.dynamodb.trim import Trimming
from kudurru_server.storage.interface import Storage
from kudurru_server.storage.sqlite.store import open_storage

from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables

IN_TRANSACTIONS = DynamoOptions(lease_seconds=0.1, poll_seconds=0.01)  # a node that follows another need not wait long
IN_BATCHES = replace(IN_TRANSACTIONS, prefer_index=True, in_transactions=False)


class Backend(Protocol):
    """One store, opened any number of times, one after the other; where nodes may share it, also at the same time."""

    def open(self) -> AbstractAsyncContextManager[Storage]:
        """Open the store."""
        ...

    def crashed(self) -> "Backend":
        """Return the store as a kill at this moment would leave it."""
        ...


@dataclass
class SqliteBackend:
    """The embedded store in a folder."""

    folder: Path
    crashes: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Storage]:
        """Open the store."""
        async with open_storage(self.folder) as storage:
            yield storage

    def crashed(self) -> Backend:
        """Return what the files hold now, whatever is open."""
        self.crashes += 1
        copy = self.folder.with_name(f"{self.folder.name}-crashed-{self.crashes}")
        for source, _, names in os.walk(self.folder):
            target = copy / Path(source).relative_to(self.folder)
            target.mkdir(parents=True)
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # renamed or deleted while others were copied
                    shutil.copy(Path(source) / name, target / name)
        return SqliteBackend(copy)


@dataclass
class MemoryBackend:
    """The store on DynamoDB, with its tables in memory."""

    options: DynamoOptions
    tables: FakeTables = field(default_factory=lambda: FakeTables(time.monotonic, random.Random(1)))
    seeds: Iterator[int] = field(default_factory=lambda: count(1))
    trimming: Trimming | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Storage]:
        """Open the store."""
        chance = random.Random(next(self.seeds))  # a node draws its name and its tokens, which must differ
        database = FakeDatabase(self.tables, "node", Faults(delay_seconds=0.0), chance)
        async with dynamodb.open_storage(
            database, None, self.options, chance=chance, trimming=self.trimming
        ) as storage:
            yield storage

    def crashed(self) -> Backend:
        """Return what the tables hold now."""
        return MemoryBackend(self.options, self.tables.copy(), trimming=self.trimming)


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "sqlite": lambda folder: SqliteBackend(folder / "data"),
    "dynamodb-log": lambda _: MemoryBackend(IN_TRANSACTIONS),
    "dynamodb-index": lambda _: MemoryBackend(IN_BATCHES),
    "dynamodb-trimmed": lambda _: MemoryBackend(IN_TRANSACTIONS, trimming=Trimming(0.0, lambda: MAX_TICKS)),
}
