"""The server's command line: flags, variables, sockets, help, and what it says about a wrong one."""

from pathlib import Path

import pytest

from tests.e2e.client import connect, event
from tests.server_process import ServerProcess, run_server, run_to_end

_VARIABLES = (
    "LISTEN",
    "STORAGE",
    "DATA_DIR",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "SHUTDOWN_GRACE_SECONDS",
    "TAIL_BYTES",
    "MAX_PENDING_BYTES",
    "MAX_UNAPPLIED_BYTES",
    "MAX_EVENTS_PER_APPEND",
    "MAX_APPEND_BYTES",
)


def test_help_names_the_command_and_every_setting() -> None:
    ended = run_to_end("--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert "serve" in ended.stdout
    ended = run_to_end("serve", "--help")
    assert (ended.code, ended.stderr) == (0, "")
    for name in _VARIABLES:
        assert f"KUDURRU_{name}" in ended.stdout
        assert f"--{name.lower().replace('_', '-')}" in ended.stdout


async def test_a_server_without_settings_stores_in_the_folder_it_is_started_in(tmp_path: Path) -> None:
    async with run_server(tmp_path, env={}, data_dir=Path("kudurru-data")) as server:
        assert (tmp_path / "kudurru-data" / "log.sqlite3").exists()
        assert server.log()[0]["data_dir"] == "kudurru-data"


async def test_a_unix_socket_is_served_and_free_again_after_a_kill(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'k.sock'}"
    for position in (1, 2):
        async with run_server(tmp_path, listen=address) as server, connect(server.address) as client:
            assert server.address == address
            assert (await client.record(event())).last_position == position
            await server.kill()


async def test_variables_are_read_and_flags_win(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'variable.sock'}"
    async with run_server(tmp_path, listen=None, env={"KUDURRU_LISTEN": address}) as server:
        assert server.address == address
        await _check_answers(server)
    async with run_server(tmp_path, env={"KUDURRU_LISTEN": address, "KUDURRU_MAX_EVENTS_PER_APPEND": "1"}) as server:
        assert server.address.startswith("127.0.0.1:")
        await _check_answers(server)
        async with connect(server.address) as client:
            with pytest.raises(Exception, match="limit is 1"):
                await client.record(event(), event())


async def _check_answers(server: ServerProcess) -> None:
    async with connect(server.address) as client:
        assert (await client.record(event())).last_position > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAIL_BYTES", "much"),
        ("TAIL_BYTES", "1"),
        ("STORAGE", "paper"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("SHUTDOWN_GRACE_SECONDS", "-1"),
        ("SHUTDOWN_GRACE_SECONDS", "nan"),
        ("MAX_DATA_BYTES", "1e12"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_variable(tmp_path: Path, name: str, value: str) -> None:
    flag = f"--{name.lower().replace('_', '-')}"
    by_variable = run_to_end("serve", env={f"KUDURRU_{name}": value}, cwd=tmp_path)
    by_flag = run_to_end("serve", f"{flag}={value}", cwd=tmp_path)
    for ended in (by_variable, by_flag):
        assert ended.code == 2, ended
        assert f"KUDURRU_{name}" in ended.stderr
        assert flag in ended.stderr
        assert not list(tmp_path.iterdir()), "it began before it had looked at its settings"


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    ended = run_to_end("serve", "--no-such-flag", "1", cwd=tmp_path)
    assert ended.code == 2
    assert "--no-such-flag" in ended.stderr
