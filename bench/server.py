"""A server process to measure, and what it costs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Server:
    """A real server, unless its settings say otherwise on a fresh store on the disk this runs on."""

    def __init__(self, **settings: str) -> None:
        self._settings = {f"KUDURRU_{name.upper()}": value for name, value in settings.items()}
        self.data_dir = Path(tempfile.mkdtemp(prefix="bench-", dir=".cache"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start it, or start it again, and wait until it serves."""
        command = [sys.executable, "-m", "kudurru_server", "serve", "--listen", "127.0.0.1:0", "--log-format", "json"]
        command += ["--data-dir", str(self.data_dir), "--metrics-listen", "127.0.0.1:0"]
        self._process = subprocess.Popen(  # noqa: S603 - our own server
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, **self._settings}
        )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        serving = json.loads(self._process.stdout.readline())
        self.address: str = serving["listen"]
        self._metrics: str = serving["metrics"]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        shutil.rmtree(self.data_dir)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def metric(self, name: str) -> float:
        """Return a value of its metrics, by the name with its labels; 0 if it has not been counted."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    @property
    def resident_mib(self) -> float:
        """Memory that is its own: mapped files of the store do not count."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    @property
    def disk_bytes(self) -> int:
        """What the store takes on disk."""
        return sum(path.stat().st_size for path in self.data_dir.rglob("*") if path.is_file())
