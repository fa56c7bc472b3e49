"""The tables as the service keeps them: items with a short past, for reads that are late, and an index that lags."""

import random
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import (
    Absent,
    Below,
    Condition,
    Item,
    Key,
    Present,
    Question,
    Same,
    Table,
    Value,
)
from kudurru_server.storage.dynamodb.retries import RequestError

_ITEM_BYTES = 400 * 1024
_PK_BYTES, _SK_BYTES = 2048, 1024


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that was written; `after` None: deleted."""

    at: float
    node: str
    operation: str
    table: Table
    key: Key
    before: Item | None
    after: Item | None


@dataclass(slots=True)
class _Indexed:
    """An item as the index shows it for a while."""

    item: Item
    since: float
    until: float


@dataclass(eq=False)
class FakeTables:
    """What all nodes share."""

    now: Callable[[], float]
    chance: random.Random
    index_lag_seconds: float = 0.0
    journal: list[Effect] = field(default_factory=list)
    watch: Callable[[Effect], None] = lambda _: None
    tokens: dict[str, tuple[object, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turn = threading.Lock()  # a test may copy while another thread writes
        self._versions: dict[tuple[Table, Key], list[tuple[float, Item | None]]] = {}
        self._sks: dict[tuple[Table, str], list[str | int]] = {}
        self._index: dict[str, dict[str, list[_Indexed]]] = {}
        self._sorted: dict[str, list[str]] = {}

    # ── writing ──

    def write(self, node: str, operation: str, table: Table, key: Key, item: Item | None) -> None:
        """Put an item in place of what is there, or delete it."""
        before = self.item(table, key)
        now = self.now()
        with self._turn:
            versions = self._versions.setdefault((table, key), [])
            if not versions:
                insort(self._sks.setdefault((table, key.pk), []), key.sk)
            versions.append((now, item))
        if table is Table.EVENTS:
            self._show(before, item, now)
        effect = Effect(now, node, operation, table, key, before, item)
        self.journal.append(effect)
        self.watch(effect)

    def _show(self, before: Item | None, after: Item | None, now: float) -> None:
        place, new_place = _place(before), _place(after)
        if before == after:
            return
        if place is not None:
            gone = now if place == new_place else now + self._lag()
            for indexed in self._index[place[0]][place[1]]:
                indexed.until = min(indexed.until, max(gone, indexed.since))
        if after is not None and new_place is not None:
            shard, cursor = new_place
            there = self._index.setdefault(shard, {})
            if cursor not in there:
                insort(self._sorted.setdefault(shard, []), cursor)
            there.setdefault(cursor, []).append(_Indexed(after, now + self._lag(), float("inf")))

    def _lag(self) -> float:
        return self.chance.random() ** 3 * self.index_lag_seconds

    def copy(self) -> "FakeTables":
        """Return the tables as they are now, without a past."""
        with self._turn:
            there = [(place, versions[-1][1]) for place, versions in self._versions.items()]
        now = FakeTables(self.now, self.chance, tokens=dict(self.tokens))
        for (table, key), item in there:
            if item is not None:
                now.write("copy", "put", table, key, item)
        return now

    def restored(self, times: Mapping[Table, float]) -> "FakeTables":
        """Return new tables with what each had at a time; the service still knows the request tokens."""
        then = FakeTables(self.now, self.chance, self.index_lag_seconds, tokens=dict(self.tokens))
        for (table, key), versions in self._versions.items():
            item = next((item for at, item in reversed(versions) if at <= times[table]), None)
            if item is not None:
                then.write("restored", "put", table, key, item)
        return then

    # ── reading ──

    def item(self, table: Table, key: Key, age_seconds: float = 0.0) -> Item | None:
        """Return an item as it was some time ago."""
        then = self.now() - age_seconds
        for at, item in reversed(self._versions.get((table, key), ())):
            if at <= then:
                return item
        return None

    def range(self, question: Question, age: Callable[[], float]) -> Iterator[tuple[str | int, Item]]:
        """Yield what answers a question in its order, each item of some age, with its sort key."""
        if question.index is not None:
            found: list[str] = self._sorted.get(question.pk, [])
            chosen = found[bisect_left(found, question.low) : bisect_right(found, question.high)]
            for cursor in chosen if question.forward else reversed(chosen):
                for indexed in self._index[question.pk][cursor]:
                    if indexed.since <= self.now() < indexed.until:
                        yield cursor, indexed.item
            return
        sks = self._sks.get((question.table, question.pk), [])
        span = sks[bisect_left(sks, question.low) : bisect_right(sks, question.high)]
        for sk in span if question.forward else reversed(span):
            item = self.item(question.table, Key(question.pk, sk), age())
            if item is not None:
                yield sk, item

    def everything(self, table: Table) -> dict[Key, Item]:
        """Return all items of a table."""
        found = {key: versions[-1][1] for (of, key), versions in self._versions.items() if of is table}
        return {key: item for key, item in found.items() if item is not None}

    def sorted_after(self, table: Table, after: tuple[Value, Value]) -> list[Item]:
        """Return the items of a table whose keys are above `after`, in one order of many that a scan may have."""
        items = self.everything(table)
        keys = sorted(items, key=lambda key: (key.pk, str(key.sk)))
        return [items[key] for key in keys if (key.pk, str(key.sk)) > (str(after[0]), str(after[1]))]

    def indexed(self) -> dict[str, list[str]]:
        """Return the shards in which the index will show each cursor once it is up to date."""
        shards: dict[str, list[str]] = {}
        for shard, cursors in self._index.items():
            for cursor, shown in cursors.items():
                there = [shard for one in shown if one.until == float("inf")]
                if there:
                    shards.setdefault(cursor, []).extend(there)
        return shards


def _place(item: Item | None) -> tuple[str, str] | None:
    if item is None or "gsi1pk" not in item or "sortable_unique_id" not in item:
        return None
    return str(item["gsi1pk"]), str(item["sortable_unique_id"])


def sort_key_name(table: Table) -> str:
    """Return the name of a table's sort key."""
    return "n" if table is Table.LOG else "sk"


def key_of(table: Table, item: Item) -> Key:
    """Return the key of an item.

    Raises:
        RequestError: it has none, or one that the service refuses.
    """
    pk, sk = item.get("pk"), item.get(sort_key_name(table))
    if not isinstance(pk, str) or not isinstance(sk, int if table is Table.LOG else str):
        raise RequestError("ValidationException", f"an item of {table} without its key")
    checked(table, Key(pk, sk))
    for name in ("gsi1pk", "sortable_unique_id") if table is Table.EVENTS else ():
        if item.get(name, "there") == "":
            raise RequestError("ValidationException", f"an empty {name}")
    if size_bytes(item) > _ITEM_BYTES:
        raise RequestError("ValidationException", f"an item of {size_bytes(item)} bytes")
    return Key(pk, sk)


def checked(table: Table, key: Key) -> Key:
    """Return a key that the service takes.

    Raises:
        RequestError: it does not.
    """
    texts = [(key.pk, _PK_BYTES), *([(key.sk, _SK_BYTES)] if isinstance(key.sk, str) else [])]
    if isinstance(key.sk, str) == (table is Table.LOG) or not all(
        0 < len(text.encode()) <= most for text, most in texts
    ):
        raise RequestError("ValidationException", f"the key {key} of {table}")
    return key


def size_bytes(item: Item) -> int:
    """Return what the service counts for an item."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Value) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, int):
        return len(str(abs(value))) // 2 + 2
    return 3 + sum(1 + len(one.encode()) for one in value)


def holds(condition: Condition | None, item: Item | None) -> bool:
    """Tell whether a condition is true of an item."""
    if condition is None:
        return True
    if isinstance(condition, Absent):
        return item is None
    if isinstance(condition, Present):
        return item is not None
    there = item or {}
    if isinstance(condition, Below):
        value = there.get(condition.name)
        return value is None or value < condition.value  # type: ignore[operator]
    assert isinstance(condition, Same)
    return all(there.get(name) == value for name, value in condition.values.items())


ALL_EVENTS = keys.ALL_EVENTS
