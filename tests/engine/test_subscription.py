"""A subscription is a contiguous, filtered piece of the store, whatever the tail does meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kudurru_server.engine.subscription import CaughtUp, Checkpoint, FellBehind, Message
from kudurru_server.errors import CursorOutOfRangeError, ShuttingDownError
from kudurru_server.model import START, Batch, Cursor, Query

from tests.builders import NOON, event, events_of, query, uuid7
from tests.engine.nodes import PATIENCE_SECONDS, Node, run_node

X = query(((), ("x",)))
SECOND = 10_000_000


@dataclass
class Received:
    """What a subscriber has got so far."""

    positions: list[int] = field(default_factory=list)
    news: list[Message] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def take(self, message: Message) -> None:
        if isinstance(message, Batch):
            self.positions += [one.position for one in events_of(message.frames)]
            self.order += ["events"]
        else:
            self.news.append(message)
            self.order.append(type(message).__name__)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [one for one in self.news if isinstance(one, Checkpoint)]


async def take(messages: AsyncGenerator[Message], received: Received, *, positions: int = 0, news: str = "") -> None:
    """Take messages until there are so many positions, or until this news comes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (positions and len(received.positions) >= positions):
            message = await anext(messages)
            received.take(message)
            if news and received.order[-1] == news:
                return


async def fill(node: Node, tags: Sequence[str]) -> None:
    """Record an event for each tag, each in an entry of its own."""
    for tag in tags:
        await node.append(event("E", tag, event_id=uuid7(NOON)))


async def test_history_then_caught_up_then_live_without_a_gap(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node, "xyxyxyxyxyx")
        await node.applied_to(8)
        async with aclosing(await node.engine.subscribe(X, START, 60)) as messages:
            received = Received()
            await take(messages, received, news="CaughtUp")
            assert received.positions == [1, 3, 5, 7, 9, 11]
            assert received.news == [CaughtUp(Cursor(NOON, 11))]
            await fill(node, "xyx")
            await take(messages, received, positions=8)
            assert received.positions == [1, 3, 5, 7, 9, 11, 12, 14]


@pytest.mark.parametrize("after", range(12))
async def test_a_subscription_begins_right_after_its_cursor(folder: Path, after: int) -> None:
    async with run_node(folder) as node:
        await fill(node, "xyxyxyxyxyx")
        await node.applied_to(8)
        cursor = Cursor(NOON, after) if after else START
        async with aclosing(await node.engine.subscribe(Query(), cursor, 60)) as messages:
            received = Received()
            await take(messages, received, news="CaughtUp")
            assert received.positions == list(range(after + 1, 12))


async def test_from_now_begins_after_the_head_as_of_the_call(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node, "xxxxx")
        messages = await node.engine.subscribe(X, None, 60)
        await fill(node, "xx")
        async with aclosing(messages):
            received = Received()
            await take(messages, received, positions=2)
            assert received.positions == [6, 7]


async def test_a_slow_consumer_falls_behind_and_comes_back_without_losing_an_event(folder: Path) -> None:
    async with run_node(folder) as node, aclosing(await node.engine.subscribe(X, START, 60)) as messages:
        received = Received()
        await take(messages, received, news="CaughtUp")
        for round_number in range(3):
            await fill(node, "xyxyxyxyxyxyxyxyxyxy")
            await node.applied_to(node.engine.head.position - 8)
            await take(messages, received, positions=10 * (round_number + 1))
            await take(messages, received, news="CaughtUp")
        assert received.positions == list(range(1, 60, 2))
        assert received.order.count("FellBehind") == 3
        behind = next(one for one in received.news if isinstance(one, FellBehind))
        assert behind.cursor == START
        assert received.order.count("CaughtUp") == 4


async def test_a_slow_consumer_slows_nobody(folder: Path) -> None:
    async with run_node(folder) as node:
        slow = await node.engine.subscribe(Query(), START, 60)
        fast = await node.engine.subscribe(Query(), START, 60)
        async with aclosing(slow), aclosing(fast):
            behind, received = Received(), Received()
            await take(slow, behind, news="CaughtUp")
            for _ in range(10):
                await fill(node, "xxxxx")
                await take(fast, received, positions=node.engine.head.position)
            assert received.positions == list(range(1, 51))
            await take(slow, behind, positions=50)
            assert behind.positions == list(range(1, 51))


async def test_checkpoints_come_when_nothing_matches_and_move_on(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node, "yyyyyyyyyy")
        await node.applied_to(8)
        async with aclosing(await node.engine.subscribe(X, START, 0.02)) as messages:
            received = Received()
            await take(messages, received, news="CaughtUp")
            await take(messages, received, news="Checkpoint")
            assert received.checkpoints[-1] == Checkpoint(Cursor(NOON, 10), Cursor(NOON, 10), 0)
            await fill(node, "yy")
            await take(messages, received, news="Checkpoint")
            await take(messages, received, news="Checkpoint")
            assert received.checkpoints[-1] == Checkpoint(Cursor(NOON, 12), Cursor(NOON, 12), 0)
            assert received.positions == []


async def test_checkpoints_come_at_least_every_interval_under_constant_traffic(folder: Path) -> None:
    async with run_node(folder) as node:
        interval = 0.05
        async with aclosing(await node.engine.subscribe(X, START, interval)) as messages:
            received = Received()
            writing = asyncio.create_task(fill(node, "xy" * 200))
            loop = asyncio.get_running_loop()
            last, longest = loop.time(), 0.0
            while not writing.done():
                async with asyncio.timeout(PATIENCE_SECONDS):
                    received.take(await anext(messages))
                if received.order[-1] == "Checkpoint":
                    longest, last = max(longest, loop.time() - last), loop.time()
                    checkpoint = received.checkpoints[-1]
                    assert checkpoint.lag == checkpoint.head.position - checkpoint.cursor.position >= 0
                    assert [one for one in received.positions if one > checkpoint.cursor.position] == []
            await writing
            assert received.checkpoints
            assert longest < 10 * interval


async def test_a_time_in_the_future_lets_pass_what_is_recorded_before_it(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node, "xxxxx")
        after = Cursor(NOON + SECOND, 0)
        async with aclosing(await node.engine.subscribe(Query(), after, 0.02)) as messages:
            received = Received()
            await fill(node, "xx")
            node.clock.ticks = NOON + SECOND
            await fill(node, "xx")
            await take(messages, received, positions=1)
            await take(messages, received, news="Checkpoint")
            assert [one for one in received.positions if one < 8] == []


async def test_a_checkpoint_never_lies_below_the_start(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node, "xxxxx")
        for after in (Cursor(NOON, 5), Cursor(NOON, 0), Cursor(NOON + SECOND, 0)):
            async with aclosing(await node.engine.subscribe(Query(), after, 0.02)) as messages:
                received = Received()
                await take(messages, received, news="Checkpoint")
                assert str(received.checkpoints[0].cursor) >= str(after)


async def test_a_cursor_of_another_store_is_refused(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node, "xxxxx")
        for cursor in (Cursor(NOON, 6), Cursor(NOON + 1, 2), Cursor(NOON + 1, 5)):
            with pytest.raises(CursorOutOfRangeError):
                await node.engine.subscribe(X, cursor, 60)


async def test_draining_ends_subscriptions_that_wait(folder: Path) -> None:
    async with run_node(folder) as node:
        messages = await node.engine.subscribe(X, START, 60)
        received = Received()
        await take(messages, received, news="CaughtUp")
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        await node.engine.drain()
        with pytest.raises(ShuttingDownError):
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)


async def test_an_entry_larger_than_a_message_comes_in_several(folder: Path) -> None:
    async with run_node(folder) as node:
        await node.append(*(event("E", "x", event_id=uuid7(NOON), data=bytes(500_000)) for _ in range(7)))
        async with aclosing(await node.engine.subscribe(X, START, 60)) as messages:
            received = Received()
            while len(received.positions) < 7:
                message = await anext(messages)
                assert not isinstance(message, Batch) or len(message.frames) < 2 << 20
                received.take(message)
            assert received.positions == list(range(1, 8))
