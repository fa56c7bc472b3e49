"""Racers behind a barrier, in several client processes, want to be the first event of one tag."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import CALL_SECONDS, Client, connect, event, new_id, query
from tests.e2e.ledger import Ledger, append_request
from tests.server_process import ServerProcess

_ROOT = Path(__file__).parents[2]
_PROCESSES = 3
_RACERS = 8
_ROUNDS = 25


@pytest.mark.parametrize("read_first", [True, False], ids=["after the read", "before the read"])
async def test_exactly_one_of_the_racers_behind_a_barrier_wins(
    server: ServerProcess, client: Client, *, read_first: bool
) -> None:
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_client_process(server.address)) for _ in range(_PROCESSES)]
        for number in range(_ROUNDS):
            tag = f"race:{number}"
            outcomes = Counter(await _race(processes, {"tag": tag, "racers": _RACERS, "read_first": read_first}))
            assert outcomes["won"] == 1, f"round {number}: {outcomes}"
            assert outcomes.total() == _PROCESSES * _RACERS
            if read_first:
                assert not outcomes["did not run"]
            frames, _ = await client.read(pb.ReadRequest(query=query(((), [tag]))))
            assert len(frames) == 1


async def test_racing_repetitions_of_one_append_record_it_once(server: ServerProcess, client: Client) -> None:
    async with connect(server.address) as other:
        for number in range(_ROUNDS):
            request = append_request([event("Repeated", f"race:{number}") for _ in range(5)])
            answers = await asyncio.gather(*((client, other)[turn % 2].append(request) for turn in range(30)))
            taken = [answer for answer in answers if isinstance(answer, pb.AppendResponse)]
            assert len(taken) == len(answers)
            assert [answer.already_committed for answer in taken].count(False) == 1
            assert len({tuple(answer.sortable_unique_ids) for answer in taken}) == 1
            assert taken[0].last_position == 5 * (number + 1)


async def test_of_racing_appends_with_one_id_and_different_content_one_is_recorded(
    server: ServerProcess, client: Client
) -> None:
    ledger = Ledger()
    async with connect(server.address) as other:
        for _ in range(_ROUNDS):
            event_id = new_id()
            requests = [
                append_request([event(), event_pb2.Event(event_id=event_id, event_type=f"Type{turn}")])
                for turn in range(20)
            ]
            answers = await asyncio.gather(
                *((client, other)[turn % 2].append(request) for turn, request in enumerate(requests))
            )
            for request, answer in zip(requests, answers, strict=True):
                ledger.note(request, answer)
    assert len(ledger.acknowledged) == _ROUNDS
    assert {answer.reason for _, answer in ledger.refused} == {"EVENT_ID_EXISTS"}
    for request, _ in ledger.refused:
        del request.events[1]  # the id that they share is recorded, by another
    await ledger.check(client)


async def _race(processes: Sequence[asyncio.subprocess.Process], asked: dict[str, Any]) -> list[str]:
    await asyncio.gather(*(_tell(process, json.dumps(asked)) for process in processes))
    assert await asyncio.gather(*(_told(process) for process in processes)) == ["ready"] * len(processes)
    await asyncio.gather(*(_tell(process, "go") for process in processes))
    outcomes = await asyncio.gather(*(_told(process) for process in processes))
    return [outcome for some in outcomes for outcome in some]


async def _tell(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    await process.stdin.drain()


async def _told(process: asyncio.subprocess.Process) -> Any:  # noqa: ANN401 - JSON
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), CALL_SECONDS)
    assert line, f"a client process ended: {await process.wait()}"
    return json.loads(line)


@asynccontextmanager
async def _client_process(address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.racer",
        address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    try:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), CALL_SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
