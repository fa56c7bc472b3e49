"""The simulation is worth what it finds: each fault planted in the real code is found by one of a few schedules."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from kudurru_server.engine import group_commit, judge, lookups
from kudurru_server.engine.group_commit import GroupCommit
from kudurru_server.engine.judge import Judge, Verdict
from kudurru_server.model import Append, Entry
from kudurru_server.storage.dynamodb import keys, merge, restore
from kudurru_server.storage.dynamodb.database import Item, Key, Present, Table
from kudurru_server.storage.dynamodb.entry_item import place_of
from kudurru_server.storage.dynamodb.log import Log
from kudurru_server.storage.dynamodb.restore_rows import RowsRestore
from kudurru_server.storage.dynamodb.roll_forward import Applied, RollForward, RollOptions
from kudurru_server.storage.dynamodb.trim import Trimmer

from tests.simulation.simulation import SCENARIOS, simulate

Plant = Callable[[pytest.MonkeyPatch], None]


def found(scenario: str, schedules: int) -> list[str]:
    """Return the problems of the first schedule that has any."""
    results = (simulate(f"planted/{number}", SCENARIOS[scenario]) for number in range(schedules))
    return next((result.problems for result in results if result.problems), [])


def without_judging_again(patch: pytest.MonkeyPatch) -> None:
    """An append that may be recorded once may be recorded ever after, whatever comes between."""
    real = Judge.judge
    passed: dict[int, Append] = {}

    def once(self: Judge, append: Append, answers: lookups.Answers, entry: Entry) -> Verdict:
        if passed.get(id(append)) is append:
            append = replace(append, conditions=())
        verdict = real(self, append, answers, entry)
        if verdict.outcome is None:
            passed[id(append)] = append
        return verdict

    patch.setattr(Judge, "judge", once)


def without_judging_ids_again(patch: pytest.MonkeyPatch) -> None:
    """As above for ids: a repetition of what has come between is recorded again."""
    real = Judge.judge
    passed: dict[int, Append] = {}

    def once(self: Judge, append: Append, answers: lookups.Answers, entry: Entry) -> Verdict:
        if passed.get(id(append)) is not append:
            verdict = real(self, append, answers, entry)
            if verdict.outcome is None:
                passed[id(append)] = append
            return verdict
        entry.appends.append((entry.last + 1, len(append.ids)))
        entry.ids += append.ids
        entry.labels += append.labels
        entry.frames += append.encoded
        self._tail.stage(append.ids, append.labels)
        return Verdict(None, depends_on_entry=True)

    patch.setattr(Judge, "judge", once)


def without_the_60_s_rule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judge, "ID_LEAD_TICKS", 10**18)


def without_looking_up_ids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lookups, "_may_hold", lambda _border, _append: False)


def with_a_gap_in_the_log(patch: pytest.MonkeyPatch) -> None:
    real, count = Log.put, itertools.count(1)

    async def put(self: Log, entry: Entry) -> bool:
        if next(count) % 10 == 0:
            self._number += 1
        return await real(self, entry)

    patch.setattr(Log, "put", put)


def with_deleted_entries(patch: pytest.MonkeyPatch) -> None:
    real = RollForward._move  # noqa: SLF001

    async def move(self: RollForward, seen: Applied, to: Applied) -> bool:
        moved = await real(self, seen, to)
        for stripes in (1, 2, 3):
            await self._rows.asking(lambda of=stripes: self._database.delete(Table.LOG, keys.log_key(to.number, of)))  # type: ignore[misc]
        return moved

    patch.setattr(RollForward, "_move", move)


def without_the_density_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(merge, "dense", lambda items, _first: list(items))


def with_a_watermark_ahead_of_the_rows(patch: pytest.MonkeyPatch) -> None:
    real = RollForward._write_chunk  # noqa: SLF001

    async def write(self: RollForward, chunk: Any) -> None:  # noqa: ANN401
        if chunk.number % 2 == 0:
            await real(self, chunk)

    patch.setattr(RollForward, "_write_chunk", write)


def with_a_watermark_that_goes_back(patch: pytest.MonkeyPatch) -> None:
    real = RollForward._move  # noqa: SLF001

    async def move(self: RollForward, seen: Applied, to: Applied) -> bool:
        database = self._database
        update = database.update

        async def unconditionally(table: Table, key: Key, values: Item, _condition: object) -> object:
            return await update(table, key, values, Present())

        database.update = unconditionally  # type: ignore[method-assign,assignment]
        try:
            return await real(self, seen, to)
        finally:
            database.update = update  # type: ignore[method-assign]

    patch.setattr(RollForward, "_move", move)


def with_answers_from_undecided_entries(patch: pytest.MonkeyPatch) -> None:
    real = Judge.judge

    def hasty(self: Judge, append: Append, answers: lookups.Answers, entry: Entry) -> Verdict:
        verdict = real(self, append, answers, entry)
        return verdict if verdict.outcome is None else replace(verdict, depends_on_entry=False)

    patch.setattr(Judge, "judge", hasty)


def with_any_token_taken_for_ours(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Log, "_is_ours", staticmethod(lambda _refused, _token: True))


def without_ticks_that_rise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kudurru_server.engine.commit.max", lambda clock, _head: clock, raising=False)


def with_conditions_seen_from_the_tail_only(patch: pytest.MonkeyPatch) -> None:
    async def nothing(_self: object, checks: Any, _until: int) -> list[None]:  # noqa: ANN401
        return [None for _ in checks]

    patch.setattr("kudurru_server.storage.dynamodb.store.DynamoStorage.first_matches", nothing)


def with_answers_that_cannot_be_read_yet(patch: pytest.MonkeyPatch) -> None:
    """The leader's word is taken for what this node does not have."""
    patch.setattr(group_commit, "_position", lambda _outcome: 0)
    patch.setattr(GroupCommit, "_is_in_tail", lambda _self, _append, _outcome: True)


def with_trimming_that_deletes(patch: pytest.MonkeyPatch) -> None:
    async def trim(self: Trimmer, item: Item) -> None:
        key = keys.log_key(place_of(item).number, self._log.stripes)
        await self._rows.asking(lambda: self._database.delete(Table.LOG, key))

    patch.setattr(Trimmer, "_trim", trim)


def with_trimming_above_the_watermark(patch: pytest.MonkeyPatch) -> None:
    real = Trimmer.step

    async def step(self: Trimmer) -> int:
        look = self._roll.look

        async def look_ahead() -> Applied:
            return replace(await look(), number=10**6)

        patch.setattr(self._roll, "look", look_ahead)
        try:
            return await real(self)
        finally:
            patch.setattr(self._roll, "look", look)

    patch.setattr(Trimmer, "step", step)


def with_a_floor_that_follows(patch: pytest.MonkeyPatch) -> None:
    real = Trimmer._raise  # noqa: SLF001

    async def move(self: Trimmer, name: str, number: int) -> None:
        if name == "trimmed":
            await real(self, "entry_number", number)
            await real(self, name, number)

    patch.setattr(Trimmer, "_raise", move)


def with_rows_above_the_head_after_a_restore(patch: pytest.MonkeyPatch) -> None:
    async def nothing(_self: object, _table: object, _items: object) -> None: ...

    patch.setattr(RowsRestore, "_delete", nothing)


def with_a_restore_whose_tokens_are_known(patch: pytest.MonkeyPatch) -> None:
    def options(**named: Any) -> RollOptions:  # noqa: ANN401
        layout = f"1:{named['write_shard_count']}:200:"
        return RollOptions(**{**named, "in_transactions": True, "layout": layout})

    patch.setattr(restore, "RollOptions", options)


PLANTS: dict[str, tuple[Plant, str, int]] = {
    "conditions not judged again": (without_judging_again, "faulty network", 100),
    "ids not judged again": (without_judging_ids_again, "faulty network", 100),
    "no 60 s rule": (without_the_60_s_rule, "clock jumps", 100),
    "no look-up of ids": (without_looking_up_ids, "calm", 100),
    "a gap in the log": (with_a_gap_in_the_log, "calm", 100),
    "deleted entries": (with_deleted_entries, "calm", 100),
    "no density check": (without_the_density_check, "index lag", 100),
    "watermark ahead of rows": (with_a_watermark_ahead_of_the_rows, "calm", 100),
    "watermark goes back": (with_a_watermark_that_goes_back, "pauses", 100),
    "answers from undecided entries": (with_answers_from_undecided_entries, "faulty network", 150),
    "any token is ours": (with_any_token_taken_for_ours, "calm", 100),
    "ticks that go back": (without_ticks_that_rise, "clock jumps", 100),
    "answers that cannot be read yet": (with_answers_that_cannot_be_read_yet, "calm", 100),
    "conditions seen from the tail only": (with_conditions_seen_from_the_tail_only, "calm", 100),
    "trimming that deletes": (with_trimming_that_deletes, "calm", 100),
    "trimming above the watermark": (with_trimming_above_the_watermark, "calm", 100),
    "a floor that follows": (with_a_floor_that_follows, "calm", 100),
    "a restore that leaves rows": (with_rows_above_the_head_after_a_restore, "restore", 100),
    "a restore whose tokens are known": (with_a_restore_whose_tokens_are_known, "restore", 100),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, scenario, schedules = PLANTS[name]
    plant(monkeypatch)
    assert found(scenario, schedules)
