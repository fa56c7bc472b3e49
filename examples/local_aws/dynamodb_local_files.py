"""Amazon DynamoDB Local, fetched once into the git-ignored `.cache/`.

Its licence forbids redistribution, so it is never committed and never in an image. npm is the registry that serves it
without an account, as a part of another package.
"""

import errno
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

_PACKAGE = "amplify-dynamodb-simulator@2.9.30"
_SHA256 = "3503ffac19f183407909fecdacf4db51ab1fdad1da7b2f177016670b2d80e4b9"
_FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "dynamodb-local"
_VERSION = "1.25.1"
_INSIDE = "package/emulator"
_FETCH_SECONDS = 300


class ComponentError(Exception):
    """A component is missing, or did not start; the message says what to do."""


def program(name: str, debian_package: str) -> str:
    """Return the path of a program.

    Raises:
        ComponentError: it is not installed.
    """
    if (path := shutil.which(name)) is None:
        raise ComponentError(f"`{name}` is missing: apt-get install {debian_package}")
    return path


def dynamodb_local_files() -> Path:
    """Return the folder with `DynamoDBLocal.jar`, fetching it the first time; several processes may at once.

    Raises:
        ComponentError: it cannot be fetched, or is not what it was.
    """
    files = _FOLDER / _VERSION
    if files.exists():
        return files
    npm = program("npm", "npm")
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_FOLDER) as name:
        folder = Path(name)
        _unpack(_fetched(npm, folder), folder)
        try:
            (folder / _INSIDE).rename(files)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:  # else another process was quicker
                raise
    return files


def _fetched(npm: str, folder: Path) -> Path:
    command = [npm, "pack", _PACKAGE, "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(  # noqa: S603 - npm, which was looked up
        command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False
    )
    if done.returncode != 0:
        raise ComponentError(f"npm pack {_PACKAGE} failed: {done.stderr or done.stdout}")
    archive = folder / done.stdout.strip()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise ComponentError(f"{_PACKAGE} has sha256 {digest} instead of {_SHA256}")
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.name.startswith(f"{_INSIDE}/")]
        tar.extractall(folder, members, filter="data")
