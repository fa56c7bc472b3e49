"""SIGKILL in the middle of the load, again and again: the durable prefix is whole and nobody was told a lie."""

import asyncio
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from kudurru._proto import event_store_service_pb2 as pb
from kudurru_server.engine.tail import GENERATION_EVENTS

from tests.e2e.client import Client, Refusal, connect, event, parsed, query
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import Follower, append_one_by_one, load, until
from tests.server_process import ServerProcess, run_server

MINIMUMS = ("--tail-bytes", str(1 << 20), "--max-unapplied-bytes", str(64 << 20))
ROUNDS = 8
_WAL_BYTES = 256 << 20


async def test_kills_under_load_lose_tear_and_repeat_nothing(tmp_path: Path, rng: random.Random) -> None:
    ledger = Ledger()
    followers = [Follower(), Follower(query(((), ["tag:1"]), (["Type1"], ["tag:2"])))]
    unanswered = 0
    seconds = 0.0
    for _ in range(ROUNDS):
        async with run_server(tmp_path, *MINIMUMS) as server, connect(server.address) as client:
            await ledger.settle(client)
            answered = len(ledger.acknowledged) + rng.randint(1, 1200)
            started = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load(client, ledger, rng))
                for follower in followers:
                    tasks.create_task(follower.follow(client))
                await until(lambda: len(ledger.acknowledged) > answered, "answer to a number of appends")  # noqa: B023
                await server.kill()
        unanswered += len(ledger.unanswered)
        seconds += time.monotonic() - started
    print(f"{len(ledger.answers) / seconds:.0f} appends/s between kills")  # noqa: T201 - pytest shows it
    assert unanswered > ROUNDS, "the kills hit nothing"
    async with run_server(tmp_path, *MINIMUMS) as server, connect(server.address) as client:
        await ledger.settle(client)
        for follower in followers:
            await follower.catch_up(client)
            frames, _ = await client.read(pb.ReadRequest(query=follower.query))
            assert follower.frames == frames, "the subscriber saw another stream than a read does"
    assert followers[0].frames == ledger.frames


async def test_kills_while_the_log_is_written_back_lose_nothing(tmp_path: Path, rng: random.Random) -> None:
    ledger = Ledger()
    folder = tmp_path / "data"
    data = rng.randbytes(60_000)

    def make() -> pb.AppendRequest:
        return append_request([event("Large", data=data) for _ in range(rng.randint(1, 40))])

    for _ in range(3):
        async with run_server(tmp_path, *MINIMUMS) as server, connect(server.address) as client:
            await ledger.settle(client)
            written = _bytes_of(folder / "log.sqlite3")
            more = rng.randint(10 << 20, 60 << 20)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(6):
                    tasks.create_task(append_one_by_one(client, ledger, make))
                await asyncio.to_thread(_kill_when, server, lambda: _bytes_of(folder / "log.sqlite3") > written + more)  # noqa: B023
            assert _bytes_of(folder / "log.sqlite3-wal") < _WAL_BYTES, "the WAL grows without an end"
    async with run_server(tmp_path, *MINIMUMS) as server, connect(server.address) as client:
        await ledger.settle(client)


def _bytes_of(path: Path) -> int:
    return path.stat().st_size


async def test_a_server_that_is_paused_under_load_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, rng: random.Random
) -> None:
    ledger = Ledger()
    follower = Follower()
    async with (
        run_server(tmp_path, *MINIMUMS) as server,
        connect(server.address) as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(load(client, ledger, rng))
        tasks.create_task(follower.follow(client))
        for number in range(1, 6):
            await until(lambda: len(ledger.acknowledged) > number * 200, "answer to a number of appends")  # noqa: B023
            impatient = append_request([event("Impatient")])
            server.signal(signal.SIGSTOP)
            answer = await client.append(impatient, 0.3)
            assert isinstance(answer, Refusal)
            assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
            ledger.note(impatient, answer)
            server.signal(signal.SIGCONT)
        assert all(request.events[0].event_type == "Impatient" for request in ledger.unanswered)
        await server.kill()
    async with run_server(tmp_path, *MINIMUMS) as server, connect(server.address) as client:
        await ledger.settle(client)
        await follower.catch_up(client)
        assert follower.frames == ledger.frames


async def test_kills_while_runs_are_written_and_merged_leave_an_index_that_answers_for_everything(
    tmp_path: Path, rng: random.Random
) -> None:
    ledger = Ledger()
    index = tmp_path / "data" / "index"
    runs: set[str] = set()

    def writes_run() -> bool:
        return any(_events_in(path) < 2 * GENERATION_EVENTS for path in index.glob("*.unfinished"))

    def has_new_run() -> bool:
        return {path.name for path in index.glob("*.run")} != runs

    def merges() -> bool:
        return any(_events_in(path) > 4 * GENERATION_EVENTS for path in index.iterdir() if "-0" in path.name)

    for moment in (writes_run, has_new_run, writes_run, merges, has_new_run):
        async with run_server(tmp_path, *MINIMUMS) as server, connect(server.address) as client:
            await ledger.settle(client)
            runs = {path.name for path in index.glob("*.run")}
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(append_one_by_one(client, ledger, lambda: _batch(rng)))
                await asyncio.to_thread(_kill_when, server, moment)
    async with run_server(tmp_path, *MINIMUMS) as server, connect(server.address) as client:
        await ledger.settle(client)
        assert len(ledger.frames) > 8 * GENERATION_EVENTS
        await _check_index(client, ledger, rng)


def _events_in(run: Path) -> int:
    first, _, last = run.stem.partition("-")
    return int(last) - int(first) + 1


def _kill_when(server: ServerProcess, moment: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not _seen(moment):
        assert time.monotonic() < deadline, "the moment to kill did not come"
        assert server.exit_code is None, server.stderr()
        time.sleep(0.0005)
    server.signal(signal.SIGKILL)


def _seen(moment: Callable[[], bool]) -> bool:
    try:
        return moment()
    except FileNotFoundError:  # a name that was renamed between the listing and the look
        return False


def _batch(rng: random.Random) -> pb.AppendRequest:
    tags = [f"tag:{rng.randrange(5000)}", f"rare:{rng.randrange(10**6)}"]
    return append_request([event(f"Type{rng.randrange(9)}", *tags) for _ in range(rng.choice((1, 500, 1500)))])


async def _check_index(client: Client, ledger: Ledger, rng: random.Random) -> None:
    """Ask for tags, types and ids, which runs answer for, and compare with the scan of the log."""
    events = ledger.history.events
    for recorded in rng.sample(events, 30):
        tags, event_type = list(recorded.event.tags), recorded.event.event_type
        asked = rng.choice([query(((), tags[:1])), query(((), tags[1:]), ([event_type], tags[:1]))])
        expected = sorted(set(ledger.history.matching(asked, 0, len(events))))
        frames, _ = await client.read(pb.ReadRequest(query=asked))
        assert [found.position for found in parsed(frames)] == expected
        backwards, _ = await client.read(pb.ReadRequest(query=asked, backwards=True))
        assert backwards == frames[::-1]
        found = await client.stub.GetTag(pb.GetTagRequest(tag=tags[0], with_count=True))
        assert found.count == len(list(ledger.history.matching(query(((), tags[:1])), 0, len(events))))
        got = await client.stub.GetEvent(pb.GetEventRequest(event_id=recorded.event.event_id))
        assert got.event == recorded
    listed = {tag for recorded in events for tag in recorded.event.tags}
    assert await _all_tags(client) == sorted(listed, key=lambda tag: (tag.partition(":")[0], tag))
    for request, response in rng.sample(ledger.acknowledged, 30):
        again = await client.stub.Append(request)
        assert again.already_committed
        assert again.sortable_unique_ids == response.sortable_unique_ids


async def _all_tags(client: Client) -> list[str]:
    tags: list[str] = []
    token = ""
    while True:
        page = await client.stub.ListTags(pb.ListTagsRequest(page_size=10_000, page_token=token))
        tags += page.tags
        token = page.next_page_token
        if not token:
            return tags
