"""What clients ask for, drawn by a seed: events old and new, queries, cursors, conditions."""

import asyncio
import random
from dataclasses import dataclass, field, replace
from uuid import UUID

from kudurru_server.model import START, Cursor, Query

from tests import builders, reference
from tests.builders import NOON
from tests.reference import TICKS_PER_MILLISECOND, UNIX_EPOCH_TICKS, Condition, Fact
from tests.simulation.cluster import TICKS, Node
from tests.simulation.history import History

TYPES = ("A", "B", "C")
TAGS = ("t:1", "t:2", "u:1", "loose")
_YEAR = 365 * 86400


@dataclass(eq=False)
class World:
    """What clients know of each other: former appends and places they have seen."""

    nodes: list[Node]
    history: History
    past: list[tuple[Fact, ...]] = field(default_factory=list)
    cursors: list[str] = field(default_factory=lambda: [""])
    done: bool = False


class Draw:
    """Draws for one client."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    def node(self) -> Node:
        return self._chance.choice(self._world.nodes)

    def facts(self) -> tuple[Fact, ...]:
        chance, past = self._chance, self._world.past
        fresh = tuple(self.fact() for _ in range(chance.choice((1, 1, 2, 3, 5))))
        if not past or chance.random() < 0.75:
            return fresh
        old = chance.choice(past[-12:] if chance.random() < 0.5 else past)
        shapes = (
            old,
            old,
            old,
            old[: len(old) // 2] or old,
            tuple(reversed(old)),
            (*old, *fresh),
            (*fresh, *old),
            tuple(replace(fact, data=b"other") for fact in old),
            tuple({fact.event_id: fact for fact in (*old, *chance.choice(past))}.values()),
        )
        return chance.choice(shapes)

    def fact(self) -> Fact:
        chance = self._chance
        tags = frozenset(chance.sample(TAGS, chance.choice((0, 1, 1, 2, 3))))
        data = chance.randbytes(chance.choice((0, 0, 8, 300)))
        return Fact(self.id(), chance.choice(TYPES), tags, data)

    def id(self) -> str:
        chance = self._chance
        seconds = chance.choice((0, 0, 0, 0, 59, -30, -600, -_YEAR, None, 90))
        if seconds is None:
            return str(UUID(int=chance.getrandbits(128), version=4))
        base = self.node().clock() if chance.random() < 0.3 else NOON + int(asyncio.get_running_loop().time() * TICKS)
        milliseconds = (base + seconds * TICKS - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
        number = milliseconds << 80 | 7 << 76 | chance.getrandbits(12) << 64 | 2 << 62 | chance.getrandbits(62)
        return str(UUID(int=number))

    def conditions(self) -> tuple[Condition, ...]:
        count = self._chance.choice((0, 0, 1, 1, 2))
        return tuple(Condition(self.query(), self.cursor()) for _ in range(count))

    def query(self) -> reference.Query:
        chance = self._chance
        if chance.random() < 0.2:
            return ()
        return tuple(
            chance.choice(
                (
                    (frozenset(chance.sample(TYPES, chance.choice((1, 2)))), frozenset()),
                    (frozenset(), frozenset(chance.sample(TAGS, chance.choice((1, 2))))),
                    (frozenset(chance.sample(TYPES, 1)), frozenset(chance.sample(TAGS, 1))),
                )
            )
            for _ in range(chance.choice((1, 1, 2)))
        )

    def cursor(self) -> str:
        cursors = self._world.cursors
        recent = max(cursors) if self._chance.random() < 0.6 else self._chance.choice(cursors)
        if recent and self._chance.random() < 0.05:
            return f"{recent[:19]}{0:011d}"
        return recent


def cursor_of(text: str) -> Cursor:
    """Return the cursor that is written so."""
    return Cursor(int(text[:19]), int(text[19:])) if text else START


def query_of(of: reference.Query) -> Query:
    """Return a query as the engine takes it."""
    return builders.query(*((sorted(types), sorted(tags)) for types, tags in of))
