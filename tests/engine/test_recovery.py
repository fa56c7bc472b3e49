"""Starting, applying and failing to: the watermark follows the log, and answers never depend on how far it is."""

from pathlib import Path

import pytest
from kudurru_server.errors import ConditionFailedError, StorageFullError, StorageUnavailableError
from kudurru_server.model import Appended

from tests.builders import NOON, event, query, unless, uuid4, uuid7
from tests.engine.nodes import Clock, Node, Scripted, run_node

X = query(((), ("x",)))


async def fill(node: Node, count: int) -> None:
    for _ in range(count):
        await node.append(event("E", "x", event_id=uuid7(NOON)))


@pytest.mark.parametrize("count", range(14))
async def test_every_answer_is_the_same_after_a_restart_at_any_length(folder: Path, count: int) -> None:
    clock = Clock()
    once = event("Once", "once", event_id=uuid4())
    async with run_node(folder, clock=clock) as node:
        await node.append(once)
        await fill(node, count)
        before = await node.read()
    async with run_node(folder, clock=clock) as node:
        assert await node.read() == before
        assert node.engine.head.position == count + 1
        for conditions in ([unless()], [unless(((), ("once",)))], [unless((("Once",), ()))]):
            outcome = await node.append(event("N", event_id=uuid7(NOON)), conditions=conditions)
            assert isinstance(outcome, ConditionFailedError)
        assert await node.append(once) == Appended(1, 1, NOON, already_committed=True)
        assert await node.append(event("N", event_id=uuid7(NOON))) == Appended(
            count + 2, 1, NOON, already_committed=False
        )


async def test_a_match_all_condition_is_judged_when_all_of_the_store_is_history(folder: Path) -> None:
    async with run_node(folder) as node:
        await fill(node, 4)
        await node.applied_to(4)
        assert node.left.position == 4
        outcome = await node.append(event("N", event_id=uuid7(NOON)), conditions=[unless()])
        assert isinstance(outcome, ConditionFailedError)


async def test_many_generations_without_rows_keep_no_node_from_starting_and_are_applied_then(folder: Path) -> None:
    def never_apply(storage: Scripted) -> None:
        storage.applies.extend([StorageUnavailableError()] * 1000)

    clock = Clock()
    async with run_node(folder, clock=clock, prepare=never_apply) as node:
        await fill(node, 50)
        assert await node.storage.real.applied() == 0
        before = await node.read(X)
    async with run_node(folder, clock=clock) as node:
        assert await node.read(X) == before
        await node.applied_to(48)
        assert await node.read(X) == before
        assert len(before) == 50


async def test_a_failed_apply_is_tried_again_and_commits_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kudurru_server.engine.applier._RETRY_SECONDS", 0.01)

    def fail_twice(storage: Scripted) -> None:
        storage.applies.extend([StorageUnavailableError(), StorageFullError()])

    async with run_node(folder, prepare=fail_twice) as node:
        await fill(node, 12)
        await node.applied_to(12)
        assert len(await node.read(X)) == 12
        assert not node.storage.applies


async def test_reads_cross_from_history_into_the_tail_without_a_seam(folder: Path) -> None:
    async with run_node(folder, tail_bytes=4_000) as node:
        for count in range(1, 40):
            await fill(node, 1)
            assert [one[0] for one in await node.read(X)] == list(range(1, count + 1))
        await node.applied_to(36)
        assert 0 < node.left.position < 40
