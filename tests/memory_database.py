"""DynamoDB as the store sees it, in memory: shared tables, and for each node a connection with seeded faults."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeVar

from kudurru_server.storage.dynamodb.database import (
    Absent,
    Below,
    Condition,
    Item,
    Key,
    Page,
    Present,
    Question,
    Refused,
    Same,
    Table,
    Value,
)
from kudurru_server.storage.dynamodb.retries import OutcomeUnknownError, RequestError, ThrottledError

_T = TypeVar("_T")
_Place = tuple[str, str | int]
_ITEM_BYTES = 409_600
_TRANSACTION_ITEMS = 100
_BATCH_ITEMS = 25


@dataclass(slots=True)
class Faults:
    """How likely each fault is, a call, and how long things take at most, in seconds."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    late_effect: float = 0.0
    repeated_late: float = 0.0
    throttled: float = 0.0
    partial: float = 0.0
    delay_seconds: float = 0.0
    late_seconds: float = 0.0
    index_lag_seconds: float = 0.0


@dataclass(slots=True)
class Tables:
    """What all nodes share."""

    items: dict[Table, dict[_Place, Item]] = field(default_factory=lambda: {table: {} for table in Table})
    visible_at: dict[_Place, float] = field(default_factory=dict)
    """From when on the index shows an event."""
    tokens: dict[str, list[tuple[Table, Item]]] = field(default_factory=dict)

    def copy(self) -> "Tables":
        """Return the tables as they are now."""
        items = {table: {place: dict(item) for place, item in rows.items()} for table, rows in self.items.items()}
        return Tables(items, dict(self.visible_at), dict(self.tokens))


class MemoryDatabase:
    """A `Database` on shared tables."""

    def __init__(self, tables: Tables, chance: random.Random | None = None, faults: Faults | None = None) -> None:
        self.tables = tables
        self.faults = faults or Faults()
        self.calls: dict[str, int] = {}
        self._chance = chance or random.Random(0)
        self._late: set[asyncio.Task[None]] = set()

    async def get(self, table: Table, key: Key, *, consistent: bool) -> Item | None:  # noqa: ARG002 - always is
        return await self._read("get", lambda: _copy(self.tables.items[table].get((key.pk, key.sk))))

    async def get_many(self, table: Table, keys: Sequence[Key]) -> tuple[list[Item], list[Key]]:
        _check(0 < len(keys) <= _TRANSACTION_ITEMS, "too many keys")
        some = self._some(len(keys))
        rows = self.tables.items[table]
        wanted = [(key.pk, key.sk) for key in keys[:some]]
        found = await self._read("get_many", lambda: [dict(rows[place]) for place in wanted if place in rows])
        return found, list(keys[some:])

    async def put(self, table: Table, item: Item, condition: Condition | None = None) -> Refused | None:
        _check_item(item)
        return await self._write("put", lambda: self._put(table, item, condition))

    async def update(
        self, table: Table, key: Key, values: Item, condition: Condition, *, remove: Sequence[str] = ()
    ) -> Refused | None:
        def effect() -> Refused | None:
            name = "n" if table is Table.LOG else "sk"
            old = self.tables.items[table].get((key.pk, key.sk)) or {"pk": key.pk, name: key.sk}
            new = {name: value for name, value in {**old, **values}.items() if name not in remove}
            return self._put(table, new, condition)

        return await self._write("update", effect)

    async def query(self, question: Question, limit: int | None = None, start: Item | None = None) -> Page:
        def answer() -> Page:
            sort = "sortable_unique_id" if question.index else "n" if question.table is Table.LOG else "sk"
            pk = "gsi1pk" if question.index else "pk"
            rows = [
                item
                for place, item in self.tables.items[question.table].items()
                if item.get(pk) == question.pk
                and question.low <= item[sort] <= question.high  # type: ignore[operator]
                and not (question.index and self.tables.visible_at.get(place, 0.0) > _now())
            ]
            rows.sort(key=itemgetter(sort), reverse=not question.forward)
            if start is not None:
                rows = rows[next(at for at, item in enumerate(rows, 1) if item[sort] == start[sort]) :]
            shown = rows[: self._some(len(rows))] if limit is None else rows[:limit]
            more = {sort: shown[-1][sort]} if shown and len(shown) < len(rows) else None
            return Page([dict(item) for item in shown], more)

        return await self._read("query", answer)

    async def transact(self, writes: Sequence[tuple[Table, Item]], token: str) -> None:
        _check(0 < len(writes) <= _TRANSACTION_ITEMS, "too many items")
        _check(len({(table, *_place(table, item)) for table, item in writes}) == len(writes), "an item twice")

        def effect() -> None:
            known = self.tables.tokens.setdefault(token, list(writes))
            _check(known == list(writes), "the token is another transaction's")
            for table, item in writes:
                self._put(table, item, None)

        for _, item in writes:
            _check_item(item)
        await self._write("transact", effect)

    async def write_many(self, writes: Sequence[tuple[Table, Item]]) -> list[tuple[Table, Item]]:
        _check(0 < len(writes) <= _BATCH_ITEMS, "too many items")
        some = self._some(len(writes))

        def effect() -> None:
            for table, item in writes[:some]:
                self._put(table, item, None)

        await self._write("write_many", effect)
        return list(writes[some:])

    async def delete(self, table: Table, key: Key) -> None:
        await self._write("delete", lambda: self.tables.items[table].pop((key.pk, key.sk), None))

    # ── effects ──

    def _put(self, table: Table, item: Item, condition: Condition | None) -> Refused | None:
        place = _place(table, item)
        old = self.tables.items[table].get(place)
        if condition is not None and not _holds(condition, old):
            return Refused(_copy(old))
        if old is None and "gsi1pk" in item:
            self.tables.visible_at[place] = _now() + self._chance.uniform(0, self.faults.index_lag_seconds)
        self.tables.items[table][place] = dict(item)
        return None

    # ── faults ──

    def _some(self, count: int) -> int:
        return self._chance.randrange(count) if count and self._chance.random() < self.faults.partial else count

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self.faults.delay_seconds))

    async def _read(self, name: str, answer: Callable[[], _T]) -> _T:
        self.calls[name] = self.calls.get(name, 0) + 1
        await self._pause()
        found = answer()
        await self._pause()
        faults = self.faults
        if self._chance.random() < faults.lost_request + faults.lost_answer:
            raise OutcomeUnknownError("ReadTimeout", "no answer")
        return found

    async def _write(self, name: str, effect: Callable[[], _T]) -> _T:
        self.calls[name] = self.calls.get(name, 0) + 1
        faults, chance = self.faults, self._chance.random
        await self._pause()
        if chance() < faults.throttled:
            raise ThrottledError("ThrottlingException", "throttled")
        if chance() < faults.lost_request:
            raise OutcomeUnknownError("ConnectionClosed", "not sent")
        if chance() < faults.late_effect:
            self._later(effect)
            raise OutcomeUnknownError("ReadTimeout", "on its way")
        done = effect()
        if chance() < faults.repeated_late:
            self._later(effect)
        if chance() < faults.lost_answer:
            raise OutcomeUnknownError("ReadTimeout", "no answer")
        await self._pause()
        return done

    def _later(self, effect: Callable[[], object]) -> None:
        async def run() -> None:
            await asyncio.sleep(self._chance.uniform(0, self.faults.late_seconds))
            effect()

        task = asyncio.ensure_future(run())
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def _holds(condition: Condition, item: Item | None) -> bool:
    match condition:
        case Absent():
            return item is None
        case Present():
            return item is not None
        case Same(values):
            return all((item or {}).get(name) == value for name, value in values.items())
        case Below(name, value):
            return item is None or name not in item or item[name] < value  # type: ignore[operator]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _place(table: Table, item: Item) -> _Place:
    sort = item["n" if table is Table.LOG else "sk"]
    assert isinstance(sort, str | int)
    return str(item["pk"]), sort


def _copy(item: Item | None) -> Item | None:
    return None if item is None else dict(item)


def _check_item(item: Item) -> None:
    size = sum(len(name) + _bytes(value) for name, value in item.items())
    _check(size <= _ITEM_BYTES, "an item is too large")
    _check(all(item.get(name) not in {"", b""} for name in ("pk", "sk", "gsi1pk")), "a key is empty")


def _bytes(value: Value) -> int:
    if isinstance(value, int):
        return 21
    return len(value) if isinstance(value, bytes | str) else sum(len(one) + 1 for one in value) + 3


def _check(is_fine: bool, message: str) -> None:  # noqa: FBT001 - reads like an assertion
    if not is_fine:
        raise RequestError("ValidationException", message)
