"""Tables cut back to points in time of their own, and a restore that is cut off again and again until it is done."""

import asyncio
import random
from collections.abc import Mapping

from kudurru_server.errors import DataDirectoryError, StorageUnavailableError
from kudurru_server.model import Appended
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.entry_item import Place, place_of
from kudurru_server.storage.dynamodb.restore import open_restore
from kudurru_server.storage.dynamodb.restore_rows import RestoreError
from kudurru_server.storage.dynamodb.store import DynamoOptions

from tests.reference import Recorded
from tests.simulation.draws import World
from tests.simulation.fake_blobs import FakeBlobs
from tests.simulation.fake_database import FakeDatabase, Faults
from tests.simulation.fake_tables import FakeTables
from tests.simulation.history import History
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.rows import RowsWatch, check_rows

_RUNS = 12
_CALM_RUNS = 3
"""The last ones, without faults: they must come to an end."""


def cut_back(tables: FakeTables, chance: random.Random) -> FakeTables:
    """Return tables that were restored to some points in time, about the same ones."""
    journal = tables.journal
    log = chance.randrange(len(journal))
    apart = chance.choice((0, 30, 100, 500))

    def moment(number: int) -> float:
        return journal[min(max(number, 0), len(journal) - 1)].at

    times = {table: moment(log + chance.randint(-apart, apart)) for table in Table}
    return tables.restored({**times, Table.LOG: moment(log)})


class Restoring:
    """Restores tables; `problems` says what went wrong, and `is_whole` whether there is a store to go on with."""

    def __init__(
        self, loop: SimulatedLoop, tables: FakeTables, blobs: FakeBlobs | None, faults: Faults, chance: random.Random
    ) -> None:
        self._loop = loop
        self._tables = tables
        self._blobs = blobs
        self._faults = faults
        self._chance = chance
        self.problems: list[str] = []
        self.is_whole = False
        self.processes: list[tuple[Process, FakeDatabase]] = []

    async def run(self, options: DynamoOptions, before: Mapping[bytes, Recorded]) -> Mapping[bytes, Recorded]:
        """Restore, and return what must be recorded then of what was before."""
        items = self._tables.everything(Table.LOG)
        places = sorted((place_of(item) for key, item in items.items() if key.pk.startswith("LOG#")), key=_number)
        head = places[-1].last if places else 0
        floor = int(str(items.get(keys.meta_key("floor"), {}).get("entry_number", 0)))
        trimmed = max((place.last for place in places if place.number <= floor), default=0)
        there = {item["position"] for item in self._tables.everything(Table.EVENTS).values()}
        lost = [position for position in range(1, trimmed + 1) if position not in there]
        left = {frame: one for frame, one in before.items() if one.position <= head}
        ended = await self._until_it_ends(options)
        if keys.meta_key("layout") not in items:
            return left
        if lost:
            if "events are missing" not in ended:
                self.problems.append(f"events {lost} are lost, but the restore ended with {ended!r}")
            return left
        if ended:
            self.problems.append(f"the restore ended with {ended!r}")
            return left
        self.is_whole = True
        self.problems += [f"after the restore: {problem}" for problem in check_rows(self._tables, left)]
        return left

    async def _until_it_ends(self, options: DynamoOptions) -> str:
        """Run it, with crashes, until it has come to an end; return its refusal."""
        failure = "it never ran"
        for run in range(_RUNS):
            calm = run >= _RUNS - _CALM_RUNS
            if calm and self._blobs is not None:
                self._blobs.fails = 0.0
            process = Process(f"restore.{run}")
            chance = random.Random(self._chance.random())
            database = FakeDatabase(self._tables, process.name, Faults() if calm else self._faults, chance)
            self.processes.append((process, database))
            running = self._loop.create_task(self._once(database, options, chance), context=process.context)
            patience = 1_000.0 if calm else self._chance.choice((1.0, 10.0, 100.0)) * self._chance.random()
            await asyncio.wait([running], timeout=patience)
            if not running.done():
                process.frozen = True
                continue
            try:
                running.result()
            except StorageUnavailableError as error:
                failure = error.message
            except (RestoreError, DataDirectoryError) as error:
                failure = str(error)
                if "at work" not in failure and "another restore" not in failure:  # a former run's late request
                    return failure
            else:
                return ""
        return failure

    async def _once(self, database: FakeDatabase, options: DynamoOptions, chance: random.Random) -> None:
        restoring = await open_restore(database, self._blobs, options, chance=chance)
        await restoring.run(await restoring.plan(), chance.randbytes(8).hex())


def watch_of(tables: FakeTables) -> RowsWatch:
    """Return a watch that knows the log as it is."""
    watch = RowsWatch(tables)
    items = tables.everything(Table.LOG)
    watch.begin(sorted((place_of(item) for key, item in items.items() if key.pk.startswith("LOG#")), key=_number))
    return watch


def world_of(old: World, left: Mapping[bytes, Recorded]) -> World:
    """Return what clients know that go on after a restore: nothing that has not happened."""
    head = len(left)
    kept = [
        attempt
        for attempt in old.history.attempts
        if all(int(condition.after[19:] or 0) <= head for condition in attempt.conditions)
        and (
            attempt.outcome is None
            or (isinstance(attempt.outcome, Appended) and attempt.outcome.first + attempt.outcome.count - 1 <= head)
        )
    ]
    cursors = [cursor for cursor in old.cursors if not cursor or 0 < int(cursor[19:]) <= head]
    return World([], History(attempts=kept), list(old.past), cursors)


def _number(place: Place) -> int:
    return place.number
