"""More than the server can take at once: it answers or refuses, soon and clearly, and its memory stays bounded."""

import asyncio
from collections import Counter
from pathlib import Path

import grpc
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import CALL_SECONDS, Client, Refusal, connect, event, parsed
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import write_unless_blocked
from tests.server_process import ServerProcess, run_server

_BURST = 4000
_STALLED = 6
_STREAM_BUDGET_BYTES = 96 << 20
"""Of a stream with eight messages of 4 MiB undecided, in Python objects, with slack."""


async def test_a_burst_of_thousands_of_calls_on_one_connection_is_answered_to_the_last(client: Client) -> None:
    ledger = Ledger()
    requests = [append_request([event(), event()]) for _ in range(_BURST)]
    answers = await asyncio.gather(*(client.append(request) for request in requests))
    for request, answer in zip(requests, answers, strict=True):
        ledger.note(request, answer)
    await ledger.check(client)
    refused = Counter(answer.code for answer in answers if isinstance(answer, Refusal))
    assert refused.keys() <= {grpc.StatusCode.RESOURCE_EXHAUSTED}, f"nobody cancelled, yet {refused}"


async def test_appends_beyond_the_pending_limit_are_refused_and_the_others_recorded(tmp_path: Path) -> None:
    ledger = Ledger()
    async with run_server(tmp_path, "--max-pending-bytes", str(1 << 20)) as server, connect(server.address) as client:
        requests = [append_request([event(data=bytes(100_000))]) for _ in range(200)]
        answers = await asyncio.gather(*(client.append(request) for request in requests))
        for request, answer in zip(requests, answers, strict=True):
            ledger.note(request, answer)
            if isinstance(answer, Refusal):
                assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED, answer
                assert answer.reason == "OVERLOADED"
        assert ledger.acknowledged
        assert ledger.refused, "the limit was never reached"
        await ledger.check(client)
        for request, _ in ledger.refused:
            assert not (await client.stub.Append(request, timeout=CALL_SECONDS)).already_committed


async def test_clients_that_never_read_their_outcomes_cost_a_bounded_amount_of_memory(
    server: ServerProcess, client: Client
) -> None:
    """Each sends far more than it may have undecided; what the server does not take stays with the client."""
    await client.record(event())
    before = server.memory_bytes()
    calls = []
    async with connect(server.address) as stalled:
        for _ in range(_STALLED):
            call = stalled.stub.AppendStream()
            calls.append(call)
            appends = [append_request([event(data=bytes(2000)) for _ in range(10)]) for _ in range(100)]
            message = pb.AppendStreamRequest(appends=appends)  # refused, all but the first time, and answered at length
            while await write_unless_blocked(call, message):
                pass
        grown = server.memory_bytes() - before
        await client.record(event())
        print(f"memory grew by {grown / _STALLED / 2**20:.1f} MiB each")  # noqa: T201 - pytest shows it
        assert grown < _STALLED * _STREAM_BUDGET_BYTES, f"{grown >> 20} MiB for {_STALLED} stalled streams"


async def test_readers_of_an_idle_store_cost_a_bounded_amount_of_memory(server: ServerProcess, client: Client) -> None:
    """Each begins elsewhere in the tail, so that no two of them ask for the same batches."""
    for _ in range(60):
        await client.record(*(event(data=bytes(50_000)) for _ in range(20)))
    before = server.memory_bytes()
    frames, _ = await client.read(pb.ReadRequest(limit=20))
    for recorded in parsed(frames):
        call = client.subscribe(pb.SubscribeRequest(after=recorded.sortable_unique_id))
        async for message in call:
            if pb.SubscribeResponse.FromString(message.rest).HasField("caught_up"):
                break
        call.cancel()
    grown = server.memory_bytes() - before
    print(f"memory grew by {grown >> 20} MiB")  # noqa: T201 - pytest shows it with a failure
    assert grown < 64 << 20, f"{grown >> 20} MiB for 20 subscribers, one after the other"
