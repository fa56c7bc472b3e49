"""The database as one node sees it: over a network that loses, delays and repeats, and a service that has no capacity.

What becomes of a request is drawn when it is sent. Its effect takes place outside the node, so it also takes place when
the node is frozen or gone.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TypeVar

from kudurru_server.storage.dynamodb.database import Condition, Item, Key, Page, Question, Refused, Table
from kudurru_server.storage.dynamodb.retries import (
    ConflictError,
    DatabaseError,
    OutcomeUnknownError,
    RequestError,
    ThrottledError,
)

from tests.simulation.fake_tables import ALL_EVENTS, FakeTables, checked, holds, key_of, size_bytes, sort_key_name

_T = TypeVar("_T")
_TOKEN_SECONDS = 600.0
_PAGE_BYTES = 1 << 20
_TRANSACTION_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each fault is, per request, and how long things take."""

    delay_seconds: float = 0.004
    slow: float = 0.0
    """Requests that take up to `slow_seconds`."""
    slow_seconds: float = 1.0
    lost: float = 0.0
    """No effect, unknown outcome."""
    unanswered: float = 0.0
    """Effect, unknown outcome."""
    late: float = 0.0
    """Unknown outcome, and the effect comes later."""
    repeated: float = 0.0
    """The effect comes again later."""
    late_seconds: float = 8.0
    throttled: float = 0.0
    conflicting: float = 0.0
    partial: float = 0.0
    """Batches done in part, pages cut short."""
    stale_seconds: float = 0.0
    """How old an answer may be that need not be consistent."""


class FakeDatabase:
    """A `Database`."""

    def __init__(self, tables: FakeTables, node: str, faults: Faults, chance: random.Random) -> None:
        self._tables = tables
        self._node = node
        self.faults = faults
        self._chance = chance
        self._outside = Context()
        self.is_closed = False

    async def get(self, table: Table, key: Key, *, consistent: bool) -> Item | None:
        checked(table, key)
        age = 0.0 if consistent else self._age()
        item = await self._ask(lambda: self._tables.item(table, key, age))
        return None if item is None else dict(item)

    async def get_many(self, table: Table, keys: Sequence[Key]) -> tuple[list[Item], list[Key]]:
        if not 0 < len(keys) <= 100 or len(set(keys)) < len(keys):
            raise RequestError("ValidationException", f"{len(keys)} keys, or one of them twice")
        looked, rest = self._part([checked(table, key) for key in keys])
        self._chance.shuffle(looked)
        items = await self._ask(lambda: [self._tables.item(table, key) for key in looked])
        return [dict(item) for item in items if item is not None], rest

    async def put(self, table: Table, item: Item, condition: Condition | None = None) -> Refused | None:
        key, new = key_of(table, item), dict(item)
        return await self._write(lambda: self._replace("put", table, key, condition, lambda _: new))

    async def update(
        self, table: Table, key: Key, values: Item, condition: Condition, *, remove: Sequence[str] = ()
    ) -> Refused | None:
        checked(table, key)
        own = {"pk": key.pk, sort_key_name(table): key.sk}
        if not own.keys().isdisjoint({*values, *remove}) or not values.keys().isdisjoint(remove):
            raise RequestError("ValidationException", "an attribute of the key, or one twice")

        def change(old: Item | None) -> Item:
            new = {**(old or own), **values}
            key_of(table, new)
            return {name: value for name, value in new.items() if name not in remove}

        return await self._write(lambda: self._replace("update", table, key, condition, change))

    async def query(self, question: Question, limit: int | None = None, start: Item | None = None) -> Page:
        if (
            (question.index is not None and question.consistent)
            or question.index not in {None, ALL_EVENTS}
            or limit == 0
        ):
            raise RequestError("ValidationException", f"{question} with limit {limit}")
        most = limit or 1000
        if self._happens(self.faults.partial):
            most = self._chance.randrange(min(most, 4))
        page = await self._ask(lambda: self._page(question, most, start))
        if not question.attributes:
            return page
        items = [{name: item[name] for name in question.attributes if name in item} for item in page.items]
        return Page(items, page.more)

    async def scan(self, table: Table, attributes: Sequence[str] = (), start: Item | None = None) -> Page:
        sk = sort_key_name(table)
        after = ("", "") if start is None else (start["pk"], start[sk])
        most = self._chance.randrange(4) if self._happens(self.faults.partial) else 1000
        found = await self._ask(lambda: self._tables.sorted_after(table, after))
        items = [dict(item) for item in found[:most]]
        last = (items[-1]["pk"], items[-1][sk]) if items else after
        more = None if most >= len(found) else Item({"pk": last[0], sk: last[1]})
        if attributes:
            items = [{name: item[name] for name in attributes if name in item} for item in items]
        return Page(items, more)

    async def transact(self, writes: Sequence[tuple[Table, Item]], token: str) -> None:
        body = [(table, key_of(table, item), dict(item)) for table, item in writes]
        size = sum(size_bytes(item) for _, _, item in body)
        distinct = {(table, key) for table, key, _ in body}
        if (
            not 0 < len(body) <= 100
            or len(distinct) < len(body)
            or size > _TRANSACTION_BYTES
            or not 0 < len(token) <= 36
        ):
            raise RequestError("ValidationException", f"{len(body)} writes of {size} bytes, or an item twice")

        def effect() -> None:
            known = self._tables.tokens.get(token)
            if known is not None and self._tables.now() - known[1] < _TOKEN_SECONDS:
                if known[0] != body:
                    raise RequestError("IdempotentParameterMismatchException", token)
                return
            self._tables.tokens[token] = body, self._tables.now()
            for table, key, item in body:
                self._tables.write(self._node, "transact", table, key, item)

        await self._write(effect)

    async def write_many(self, writes: Sequence[tuple[Table, Item]]) -> list[tuple[Table, Item]]:
        body = [(table, key_of(table, item), dict(item)) for table, item in writes]
        if not 0 < len(body) <= 25 or len({(table, key) for table, key, _ in body}) < len(body):
            raise RequestError("ValidationException", f"{len(body)} writes, or an item twice")
        chosen, rest = self._part(body)

        def effect() -> None:
            for table, key, item in chosen:
                self._tables.write(self._node, "write_many", table, key, item)

        await self._write(effect)
        return [(table, item) for table, _, item in rest]

    async def delete(self, table: Table, key: Key) -> None:
        checked(table, key)
        await self._write(lambda: self._tables.write(self._node, "delete", table, key, None))

    # ── at the service ──

    def _replace(
        self, operation: str, table: Table, key: Key, condition: Condition | None, change: Callable[[Item | None], Item]
    ) -> Refused | None:
        old = self._tables.item(table, key)
        if not holds(condition, old):
            return Refused(None if old is None else dict(old))
        self._tables.write(self._node, operation, table, key, change(old))
        return None

    def _page(self, question: Question, most: int, start: Item | None) -> Page:
        items: list[Item] = []
        size = 0
        after = None if start is None else start.get("after")
        last = after
        for sk, item in self._tables.range(question, (lambda: 0.0) if question.consistent else self._age):
            if after is not None and (sk <= after if question.forward else sk >= after):  # type: ignore[operator]
                continue
            if len(items) >= most or size >= _PAGE_BYTES:
                return Page(items, {"pk": question.pk} if last is None else {"pk": question.pk, "after": last})
            items.append(dict(item))
            size += size_bytes(item)
            last = sk
        return Page(items, None)

    # ── on the way ──

    def _happens(self, likelihood: float) -> bool:
        return self._chance.random() < likelihood

    def _age(self) -> float:
        return self._chance.random() ** 2 * self.faults.stale_seconds

    def _part(self, whole: Sequence[_T]) -> tuple[list[_T], list[_T]]:
        done = self._chance.randint(1, len(whole)) if self._happens(self.faults.partial) else len(whole)
        return list(whole[:done]), list(whole[done:])

    def _travel(self) -> float:
        longest = self.faults.slow_seconds if self._happens(self.faults.slow) else self.faults.delay_seconds
        return self._chance.uniform(0, longest)

    async def _ask(self, look: Callable[[], _T]) -> _T:
        if self._happens(self.faults.lost + self.faults.unanswered):
            return await self._send(look, self._unknown(), self._travel(), None)
        if self._happens(self.faults.throttled):
            return await self._send(look, ThrottledError("ThrottlingException", "simulated"), self._travel(), None)
        return await self._send(look, None, self._travel(), self._travel())

    async def _write(self, effect: Callable[[], _T]) -> _T:
        faults, there = self.faults, self._travel()
        if self._happens(faults.lost):
            return await self._send(effect, self._unknown(), there, None)
        if self._happens(faults.late):
            self._later(effect, there + self._chance.random() * faults.late_seconds)
            return await self._send(effect, self._unknown(), there, None)
        if self._happens(faults.throttled):
            return await self._send(effect, ThrottledError("ThrottlingException", "simulated"), there, None)
        if self._happens(faults.conflicting):
            return await self._send(effect, ConflictError("TransactionConflictException", "simulated"), there, None)
        if self._happens(faults.repeated):
            self._later(effect, there + self._chance.random() * faults.late_seconds)
        failure = self._unknown() if self._happens(faults.unanswered) else None
        return await self._send(effect, failure, there, self._travel())

    @staticmethod
    def _unknown() -> DatabaseError:
        return OutcomeUnknownError("Timeout", "simulated")

    def _later(self, effect: Callable[[], object], seconds: float) -> None:
        def take() -> None:
            try:
                effect()
            except DatabaseError:
                return  # nobody waits for this answer

        asyncio.get_running_loop().call_later(seconds, take, context=self._outside)

    async def _send(
        self, work: Callable[[], _T], failure: DatabaseError | None, there: float, back: float | None
    ) -> _T:
        """Do the work after `there` seconds and answer after `back` more; `back` None: do nothing but fail."""
        if self.is_closed:
            raise RequestError("Closed", "this node is gone")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()

        def arrive() -> None:
            if back is None:
                settle(None, failure)
                return
            try:
                result = work()
            except DatabaseError as error:
                loop.call_later(back, settle, None, error, context=self._outside)
            else:
                loop.call_later(back, settle, result, failure, context=self._outside)

        def settle(result: _T | None, error: DatabaseError | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        loop.call_later(there, arrive, context=self._outside)
        return await answer
