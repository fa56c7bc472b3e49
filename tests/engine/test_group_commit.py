"""Group commit when the store misbehaves: nobody is told what is not true, and nobody waits for another's mistake."""

import asyncio
from pathlib import Path

import pytest
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import (
    ConditionFailedError,
    KudurruError,
    OverloadedError,
    ShuttingDownError,
    StorageFullError,
    StorageUnavailableError,
)
from kudurru_server.model import Append, Appended, Entry

from tests import builders
from tests.builders import NOON, append, event, unless, uuid7
from tests.engine.nodes import PATIENCE_SECONDS, Node, Scripted, Step, run_node, until


def new(event_type: str = "N", *tags: str) -> Append:
    """Return an unconditional append of one event."""
    return append(event(event_type, *tags, event_id=uuid7(NOON)))


def free(tag: str) -> Append:
    """Return an append of a tag, on the condition that nothing has it."""
    return append(event("N", tag, event_id=uuid7(NOON)), conditions=[unless(((), (tag,)))])


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [outcome.reason if isinstance(outcome, KudurruError) else "appended" for outcome in outcomes]


def lose_to(*tags: str) -> Step:
    """Return a put that finds its place taken by another writer's entry with these tags."""

    async def step(storage: Scripted, entry: Entry) -> bool:
        other = builders.entry(entry.first, [event("Theirs", *tags, event_id=uuid7(NOON))], ticks=entry.ticks)
        assert await storage.real.put(other)
        return await storage.real.put(entry)

    return step


def fail(error: BaseException, *, written: bool = False) -> Step:
    """Return a put that fails, and that took effect all the same if `written`."""

    async def step(storage: Scripted, entry: Entry) -> bool:
        if written:
            await storage.real.put(entry)
        raise error

    return step


class Gate:
    """A put that waits until it is let through."""

    def __init__(self, then: Step | None = None) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.then = then

    async def __call__(self, storage: Scripted, entry: Entry) -> bool:
        self.reached.set()
        await self.opened.wait()
        return await (self.then(storage, entry) if self.then else storage.real.put(entry))


async def submit_behind(node: Node, gate: Gate, *batches: list[Append]) -> list[asyncio.Task[list[Outcome]]]:
    """Hold a first entry at the gate while the batches queue up behind it."""
    node.storage.puts.appendleft(gate)
    first = asyncio.create_task(node.engine.append([new("First")]))
    await gate.reached.wait()
    tasks = [first, *(asyncio.create_task(node.engine.append(batch)) for batch in batches)]
    await asyncio.sleep(0)
    return tasks


async def test_appends_that_wait_form_the_next_entry(folder: Path) -> None:
    async with run_node(folder) as node:
        gate = Gate()
        tasks = await submit_behind(node, gate, *([new(), new()] for _ in range(10)))
        gate.opened.set()
        outcomes = [one for task in tasks for one in await task]
        assert reasons(outcomes) == ["appended"] * 21
        assert [len(one.ids) for one in node.storage.entries_put] == [1, 20]
        assert sorted(one.first for one in outcomes if isinstance(one, Appended)) == list(range(1, 22))


async def test_when_a_put_is_lost_everything_is_judged_again(folder: Path) -> None:
    async with run_node(folder) as node:
        gate = Gate(lose_to("taken"))
        node.storage.puts.append(gate)
        batch = [free("taken"), free("free"), new(), append(event("N", "free"), conditions=[unless(((), ("free",)))])]
        node.clock.ticks = builders.now_ticks()
        task = asyncio.create_task(node.engine.append(batch))
        await gate.reached.wait()
        gate.opened.set()
        assert reasons(await task) == ["CONDITION_FAILED", "appended", "appended", "CONDITION_FAILED"]
        assert [one[2] for one in await node.read()] == ["Theirs", "N", "N"]


async def test_a_conflict_with_a_batch_mate_that_was_lost_is_not_reported(folder: Path) -> None:
    async with run_node(folder) as node:
        node.storage.puts.append(lose_to("mate"))
        mate, rival = free("mate"), append(event("R", "r", event_id=uuid7(NOON)), conditions=[unless((("N",), ()))])
        assert reasons(await node.engine.append([mate, rival])) == ["CONDITION_FAILED", "appended"]


@pytest.mark.parametrize("error", [StorageFullError(), StorageUnavailableError()], ids=["full", "unavailable"])
async def test_a_failed_put_fails_its_entry_and_what_depends_on_it_and_no_more(
    folder: Path, error: KudurruError
) -> None:
    async with run_node(folder) as node:
        once = event("Old", "old", event_id=uuid7(NOON))
        await node.append(once)
        node.storage.puts.append(fail(error))
        mate = free("mate")
        batch = [
            mate,
            free("mate"),  # conflicts with its batch-mate
            mate,  # repeats its batch-mate
            append(event("N", event_id=uuid7(NOON)), conditions=[unless(((), ("old",)))]),  # conflicts with the past
            append(once),  # repeats the past
        ]
        outcomes = await node.engine.append(batch)
        assert reasons(outcomes) == [error.reason, error.reason, error.reason, "CONDITION_FAILED", "appended"]
        assert len(await node.read()) == 1
        assert reasons(await node.engine.append([mate, free("mate")])) == ["appended", "CONDITION_FAILED"]
        assert [one[0] for one in await node.read()] == [1, 2]


async def test_a_put_of_unknown_outcome_that_took_effect_is_found_by_the_retry(folder: Path) -> None:
    async with run_node(folder) as node:
        node.storage.puts.append(fail(StorageUnavailableError(), written=True))
        mine = free("mine")
        assert reasons(await node.engine.append([mine])) == ["STORAGE_UNAVAILABLE"]
        (again,) = await node.engine.append([mine])
        assert again == Appended(1, 1, NOON, already_committed=True)
        assert reasons(await node.engine.append([free("mine")])) == ["CONDITION_FAILED"]
        assert len(await node.read()) == 1


async def test_a_refusal_after_a_put_of_unknown_outcome_is_true(folder: Path) -> None:
    async with run_node(folder) as node:
        node.storage.puts.append(fail(StorageUnavailableError(), written=True))
        await node.engine.append([free("seat")])
        assert reasons(await node.engine.append([free("seat")])) == ["CONDITION_FAILED"]


async def test_callers_who_leave_during_a_slow_put_fail_nobody(folder: Path) -> None:
    async with run_node(folder) as node:
        gate = Gate()
        tasks = await submit_behind(node, gate, *([new("Q", f"q:{number}")] for number in range(20)))
        for task in tasks[0:1] + tasks[2::2]:
            task.cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, asyncio.CancelledError) for one in outcomes) == 11
        stayed = [one for outcome in outcomes if isinstance(outcome, list) for one in outcome]
        assert reasons(stayed) == ["appended"] * 10
        # The first had joined its entry; the others had not, and are dropped.
        assert [one[2] for one in await node.read()] == ["First", *["Q"] * 10]


async def test_an_answer_that_depends_on_a_batch_mate_waits_for_the_entry(folder: Path) -> None:
    async with run_node(folder) as node:
        gate = Gate()
        node.storage.puts.append(gate)
        winner = asyncio.create_task(node.engine.append([free("seat"), free("seat")]))
        await gate.reached.wait()
        done, _ = await asyncio.wait([winner], timeout=0.05)
        assert not done
        gate.opened.set()
        assert reasons(await winner) == ["appended", "CONDITION_FAILED"]


async def test_a_prepared_answer_that_became_stale_is_asked_again(folder: Path) -> None:
    async with run_node(folder) as node:
        for number in range(8):
            await node.append(event("Old", f"old:{number}", event_id=uuid7(NOON)))
        await node.applied_to(4)

        async def meanwhile() -> None:
            node.storage.before_find = None
            await node.append(event("Late", "late", event_id=uuid7(NOON)))
            for _ in range(12):
                await node.append(event("Push", event_id=uuid7(NOON)))
            await node.applied_to(16)

        node.storage.before_find = meanwhile
        outcome = await node.append(event("N", event_id=uuid7(NOON)), conditions=[unless(((), ("late",)))])
        assert isinstance(outcome, ConditionFailedError)
        assert outcome.metadata["position"] == "9"


async def test_too_much_waiting_is_refused_at_once_and_passes(folder: Path) -> None:
    async with run_node(folder, pending_bytes=500) as node:
        gate = Gate()
        tasks = await submit_behind(node, gate, [new()])
        with pytest.raises(OverloadedError):  # noqa: PT012 - one of the twenty is refused
            for _ in range(20):
                tasks.append(asyncio.create_task(node.engine.append([new()])))
                await asyncio.sleep(0)
                if tasks[-1].done():
                    await tasks.pop()
        gate.opened.set()
        assert [reasons(await task) for task in tasks] == [["appended"]] * len(tasks)
        assert reasons(await node.engine.append([new()])) == ["appended"]


async def test_a_cancelled_caller_gives_its_share_of_the_queue_back(folder: Path) -> None:
    async with run_node(folder, pending_bytes=500) as node:
        for _ in range(20):
            gate = Gate()
            tasks = await submit_behind(node, gate, [new()])
            for task in tasks:
                task.cancel()
            gate.opened.set()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert reasons(await node.engine.append([new()])) == ["appended"]


async def test_appends_are_refused_while_the_index_is_too_far_behind(folder: Path) -> None:
    async with run_node(folder, unapplied_bytes=6_000) as node:
        node.storage.before_apply = asyncio.Event()
        refused = 0
        for _ in range(30):
            try:
                await node.engine.append([new()])
            except OverloadedError:
                refused += 1
        assert refused > 0
        node.storage.before_apply.set()
        await node.applied_to(4)
        await until(lambda: node.engine._tail.unapplied_bytes <= 6_000)  # noqa: SLF001
        assert reasons(await node.engine.append([new()])) == ["appended"]


async def test_draining_answers_what_waits_and_refuses_the_rest(folder: Path) -> None:
    async with run_node(folder) as node:
        gate = Gate()
        tasks = await submit_behind(node, gate, [new()], [new()])
        draining = asyncio.create_task(node.engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError):
            await node.engine.append([new()])
        assert not draining.done()
        gate.opened.set()
        assert [reasons(await task) for task in tasks] == [["appended"]] * 3
        await asyncio.wait_for(draining, PATIENCE_SECONDS)


async def test_a_fault_in_the_store_fails_its_entry_and_the_node_goes_on(folder: Path) -> None:
    """What nobody expected must not leave callers waiting, nor let one bad append end the node."""
    async with run_node(folder) as node:
        node.storage.puts.append(fail(ZeroDivisionError()))
        (failed,) = await node.engine.append([new()])
        assert isinstance(failed, StorageUnavailableError)
        (done,) = await node.engine.append([new()])
        assert isinstance(done, Appended)


async def test_a_task_that_fails_ends_the_node_and_every_append_with_an_unknown_outcome(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[asyncio.Task[list[Outcome]]] = []

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        async with run_node(folder) as node:
            monkeypatch.setattr("kudurru_server.engine.tail.Tail.record", broken)
            waiting.append(asyncio.create_task(node.engine.append([new()])))
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    done, _ = await asyncio.wait([running], timeout=PATIENCE_SECONDS / 5)
    assert done
    with pytest.raises(BaseExceptionGroup):
        await running
    with pytest.raises(StorageUnavailableError):
        await waiting[0]


@pytest.mark.parametrize("count", [1, 2, 8])
async def test_of_racers_for_one_tag_exactly_one_commits(folder: Path, count: int) -> None:
    async with run_node(folder) as node:
        for round_number in range(40):
            appends = [free(f"seat:{round_number}") for _ in range(count)]
            tasks = [asyncio.create_task(node.engine.append([one])) for one in appends]
            outcomes = [reasons(await task)[0] for task in tasks]
            assert sorted(outcomes) == sorted(["appended", *["CONDITION_FAILED"] * (count - 1)])


async def test_repeating_a_whole_large_entry_blocks_nobody_for_long(folder: Path) -> None:
    """After an outage every client repeats what it had sent, all at once."""
    async with run_node(folder) as node:
        appends = [new() for _ in range(12_000)]
        await node.engine.append(appends)
        async with asyncio.timeout(2):
            outcomes = await node.engine.append(appends)
        assert all(isinstance(one, Appended) and one.already_committed for one in outcomes)
