"""A disk without space: appends are refused and say so, reads go on, and space makes everything work again."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import pytest
from kudurru._proto import event_store_service_pb2 as pb
from kudurru_server.engine.tail import GENERATION_EVENTS

from tests.e2e.client import CALL_SECONDS, Client, Refusal, connect, event, parsed, query
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import Follower, Make, Workload, until
from tests.e2e.small_disk import SmallDisk, small_disk
from tests.server_process import ServerNotServingError, ServerProcess, run_server, run_to_end

_DISK_BYTES = 64 << 20
_LARGER_DISK_BYTES = 192 << 20
"""Room for a WAL with as many frames as its index begins with, and for the same once more in the log."""
_REFUSALS = 40
_MANY = 1500
_TAGGED = 50
_PAYLOAD = b"secret"
_SMALL_EVENT_BYTES = 200
"""More than one takes in the log, and less than half of what its rows take in a run."""
_WAL_FRAME_BYTES = 24 + 16 * 1024
_WAL_INDEX_FRAMES = 4062
"""SQLite's: as many frames have room in the first 32 KiB of a WAL's index; the next one makes it grow."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", _DISK_BYTES) as mounted:
        yield mounted


@pytest.fixture
def larger_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", _LARGER_DISK_BYTES) as mounted:
        yield mounted


def _serve(tmp_path: Path, disk: SmallDisk) -> AbstractAsyncContextManager[ServerProcess]:
    flags = ("--tail-bytes", str(1 << 20), "--metrics-listen", "127.0.0.1:0")
    return run_server(tmp_path, *flags, data_dir=disk.folder / "data", within=disk.within)


async def test_appends_to_a_full_disk_are_refused_reads_work_and_space_heals(
    tmp_path: Path, disk: SmallDisk, rng: random.Random
) -> None:
    ledger = Ledger()
    make = Workload(rng, ledger)
    async with _serve(tmp_path, disk) as server, connect(server.address) as client:
        for _ in range(3):
            await _append(client, ledger, make, 100)
            disk.fill(leave_bytes=rng.randrange(1 << 20))
            await _append_until_refused(client, ledger, make)
            disk.fill()
            await _append(client, ledger, make, _REFUSALS)
            assert not ledger.unanswered, "the outcome of an append to a full disk is said to be unknown"
            await ledger.check(client)
            await _check_reads(client, ledger, rng)
            disk.free()
            await until(lambda: _is_recorded(client, ledger), "append after space was freed", 10)
        await ledger.settle(client)
        assert server.exit_code is None
        assert await server.stop() == 0
        assert not server.stderr()


async def test_a_kill_on_a_full_disk_loses_nothing(tmp_path: Path, disk: SmallDisk, rng: random.Random) -> None:
    ledger = Ledger()
    make = Workload(rng, ledger)
    follower = Follower()
    for _ in range(3):
        async with _serve(tmp_path, disk) as server, connect(server.address) as client:
            await ledger.settle(client)
            disk.fill(leave_bytes=rng.randrange(1 << 20))
            await _append_until_refused(client, ledger, make)
            appending = asyncio.ensure_future(_append(client, ledger, make, _REFUSALS))
            await follower.catch_up(client)
            await server.kill()
            await appending
        disk.free()
    async with _serve(tmp_path, disk) as server, connect(server.address) as client:
        await ledger.settle(client)
        await follower.catch_up(client)
        assert follower.frames == ledger.frames


async def test_an_index_that_cannot_be_written_leaks_no_files_and_catches_up(
    tmp_path: Path, disk: SmallDisk, rng: random.Random
) -> None:
    ledger = Ledger()
    async with _serve(tmp_path, disk) as server, connect(server.address) as client:
        await _fill_before_second_run(client, ledger, disk)
        tried = _attempts(server)
        before = server.open_files()
        await until(lambda: _attempts(server) >= tried + 3, "attempt to write the run")
        grown = server.open_files() - before
        disk.free()
        await until(lambda: len(_runs(disk)) > 1, "second run")
        await ledger.check(client)
        await _check_reads(client, ledger, rng)
        assert grown < 3, f"{grown} descriptors were left open by 3 attempts"


async def test_an_index_that_stays_behind_ends_in_overload_before_memory_grows_and_heals(tmp_path: Path) -> None:
    """The index alone is on a full disk, so the log goes on."""
    ledger = Ledger()
    limit_bytes = 64 << 20
    data_dir = tmp_path / "server" / "data"

    def make() -> pb.AppendRequest:
        return append_request([event("Large", "tag:1", data=bytes(100_000)) for _ in range(20)])

    with small_disk(data_dir / "index", 4 << 20) as disk:
        flags = ("--max-unapplied-bytes", str(limit_bytes), "--tail-bytes", str(1 << 20))
        async with (
            run_server(tmp_path / "server", *flags, within=disk.within) as server,
            connect(server.address) as client,
        ):
            before = server.memory_bytes()
            disk.fill()
            while not ledger.refused:
                await _append(client, ledger, make, 1)
                assert len(ledger.acknowledged) < 100, "it never refused"
            assert (ledger.refused[0][1].code, ledger.refused[0][1].reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
            )
            assert server.memory_bytes() - before < 3 * limit_bytes
            await ledger.check(client)
            disk.free()
            await until(lambda: _is_recorded(client, ledger), "append after the index caught up")
            await ledger.check(client)


@pytest.mark.parametrize("runs", ["all written", "one to write"])
async def test_a_start_on_a_full_disk_serves_reads_or_says_why_not(tmp_path: Path, disk: SmallDisk, runs: str) -> None:
    ledger = Ledger()
    async with _serve(tmp_path, disk) as server, connect(server.address) as client:
        if runs == "one to write":
            await _fill_before_second_run(client, ledger, disk)
        else:
            await _append(client, ledger, _many, 5)
            disk.fill()
        await server.kill()
    try:
        async with _serve(tmp_path, disk) as server, connect(server.address) as client:
            await ledger.check(client)
            assert isinstance(await client.append(_many()), Refusal)
    except ServerNotServingError:
        flags = ("--data-dir", str(disk.folder / "data"), "--listen", "127.0.0.1:0")
        ended = run_to_end("serve", *flags, within=disk.within)
        assert ended.stderr.startswith("kudurru-server: "), ended.stderr
        assert str(disk.folder) in ended.stderr
        assert ended.code == 1
    disk.free()
    async with _serve(tmp_path, disk) as server, connect(server.address) as client:
        await ledger.check(client)


async def test_a_disk_that_fills_where_the_index_of_the_wal_would_grow_is_called_full(
    tmp_path: Path, larger_disk: SmallDisk
) -> None:
    ledger = Ledger()
    async with _serve(tmp_path, larger_disk) as server, connect(server.address) as client:
        await _fill_at_wal_index(client, ledger, larger_disk)
        await _append(client, ledger, _one, _REFUSALS)
        refusals = [answer for answer in ledger.answers[-_REFUSALS // 2 :] if isinstance(answer, Refusal)]
        assert refusals
        unclear = [answer for answer in refusals if "full" not in answer.message]
        assert len(unclear) == 0, f"the disk is full, but appends end with {unclear[0]}"


async def test_a_kill_on_a_disk_that_filled_where_the_index_of_the_wal_would_grow_keeps_every_promise(
    tmp_path: Path, larger_disk: SmallDisk
) -> None:
    ledger = Ledger()
    async with _serve(tmp_path, larger_disk) as server, connect(server.address) as client:
        await _fill_at_wal_index(client, ledger, larger_disk)
        await _append(client, ledger, _one, _REFUSALS)
        await ledger.check(client)
        await server.kill()
    larger_disk.free()
    async with _serve(tmp_path, larger_disk) as server, connect(server.address) as client:
        await ledger.settle(client)


def _one() -> pb.AppendRequest:
    return append_request([event("Small", data=bytes(10))])


async def _fill_at_wal_index(client: Client, ledger: Ledger, disk: SmallDisk) -> None:
    """Leave space for frames of the WAL up to the one whose place in the WAL's index has no room."""
    wal = disk.outside / "data" / "log.sqlite3-wal"

    def frames() -> int:
        return wal.stat().st_size // _WAL_FRAME_BYTES

    while frames() < _WAL_INDEX_FRAMES - 100:
        await _append(client, ledger, lambda: append_request([event(data=bytes(100_000))]), 1)
    while frames() < _WAL_INDEX_FRAMES - 12:
        await _append(client, ledger, _one, 1)
    assert frames() < _WAL_INDEX_FRAMES, "the WAL has grown past its index already"
    disk.fill(leave_bytes=(_WAL_INDEX_FRAMES + 2 - frames()) * _WAL_FRAME_BYTES + 3 * 4096)


async def test_a_start_that_fails_writes_no_payload_to_its_log(tmp_path: Path, disk: SmallDisk) -> None:
    async with _serve(tmp_path, disk) as server, connect(server.address) as client:
        await _fill_before_second_run(client, Ledger(), disk)
        await server.kill()
    try:
        async with _serve(tmp_path, disk) as server:
            await server.kill()
    except ServerNotServingError:
        flags = ("--data-dir", str(disk.folder / "data"), "--listen", "127.0.0.1:0", "--log-format", "json")
        ended = run_to_end("serve", *flags, within=disk.within)
        assert "frames=" not in ended.stdout + ended.stderr, "recorded events are in the log"
        assert _PAYLOAD.decode() not in ended.stdout + ended.stderr


def _many() -> pb.AppendRequest:
    # Few have a tag: more would fill a generation by its bytes, and then at a number of events that varies.
    tags: list[list[str]] = [[f"tag:{number}"] if number < _TAGGED else [] for number in range(_MANY)]
    return append_request([event("Small", *one, data=_PAYLOAD) for one in tags])


async def _fill_before_second_run(client: Client, ledger: Ledger, disk: SmallDisk) -> None:
    """Record two generations on a disk that has room for the run of one."""
    await _append(client, ledger, _many, 2 * GENERATION_EVENTS // _MANY)
    await until(lambda: len(_runs(disk)) == 1, "run")
    disk.fill(leave_bytes=2 * _MANY * _SMALL_EVENT_BYTES)
    await _append(client, ledger, _many, 1)
    assert not ledger.refused
    disk.fill()


def _runs(disk: SmallDisk) -> list[Path]:
    return list((disk.outside / "data" / "index").glob("*.run"))


def _attempts(server: ServerProcess) -> float:
    return server.metrics()["kudurru_apply_seconds_count"]


async def _append(client: Client, ledger: Ledger, make: Make, count: int) -> None:
    for _ in range(count):
        request = make()
        ledger.note(request, await client.append(request))


async def _append_until_refused(client: Client, ledger: Ledger, make: Make) -> None:
    refused = _full(ledger)
    async with asyncio.timeout(CALL_SECONDS):
        while _full(ledger) == refused:
            await _append(client, ledger, make, 1)


def _full(ledger: Ledger) -> int:
    return sum(answer.reason == "STORAGE_FULL" for _, answer in ledger.refused)


async def _is_recorded(client: Client, ledger: Ledger) -> bool:
    request = append_request([event("Again")])
    answer = await client.append(request)
    ledger.note(request, answer)
    return isinstance(answer, pb.AppendResponse)


async def _check_reads(client: Client, ledger: Ledger, rng: random.Random) -> None:
    events = ledger.history.events
    asked = query(((), ["tag:1"]))
    frames, _ = await client.read(pb.ReadRequest(query=asked))
    assert [found.position for found in parsed(frames)] == list(ledger.history.matching(asked, 0, len(events)))
    one = rng.choice(events)
    got = await client.stub.GetEvent(pb.GetEventRequest(event_id=one.event.event_id), timeout=CALL_SECONDS)
    assert got.event == one
