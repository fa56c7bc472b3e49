"""SIGTERM: what runs is answered, what waits is told why it ends, and nothing acknowledged is lost."""

import asyncio
import random
import signal
import time
from collections import Counter, deque
from pathlib import Path
from typing import TypeAlias, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import CALL_SECONDS, SERVICE, UNKNOWN_OUTCOMES, Client, Refusal, connect, event
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import (
    AppendStreamCall,
    Follower,
    Workload,
    append_one_by_one,
    ended,
    note_outcomes,
    until,
    write_unless_blocked,
)
from tests.server_process import ServerProcess, run_server

_GRACE_SECONDS = 5
_GRACE = ("--shutdown-grace-seconds", str(_GRACE_SECONDS))
_SLACK_SECONDS = 2.0
"""For closing the storage and ending the process, on a busy machine."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_shutdown_under_load_answers_what_runs_and_loses_nothing(tmp_path: Path, rng: random.Random) -> None:
    ledger = Ledger()
    follower = Follower()
    async with run_server(tmp_path, *_GRACE) as server, connect(server.address) as client:
        make = Workload(rng, ledger)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(16):
                tasks.create_task(append_one_by_one(client, ledger, make))
            tasks.create_task(follower.follow(client))
            idle = tasks.create_task(_end_of_idle_stream(client, ledger))
            await until(lambda: len(ledger.acknowledged) > 500 and len(follower.frames) > 100, "load")
            streams = await asyncio.gather(*(_burst(client, ledger) for _ in range(4)))
            server.signal(signal.SIGTERM)
        endings = [await ended(call, waiting, ledger) for call, waiting in streams]
        for _, waiting in streams:
            ledger.unanswered += waiting
        for ending in (follower.ending, idle.result(), *endings):
            assert ending is not None
            assert (ending.code, ending.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"), ending
        started = time.monotonic()
        assert await server.ended() == 0
        assert time.monotonic() - started < _SLACK_SECONDS, "it waited though nothing held it up"
        assert [line["event"] for line in server.log()] == ["serving", "stopping", "stopped"]
        assert not server.stderr()
    async with run_server(tmp_path) as server, connect(server.address) as client:
        await ledger.check(client)
        recorded = [request for request in ledger.unanswered if ledger.history.position_of(request) is not None]
        assert len(recorded) == 0, f"{len(recorded)} of {len(ledger.unanswered)} unanswered appends were recorded"
        await follower.catch_up(client)
        assert follower.frames == ledger.frames


async def _burst(client: Client, ledger: Ledger) -> tuple[AppendStreamCall, deque[pb.AppendRequest]]:
    """Write many messages on a stream that runs; return it and what is not answered yet.

    Nothing is written later: grpc.aio forgets the outcomes it holds when a write meets the end of a call.
    """
    call = client.stub.AppendStream()
    waiting: deque[pb.AppendRequest] = deque()
    for _ in range(6):
        message = pb.AppendStreamRequest(appends=[append_request([event(data=bytes(200))]) for _ in range(25)])
        waiting.extend(message.appends)
        await call.write(message)
    first = await call.read()
    assert isinstance(first, pb.AppendStreamResponse)
    note_outcomes(first, waiting, ledger)
    return call, waiting


async def _end_of_idle_stream(client: Client, ledger: Ledger) -> Refusal:
    call = client.stub.AppendStream()
    request = append_request([event()])
    await call.write(pb.AppendStreamRequest(appends=[request]))
    response = await call.read()
    assert isinstance(response, pb.AppendStreamResponse)
    note_outcomes(response, deque([request]), ledger)
    return await ended(call, deque(), ledger)


_Watch: TypeAlias = "grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"


def _watch(client: Client, service: str) -> _Watch:
    watch = client.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return cast("_Watch", watch(health_pb2.HealthCheckRequest(service=service)))


async def _next_status(watch: _Watch) -> int:
    response = await asyncio.wait_for(watch.read(), CALL_SECONDS)
    assert isinstance(response, health_pb2.HealthCheckResponse), "the watch ended"
    return response.status


async def test_health_goes_to_not_serving_before_calls_are_refused(server: ServerProcess, client: Client) -> None:
    async with connect(server.address) as watching:
        watches = [_watch(watching, service) for service in ("", SERVICE)]
        for watch in watches:
            assert await _next_status(watch) == _SERVING
        await client.record(event())
        server.signal(signal.SIGTERM)
        for watch in watches:
            assert await _next_status(watch) == _NOT_SERVING
        answer = await client.append(append_request([event()]))
        assert isinstance(answer, Refusal), "a call after the shutdown began was answered"
        assert answer.code in UNKNOWN_OUTCOMES
        for watch in watches:
            watch.cancel()
        assert await server.ended() == 0


async def test_calls_that_meet_the_shutdown_end_with_unavailable(server: ServerProcess, client: Client) -> None:
    """Nobody cancelled them; and a client may repeat by itself what was UNAVAILABLE, but not what was CANCELLED."""
    endings: Counter[tuple[grpc.StatusCode, str]] = Counter()
    answered = 0

    async def append_to_the_end() -> None:
        nonlocal answered
        while isinstance(answer := await client.append(append_request([event()])), pb.AppendResponse):
            answered += 1
        endings[answer.code, answer.reason] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(100):
            tasks.create_task(append_to_the_end())
        await until(lambda: answered > 300, "load")
        server.signal(signal.SIGTERM)
    assert await server.ended() == 0
    assert {code for code, _ in endings} == {grpc.StatusCode.UNAVAILABLE}, endings


async def test_somebody_who_watches_health_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    async with run_server(tmp_path, *_GRACE) as server, connect(server.address) as client:
        watch = _watch(client, SERVICE)
        assert await _next_status(watch) == _SERVING
        started = time.monotonic()
        assert await server.stop() == 0
        took = time.monotonic() - started
        assert took < _SLACK_SECONDS, f"{took:.1f} s of a grace of {_GRACE_SECONDS} s"


@pytest.mark.parametrize("kind", ["subscription", "read", "append stream"])
async def test_a_stalled_client_does_not_hold_up_the_exit_beyond_the_grace(tmp_path: Path, kind: str) -> None:
    grace_seconds = 1
    async with run_server(tmp_path, "--shutdown-grace-seconds", str(grace_seconds)) as server:
        async with connect(server.address) as client, connect(server.address) as stalled:
            for _ in range(10):
                await client.record(*(event(data=bytes(100_000)) for _ in range(30)))
            if kind == "subscription":
                subscription = stalled.subscribe(pb.SubscribeRequest())
                await subscription.read()
            elif kind == "read":
                read = stalled.stub.Read(pb.ReadRequest())
                await read.read()
            else:
                await _write_until_blocked(stalled)
            started = time.monotonic()
            assert await server.stop() == 0
            assert time.monotonic() - started < grace_seconds + _SLACK_SECONDS
        assert server.log()[-1]["event"] == "stopped"
        assert not server.stderr()


async def test_a_shutdown_answers_what_was_recorded_to_a_client_that_reads_its_outcomes_late(tmp_path: Path) -> None:
    ledger = Ledger()
    async with run_server(tmp_path, *_GRACE) as server, connect(server.address) as client:
        call, waiting = await _write_until_blocked(client)
        server.signal(signal.SIGTERM)
        await until(lambda: server.log()[-1]["event"] == "stopping", "shutdown")
        ending = await ended(call, waiting, ledger)
        assert (ending.code, ending.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"), ending
        assert await server.ended() == 0
    ledger.unanswered += waiting
    async with run_server(tmp_path) as server, connect(server.address) as client:
        await ledger.check(client)
        recorded = [request for request in ledger.unanswered if ledger.history.position_of(request) is not None]
        assert len(recorded) == 0, f"{len(recorded)} of {len(ledger.unanswered)} unanswered appends were recorded"


async def _write_until_blocked(client: Client) -> tuple[AppendStreamCall, deque[pb.AppendRequest]]:
    """Send appends and read no outcome until the server takes no more; return the call and what is not answered."""
    call = client.stub.AppendStream()
    waiting: deque[pb.AppendRequest] = deque()
    while True:
        message = pb.AppendStreamRequest(appends=[append_request([event() for _ in range(100)]) for _ in range(100)])
        waiting.extend(message.appends)
        if not await write_unless_blocked(call, message):
            return call, waiting


async def test_the_second_signal_does_no_harm(tmp_path: Path) -> None:
    ledger = Ledger()
    async with run_server(tmp_path, *_GRACE) as server, connect(server.address) as client:
        request = append_request([event()])
        ledger.note(request, await client.append(request))
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert await server.stop() == 0
    async with run_server(tmp_path) as server, connect(server.address) as client:
        await ledger.check(client)
