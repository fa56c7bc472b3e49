"""Starts that cannot work say why, in one line; and a start after a kill is quick."""

import os
import re
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import connect, event, query
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import until
from tests.e2e.small_disk import small_disk
from tests.server_process import ServerNotServingError, run_server, run_to_end

_EVENTS = 300_000
_EVENTS_PER_APPEND = 4000
_RESTART_SECONDS = 2.0
"""Several times what it takes."""

GRPC_LINE = re.compile(r"[EWI]\d{4} ")
"""What gRPC itself writes to standard error."""


def _refused(data_dir: Path, listen: str = "127.0.0.1:0", within: tuple[str, ...] = ()) -> str:
    """Start a server that must not serve; return the line in which it says why."""
    ended = run_to_end("serve", "--data-dir", str(data_dir), "--listen", listen, within=within)
    assert ended.code == 1, ended
    *lines, why = ended.stderr.splitlines()
    assert all(GRPC_LINE.match(line) for line in lines), ended.stderr
    assert why.startswith("kudurru-server: ")
    assert not ended.stdout, ended.stdout
    return why


async def test_a_second_server_on_a_data_dir_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    ledger = Ledger()
    async with run_server(tmp_path) as server, connect(server.address) as client:
        for _ in range(3):
            request = append_request([event()])
            ledger.note(request, await client.append(request))
            assert f"{tmp_path / 'data'} is in use" in _refused(tmp_path / "data")
        await ledger.check(client)
        assert len(ledger.acknowledged) == 3


async def test_a_data_dir_is_free_again_after_a_kill(tmp_path: Path) -> None:
    for _ in range(3):
        async with run_server(tmp_path) as server:
            await server.kill()


async def test_a_port_in_use_is_refused_and_named(tmp_path: Path) -> None:
    async with run_server(tmp_path / "one") as server, connect(server.address) as client:
        assert server.address in _refused(tmp_path / "other", server.address)
        await client.record(event())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in _refused(tmp_path / "other", address)


async def test_a_unix_socket_in_use_is_refused_and_the_first_server_goes_on(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'k.sock'}"
    async with run_server(tmp_path / "one", listen=address) as server:
        assert address in _refused(tmp_path / "other", address)
        async with connect(server.address) as client:
            await client.record(event())


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "unix:/nowhere/kudurru.sock", "192.0.2.1:50051"])
def test_an_address_that_cannot_be_listened_on_is_refused_and_named(tmp_path: Path, listen: str) -> None:
    assert listen in _refused(tmp_path, listen)


def test_a_data_dir_that_is_a_file_is_refused_and_named(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("a file")
    assert str(file) in _refused(file)
    assert str(file / "below") in _refused(file / "below")
    assert file.read_text() == "a file"


def test_a_data_dir_that_cannot_be_written_is_refused_and_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        (disk.outside / "data").mkdir()
        disk.remount("ro")
        for folder in (disk.folder / "data", disk.folder / "new"):
            assert str(folder) in _refused(folder, within=tuple(disk.within))


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(100_000))


def _text(path: Path) -> None:
    path.write_text("not a database\n" * 1000)


def _folder(path: Path) -> None:
    path.mkdir()


def _newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE somebody_elses (number INTEGER)")
    connection.close()


@pytest.mark.parametrize("make", [_garbage, _text, _folder, _newer, _foreign])
def test_a_log_that_is_none_is_refused_named_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    log = tmp_path / "log.sqlite3"
    make(log)
    before = log.read_bytes() if log.is_file() else b""
    assert str(log) in _refused(tmp_path)
    assert (log.read_bytes() if log.is_file() else b"") == before


async def test_an_index_that_is_deleted_or_damaged_is_made_again(tmp_path: Path) -> None:
    ledger = Ledger()
    index = tmp_path / "data" / "index"
    async with run_server(tmp_path) as server, connect(server.address) as client:
        for _ in range(9):
            request = append_request([event("Small", "tag:1") for _ in range(_EVENTS_PER_APPEND)])
            ledger.note(request, await client.append(request))
        await until(lambda: any(index.glob("*.run")), "index")
    (first, *_) = sorted(index.glob("*.run"))
    damaged = bytearray(first.read_bytes())
    for damage in (damaged[: len(damaged) // 2], b"", os.urandom(len(damaged))):
        first.write_bytes(damage)
        await _check_tag(tmp_path, ledger)
    for path in index.iterdir():
        path.unlink()
    await _check_tag(tmp_path, ledger)


@pytest.mark.parametrize("name", ["tags.sqlite3", "notes-old.run", "00000000001-0000.run"])
async def test_what_does_not_belong_in_the_index_is_refused_and_named_or_does_no_harm(
    tmp_path: Path, name: str
) -> None:
    ledger = Ledger()
    async with run_server(tmp_path) as server, connect(server.address) as client:
        request = append_request([event("Small", "tag:1")])
        ledger.note(request, await client.append(request))
    _garbage(tmp_path / "data" / "index" / name)
    try:
        await _check_tag(tmp_path, ledger)
    except ServerNotServingError:
        assert str(tmp_path / "data" / "index") in _refused(tmp_path / "data")


async def _check_tag(tmp_path: Path, ledger: Ledger) -> None:
    async with run_server(tmp_path) as server, connect(server.address) as client:
        await ledger.check(client)
        asked = pb.ReadRequest(query=query(((), ["tag:1"])))
        assert (await client.read(asked))[0] == ledger.frames
        assert list((await client.stub.ListTags(pb.ListTagsRequest())).tags) == ["tag:1"]


async def test_a_start_after_a_kill_is_quick_however_large_the_store(tmp_path: Path) -> None:
    async with run_server(tmp_path) as server, connect(server.address) as client:
        for number in range(_EVENTS // _EVENTS_PER_APPEND):
            await client.record(*(event("Small", f"tag:{number}") for _ in range(_EVENTS_PER_APPEND)))
        await server.kill()
    async with run_server(tmp_path) as server, connect(server.address) as client:
        assert (await client.head()).position == _EVENTS
        print(f"restart after {_EVENTS} events: {server.start_seconds:.2f} s")  # noqa: T201 - pytest shows it
        assert server.start_seconds < _RESTART_SECONDS
