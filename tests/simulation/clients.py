"""Clients that do everything clients may do, by a seed, and write down what they were told."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing

from kudurru_server._proto import event_pb2
from kudurru_server.engine.engine import Engine
from kudurru_server.engine.judge import Outcome
from kudurru_server.engine.subscription import CaughtUp, Checkpoint, FellBehind, Message
from kudurru_server.errors import KudurruError, NotFoundError, NotReachedError, UnavailableError
from kudurru_server.model import Appended, Batch, Cursor

from tests import builders
from tests.reference import Condition, Fact
from tests.simulation.cluster import GoneError, Node
from tests.simulation.draws import TAGS, Draw, World, cursor_of, query_of
from tests.simulation.history import Attempt, Found, ReadDone, Stream, Summary

Wanted = tuple[tuple[Fact, ...], tuple[Condition, ...]]


class Client:
    """One client."""

    def __init__(self, world: World, chance: random.Random, pace_seconds: float) -> None:
        self._world = world
        self._chance = chance
        self._draw = Draw(world, chance)
        self._pace_seconds = pace_seconds
        self._loop = asyncio.get_running_loop()

    async def run(self, operations: int) -> None:
        """Do some operations, one after the other."""
        for _ in range(operations):
            await asyncio.sleep(self._chance.random() ** 3 * self._pace_seconds)
            await self._chance.choices((self._append, self._read, self._event, self._summary), (12, 6, 2, 1))[0]()

    # ── appending ──

    async def _append(self) -> None:
        wanted = []
        for _ in range(self._chance.choice((1, 1, 1, 1, 3, 5))):
            wanted.append((self._draw.facts(), self._draw.conditions()))
            self._world.past.append(wanted[-1][0])
        for _ in range(self._chance.choice((1, 2, 4))):
            left = await self._attempt(wanted)
            wanted = wanted if self._chance.random() < 0.1 else left
            if not wanted:
                return
            if self._chance.random() < 0.2:
                await asyncio.sleep(self._chance.uniform(0, 4))

    async def _attempt(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Send appends together; return those whose outcome is unknown."""
        node = self._draw.node()
        process = node.gone
        attempts = [Attempt(node.name, self._loop.time(), facts, conditions) for facts, conditions in wanted]
        self._world.history.attempts += attempts
        appends = [
            builders.append(*map(_event, facts), conditions=list(map(_condition, conditions)))
            for facts, conditions in wanted
        ]

        async def append(engine: Engine) -> list[Outcome]:
            return await engine.append(appends)

        try:
            outcomes = await node.ask(append, self._chance.choice((0.5, 3.0, 20.0)))
        except (GoneError, UnavailableError):
            return list(wanted)
        unknown: list[Wanted] = []
        for one, attempt, outcome in zip(wanted, attempts, outcomes, strict=True):
            attempt.ended = self._loop.time()
            if isinstance(outcome, UnavailableError):
                unknown.append(one)
                continue
            attempt.outcome = outcome
            if isinstance(outcome, Appended):
                end = outcome.first + outcome.count - 1
                if process is node.gone:
                    node.floor = max(node.floor, end)
                self._world.cursors.append(str(Cursor(outcome.ticks, end)))
        return unknown

    # ── reading ──

    async def _read(self) -> None:
        chance = self._chance
        query, after = self._draw.query(), self._draw.cursor() if chance.random() < 0.4 else ""
        until = self._draw.cursor() if chance.random() < 0.2 else ""
        backwards, limit = chance.random() < 0.3, chance.choice((0, 0, 0, 1, 3))
        at_least = self._draw.cursor() if chance.random() < 0.3 else ""
        node = self._draw.node()
        process, floor, began = node.gone, node.floor, self._loop.time()

        async def read(engine: Engine) -> tuple[bytes, str]:
            await engine.reach(cursor_of(at_least), 10.0)
            span, head = await engine.span(cursor_of(after), cursor_of(until) if until else None, backwards=backwards)
            reading = engine.read(query_of(query), span, limit)
            async with aclosing(reading):
                return b"".join([batch.frames async for batch in reading]), str(head)

        try:
            frames, head = await node.ask(read, 30.0)
        except (GoneError, UnavailableError, NotReachedError):
            return
        except KudurruError as error:
            self._world.history.failures.append(f"read after {after!r} until {until!r} on {node.name}: {error.message}")
            return
        floor = max(floor, int(at_least[19:] or 0))
        done = ReadDone(node.name, began, floor, query, after, until, backwards, limit, frames, head)
        self._world.history.reads.append(done)
        if head:
            self._world.cursors.append(head)
            if process is node.gone:
                node.floor = max(node.floor, int(head[19:]))

    async def _event(self) -> None:
        if not self._world.past:
            return
        event_id = self._chance.choice(self._chance.choice(self._world.past)).event_id
        node = self._draw.node()
        floor = node.floor

        async def ask(engine: Engine) -> bytes | None:
            try:
                return await engine.event(event_id)
            except NotFoundError:
                return None

        try:
            frame = await node.ask(ask, 30.0)
        except (GoneError, UnavailableError):
            return
        self._world.history.found.append(Found(node.name, event_id, floor, frame))

    async def _summary(self) -> None:
        tag, node = self._chance.choice(TAGS), self._draw.node()
        floor, with_count = node.floor, self._chance.random() < 0.5

        async def ask(engine: Engine) -> tuple[tuple[str, str, int | None] | None, list[str]]:
            told = await engine.tag(tag, with_count=with_count)
            listed = await engine.tags(None, None, 100)
            return None if told is None else (str(told[0]), str(told[1]), told[2]), listed

        try:
            told, listed = await node.ask(ask, 30.0)
        except (GoneError, UnavailableError):
            return
        self._world.history.summaries.append(Summary(floor, tag, told, listed))

    # ── subscribing ──

    async def follow(self) -> None:
        """Follow the store from node to node until the world is done."""
        query, last = self._draw.query(), self._draw.cursor() if self._chance.random() < 0.3 else ""
        while not self._world.done:
            node = self._draw.node()
            stream = Stream(node.name, query, last, from_now=False)
            queue: asyncio.Queue[Message] = asyncio.Queue(2)
            patience = self._chance.uniform(0.5, 8.0)
            following = asyncio.ensure_future(self._follow(node, stream, queue, patience))
            while not following.done() or not queue.empty():
                try:
                    async with asyncio.timeout(0.5):
                        message = await queue.get()
                except TimeoutError:
                    continue
                _take(stream, message)
                if self._chance.random() < 0.1:
                    await asyncio.sleep(self._chance.uniform(0, 1.5))
            self._world.history.streams.append(stream)
            frames = b"".join(stream.frames)
            if frames:
                last = builders.events_of(frames)[-1].sortable_unique_id
            elif stream.checkpoints and self._chance.random() < 0.5:
                last = max(last, stream.checkpoints[-1][1])

    async def _follow(self, node: Node, stream: Stream, queue: asyncio.Queue[Message], seconds: float) -> None:
        async def subscribe(engine: Engine) -> None:
            messages = await engine.subscribe(query_of(stream.query), cursor_of(stream.after), 1.0)
            async with aclosing(messages):
                async for message in messages:
                    await queue.put(message)

        try:
            await node.ask(subscribe, seconds)
        except (GoneError, UnavailableError):
            return
        except KudurruError as error:
            self._world.history.failures.append(f"subscribe after {stream.after!r} on {node.name}: {error.message}")


def _take(stream: Stream, message: Message) -> None:
    if isinstance(message, Batch):
        stream.frames.append(message.frames)
    elif isinstance(message, Checkpoint):
        stream.checkpoints.append((len(stream.frames), str(message.cursor), str(message.head), message.lag))
    elif isinstance(message, CaughtUp | FellBehind):
        stream.checkpoints.append((len(stream.frames), str(message.cursor), str(message.cursor), 0))


def _event(fact: Fact) -> event_pb2.Event:
    return builders.event(fact.event_type, *sorted(fact.tags), event_id=fact.event_id, data=fact.data)


def _condition(condition: Condition) -> event_pb2.AppendCondition:
    items: Sequence[tuple[list[str], list[str]]] = [(sorted(types), sorted(tags)) for types, tags in condition.query]
    return builders.unless(*items, after=condition.after)
