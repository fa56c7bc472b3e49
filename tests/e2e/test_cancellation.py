"""Clients that give up: their appends are recorded whole or not at all, and nobody else notices."""

import asyncio
import random
from pathlib import Path

import grpc.aio
import pytest
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import CALL_SECONDS, UNKNOWN_OUTCOMES, Client, Refusal, connect, event, query, refusal
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import until
from tests.server_process import ServerProcess, run_server

_APPENDS = 400
_ROUNDS = 3


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_client_that_gives_up_fails_nobody_else(server: ServerProcess, rng: random.Random, how: str) -> None:
    ledger = Ledger()
    async with connect(server.address) as patient, connect(server.address) as other:
        for _ in range(_ROUNDS):
            appends = [
                append_request([event("Happened", "tag:1", data=rng.randbytes(500)) for _ in range(rng.randint(1, 40))])
                for _ in range(_APPENDS)
            ]
            given_up = set(rng.sample(range(_APPENDS), _APPENDS // 3))
            answers = await asyncio.gather(
                *(
                    _give_up(other if number % 2 else patient, request, rng.uniform(0, 0.3), how)
                    if number in given_up
                    else patient.append(request)
                    for number, request in enumerate(appends)
                )
            )
            for number, (request, answer) in enumerate(zip(appends, answers, strict=True)):
                if number not in given_up:
                    assert isinstance(answer, pb.AppendResponse), f"an innocent append ended with {answer}"
                ledger.note(request, answer)
        assert ledger.unanswered, "nobody gave up in time"
        await _retry(patient, ledger)
        await ledger.check(patient)
    assert not server.stderr()


async def _give_up(
    client: Client, request: pb.AppendRequest, after_seconds: float, how: str
) -> pb.AppendResponse | Refusal:
    if how == "deadline":
        return await client.append(request, after_seconds)
    call = client.stub.Append(request, timeout=CALL_SECONDS)
    giving_up = asyncio.get_running_loop().call_later(after_seconds, call.cancel)
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    except asyncio.CancelledError:
        return Refusal(await call.code(), "", "")
    finally:
        giving_up.cancel()


async def _retry(client: Client, ledger: Ledger) -> None:
    """Retry what was given up: a retry is answered, as the first or as a repeated one, and a second one as repeated."""
    unanswered, ledger.unanswered = ledger.unanswered, []
    retried = await asyncio.gather(*(client.append(request) for request in unanswered))
    again = await asyncio.gather(*(client.append(request) for request in unanswered))
    for request, answer, second in zip(unanswered, retried, again, strict=True):
        assert isinstance(answer, pb.AppendResponse), answer
        assert isinstance(second, pb.AppendResponse), second
        assert second.already_committed
        assert second.sortable_unique_ids == answer.sortable_unique_ids
        ledger.note(request, answer)
    committed = sum(answer.already_committed for answer in retried if isinstance(answer, pb.AppendResponse))
    assert committed < len(unanswered), "not one of the appends that were given up was dropped"


async def test_a_client_that_leaves_its_stream_in_the_middle_fails_nobody_else(
    server: ServerProcess, client: Client, rng: random.Random
) -> None:
    ledger = Ledger()
    async with connect(server.address) as leaving:
        for _ in range(20):
            call = leaving.stub.AppendStream()
            message = pb.AppendStreamRequest(appends=[append_request([event(), event()]) for _ in range(200)])
            await call.write(message)
            innocent = append_request([event("Innocent")])
            asyncio.get_running_loop().call_later(rng.uniform(0, 0.02), call.cancel)
            answer = await client.append(innocent)
            assert isinstance(answer, pb.AppendResponse), answer
            ledger.note(innocent, answer)
            assert await call.code() in UNKNOWN_OUTCOMES
            ledger.unanswered += message.appends
    await ledger.settle(client)
    assert not ledger.unanswered
    assert not server.stderr()


async def test_readers_and_subscribers_that_leave_in_the_middle_leave_nothing_behind(
    tmp_path: Path, rng: random.Random
) -> None:
    async with run_server(tmp_path, "--tail-bytes", str(1 << 20)) as server, connect(server.address) as client:
        for _ in range(20):
            await client.record(*(event("Large", "tag:1", data=rng.randbytes(60_000)) for _ in range(40)))
        await _leave_all(server, rng)
        before, files = server.memory_bytes(), server.open_files()
        for _ in range(4):
            await _leave_all(server, rng)
        await until(lambda: server.open_files() <= files, "end of the connections")
        grown = server.memory_bytes() - before
        assert grown < 32 << 20, f"{grown >> 20} MiB"
        frames, _ = await client.read()
        assert len(frames) == 800
        assert await server.stop() == 0
        assert not server.stderr()
        assert [line["event"] for line in server.log()] == ["serving", "stopping", "stopped"], "leaving is no failure"


async def _leave_all(server: ServerProcess, rng: random.Random) -> None:
    async with connect(server.address) as leaving:
        asked = [query(((), ["tag:1"])), query()]
        reads = [leaving.stub.Read(pb.ReadRequest(query=asked[number % 2])) for number in range(30)]
        subscriptions = [leaving.stub.Subscribe(pb.SubscribeRequest(query=asked[number % 2])) for number in range(30)]
        for read in reads:
            for _ in range(rng.randint(0, 2)):
                await asyncio.wait_for(read.read(), CALL_SECONDS)
        for subscription in subscriptions:
            for _ in range(rng.randint(0, 2)):
                await asyncio.wait_for(subscription.read(), CALL_SECONDS)
        for read in reads:
            read.cancel()
