"""A real server in a process of its own: started on a folder, stopped by its pid, reaped whatever happens to the test.

Its output goes to files beside the data dir, so it never waits for a reader and is there to look at after a kill.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 20.0
"""Far more than a start takes: it only bounds a test whose server never serves."""
EXIT_SECONDS = 20.0
_END_SECONDS = 20.0
_POLL_SECONDS = 0.005


class ServerNotServingError(AssertionError):
    """The server ended, or took too long, before it served."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a process that has ended."""

    code: int
    stdout: str
    stderr: str


class ServerProcess:
    """A running server. Use `run_server`."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path, started: float) -> None:
        self._process = process
        self._stdout = stdout
        self._stderr = stderr
        self._started = started
        self.address = ""
        """Where it listens, in the form a gRPC client takes."""
        self.start_seconds = 0.0
        """From the start of the process to its first line."""

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        return self._process.poll()

    async def serving(self) -> None:
        """Wait for the line that says it serves.

        Raises:
            ServerNotServingError: it ended before, or did not serve in time.
        """
        deadline = self._started + START_SECONDS
        while not (serving := [line for line in self._complete_log() if line["event"] == "serving"]):
            if self.exit_code is not None or time.monotonic() > deadline:
                raise ServerNotServingError(f"exit code {self.exit_code}: {self.stderr() or self._stdout.read_text()}")
            await asyncio.sleep(_POLL_SECONDS)
        self.start_seconds = time.monotonic() - self._started
        self.address = serving[-1]["listen"]

    def _complete_log(self) -> list[dict[str, Any]]:
        lines, _, _ = self._stdout.read_text().rpartition("\n")
        return [json.loads(line) for line in lines.splitlines()]

    async def stop(self, number: int = signal.SIGTERM, timeout_seconds: float = EXIT_SECONDS) -> int:
        """Send a signal, wait for the end, and return the exit code.

        Raises:
            TimeoutExpired: it runs on.
        """
        self.signal(number)
        return await self.ended(timeout_seconds)

    async def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does."""
        await self.stop(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal and do not wait."""
        self._process.send_signal(number)

    async def ended(self, timeout_seconds: float = EXIT_SECONDS) -> int:
        """Wait for the end and return the exit code.

        Raises:
            TimeoutExpired: it runs on.
        """
        return await asyncio.to_thread(self._process.wait, timeout_seconds)

    def reap(self) -> None:
        """Kill it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(EXIT_SECONDS)

    def log(self) -> list[dict[str, Any]]:
        """Return its log so far; a line cut short by a kill is left out."""
        lines = self._stdout.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def metrics(self) -> dict[str, float]:
        """Return the samples by name and labels, as Prometheus gets them; it must run with `--metrics-listen`."""
        (serving,) = (line for line in self.log() if line["event"] == "serving")
        with urllib.request.urlopen(f"http://{serving['metrics']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def stderr(self) -> str:
        """Return what it wrote to standard error so far."""
        return self._stderr.read_text()

    def memory_bytes(self) -> int:
        """Return its resident memory without mapped files, whose pages belong to the page cache."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    def open_files(self) -> int:
        """Return how many descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def command_line(*arguments: str) -> list[str]:
    """Return the command that runs the server's command line."""
    return [sys.executable, "-m", "kudurru_server", *arguments]


def environment(overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without the server's variables, and with `overrides`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KUDURRU_")}
    return inherited | {"COLUMNS": "200", "NO_COLOR": "1"} | dict(overrides or {})


@asynccontextmanager
async def run_server(
    folder: Path,
    *flags: str,
    listen: str | None = "127.0.0.1:0",
    data_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> AsyncIterator[ServerProcess]:
    """Run a server until the end of the block, killed if it has not ended by then.

    Args:
        folder: where its output goes, and its data dir `data` unless given.
        flags: more flags of `serve`.
        listen: the address; None leaves it to `flags` and `env`.
        data_dir: where it stores, if not in `folder`.
        env: more environment variables.
        within: a command that runs the rest of its arguments in its own process, such as `nsenter`.

    Raises:
        ServerNotServingError: it did not come to serve.
    """
    where = () if listen is None else ("--listen", listen)
    arguments = ("serve", *where, "--data-dir", str(data_dir or folder / "data"), "--log-format", "json", *flags)
    server = _start(folder, [*within, *command_line(*arguments)], environment(env))
    try:
        await server.serving()
        yield server
    finally:
        server.reap()


def _start(folder: Path, command: Sequence[str], variables: Mapping[str, str]) -> ServerProcess:
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.stdout")))
    stdout, stderr = folder / f"{number}.stdout", folder / f"{number}.stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, env=dict(variables)
        )
    return ServerProcess(process, stdout, stderr, started)


def run_to_end(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    within: Sequence[str] = (),
    seconds: float = _END_SECONDS,
) -> Ended:
    """Run the server's command line with arguments that make it end by itself.

    Raises:
        AssertionError: it did not end; it is killed.
    """
    try:
        done = subprocess.run(
            [*within, *command_line(*arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=cwd,
            env=environment(env),
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"it runs instead of ending: {error.stdout!r}") from None
    return Ended(done.returncode, done.stdout, done.stderr)
