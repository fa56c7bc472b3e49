"""Server processes that share one store on real components: each of them may die, and the network may do anything."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from kudurru._proto import event_store_service_pb2 as pb

from tests.aws.components import Component
from tests.aws.fault_proxy import fault_proxy
from tests.aws.faults import EVERYTHING, Faults
from tests.e2e.client import UNKNOWN_OUTCOMES, Client, Refusal, connect, event, parsed
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import Follower, Workload, load, until
from tests.server_process import ServerProcess, run_server, run_to_end

_ACKNOWLEDGED = 150


@asynccontextmanager
async def two_servers(folder: Path, environment: dict[str, str]) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    async with run_server(folder / "one", env=environment) as one, run_server(folder / "two", env=environment) as two:
        yield one, two


async def test_what_one_server_acknowledged_outlives_it_and_is_seen_by_the_other(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    ledger, follower = Ledger(), Follower()
    async with two_servers(tmp_path, environment) as (one, two), connect(two.address) as other:
        async with connect(one.address) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(load(client, ledger, random.Random(1)))
            following = tasks.create_task(follower.follow(other))
            await until(lambda: len(ledger.acknowledged) > _ACKNOWLEDGED, "answers")
            await one.kill()
            following.cancel()
        await _settle(ledger, other)
        await follower.catch_up(other)
        assert follower.frames == ledger.frames
        assert await two.stop() == 0


async def _settle(ledger: Ledger, other: Client) -> None:
    """Settle the account on another server than the one that was killed.

    Its own append decides the place in the log that the last put of the other may still be on its way to.
    """
    request = append_request([event("Fence")])
    ledger.note(request, await other.append(request))
    await ledger.settle(other)


async def test_a_network_that_loses_repeats_and_delays_breaks_no_promise(
    tmp_path: Path, environment: dict[str, str], dynamodb: Component
) -> None:
    ledger, follower = Ledger(), Follower()
    async with fault_proxy(dynamodb, seed=7) as proxy:
        variables = {**environment, **proxy.environment, "KUDURRU_DYNAMODB_HISTORY": "index"}
        async with two_servers(tmp_path, variables) as (one, two), connect(two.address) as other:
            proxy.faults = EVERYTHING
            async with connect(one.address) as client, asyncio.TaskGroup() as tasks:
                tasks.create_task(load(client, ledger, random.Random(2)))
                following = tasks.create_task(follower.follow(other))
                await until(lambda: len(ledger.acknowledged) > _ACKNOWLEDGED and len(proxy.counts) > 5, "faults", 90)
                await one.kill()
                following.cancel()
            proxy.faults = Faults()
            await proxy.settled()
            await _settle(ledger, other)
            await follower.catch_up(other)
            assert follower.frames == ledger.frames


async def test_four_servers_that_race_die_and_sleep_record_one_history(
    tmp_path: Path, environment: dict[str, str], dynamodb: Component
) -> None:
    ledger, followers, rng = Ledger(), [Follower() for _ in range(4)], random.Random(4)
    make, done = Workload(rng, ledger), asyncio.Event()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(fault_proxy(dynamodb, seed=11))

        async def start(number: int) -> tuple[ServerProcess, Client]:
            how = {
                "KUDURRU_DYNAMODB_INDEX_WRITES": ("transactions", "batches")[number % 2],
                "KUDURRU_DYNAMODB_HISTORY": ("auto", "index")[number // 2],
            }
            running = run_server(tmp_path / str(number), env={**environment, **proxy.environment, **how})
            server = await stack.enter_async_context(running)
            return server, await stack.enter_async_context(connect(server.address))

        async def acknowledged(more: int) -> None:
            least = len(ledger.acknowledged) + more
            await until(lambda: len(ledger.acknowledged) >= least, "answers", 60)

        nodes = [await start(number) for number in range(4)]
        proxy.faults = EVERYTHING
        async with asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(_follow(nodes, at, follower)) for at, follower in enumerate(followers)]
            for _ in range(16):
                tasks.create_task(_append_anywhere(nodes, ledger, make, rng, done))
            await acknowledged(_ACKNOWLEDGED // 2)
            nodes[1][0].signal(signal.SIGSTOP)
            await acknowledged(_ACKNOWLEDGED // 2)
            await nodes[0][0].kill()
            await acknowledged(_ACKNOWLEDGED // 2)
            nodes[0] = await start(0)
            nodes[1][0].signal(signal.SIGCONT)
            await acknowledged(_ACKNOWLEDGED)
            done.set()
            for task in following:
                task.cancel()
        proxy.faults = Faults()
        await proxy.settled()
        await _settle(ledger, nodes[3][1])
        for (_, client), follower in zip(nodes, followers, strict=True):
            head = pb.ReadRequest(at_least=ledger.history.head)
            assert await client.read(head) == (ledger.frames, ledger.history.head)
            await follower.catch_up(client)
            assert follower.frames == ledger.frames


async def _follow(nodes: list[tuple[ServerProcess, Client]], at: int, follower: Follower) -> None:
    """Follow at one node, for ever, also when another process has taken its place."""
    while True:
        await follower.follow(nodes[at][1])
        await asyncio.sleep(0.05)


async def _append_anywhere(
    nodes: list[tuple[ServerProcess, Client]], ledger: Ledger, make: Workload, rng: random.Random, done: asyncio.Event
) -> None:
    """Append at any node, and while the outcome is unknown the same again at any node."""
    while not done.is_set():
        request = make()
        while True:
            answer = await rng.choice(nodes)[1].append(request, timeout_seconds=3.0)
            if not isinstance(answer, Refusal) or answer.code not in UNKNOWN_OUTCOMES:
                break
            await asyncio.sleep(0.02)
        ledger.note(request, answer)


async def test_a_paused_server_delays_others_by_no_more_than_the_lease(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with two_servers(tmp_path, environment) as (one, two), connect(one.address) as a, connect(two.address) as b:
        for client in (a, b):
            await client.record(event("Before", "t:1"))
        os.kill(one.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                await b.record(event("Meanwhile", "t:1"))
                frames, _ = await b.read()
                assert len(frames) == 3
        finally:
            os.kill(one.pid, signal.SIGCONT)
        answer = await a.append(append_request([event("After", "t:1")]))
        assert isinstance(answer, pb.AppendResponse)
        assert answer.last_position == 4


async def test_a_large_payload_comes_back_through_every_read(tmp_path: Path, environment: dict[str, str]) -> None:
    data = random.Random(3).randbytes(1 << 20)
    async with two_servers(tmp_path, environment) as (one, two), connect(one.address) as a, connect(two.address) as b:
        recorded = await a.record(event("Large", "t:1", data=data))
        request = pb.ReadRequest(at_least=recorded.sortable_unique_ids[0])
        frames, _ = await b.read(request)
        assert parsed(frames)[0].event.data == data
    async with run_server(tmp_path / "one", env=environment) as again, connect(again.address) as client:
        found = await client.stub.GetEvent(pb.GetEventRequest(event_id=recorded.event_ids[0]))
        assert found.event.event.data == data


def test_missing_tables_and_buckets_are_named_and_the_server_does_not_start(environment: dict[str, str]) -> None:
    listen = ("--listen", "127.0.0.1:0")
    verify_only = {**environment, "KUDURRU_DYNAMODB_CREATE_TABLES": "false"}
    ended = run_to_end("serve", *listen, env=verify_only)
    assert ended.code == 1
    assert f"table {environment['KUDURRU_DYNAMODB_TABLE_PREFIX']}log is missing" in ended.stderr
    ended = run_to_end("serve", *listen, env={**environment, "KUDURRU_S3_BUCKET": "no-such-bucket"})
    assert ended.code == 1
    assert "the bucket no-such-bucket does not exist" in ended.stderr


async def test_without_a_bucket_a_large_payload_is_refused_with_the_limit(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    without = {name: value for name, value in environment.items() if name != "KUDURRU_S3_BUCKET"}
    async with run_server(tmp_path, env=without) as server, connect(server.address) as client:
        answer = await client.append(append_request([event("Large", data=bytes(20_001))]))
        assert isinstance(answer, Refusal)
        assert answer.reason == "DATA_TOO_LARGE"
        assert isinstance(await client.append(append_request([event("Fits", data=bytes(20_000))])), pb.AppendResponse)
