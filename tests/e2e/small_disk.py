"""A folder on a disk of a few megabytes: a tmpfs in a mount namespace of its own, which ends with the test.

A keeper process holds the namespace, so that servers in it can be killed and started again on the same disk. The test
looks at the folder through the keeper's root.
"""

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_WAIT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """The folder, and how to be where it is."""

    folder: Path
    """Its path inside the namespace; outside it is an empty folder."""
    within: Sequence[str]
    """Runs the command that follows inside the namespace, in the same process."""
    outside: Path
    """The same folder as seen from here."""

    def fill(self, leave_bytes: int = 0) -> int:
        """Take the free space with a file named `ballast`, but for `leave_bytes`; return how much that took."""
        with (self.outside / "ballast").open("ab", buffering=0) as file:
            while True:
                space = os.fstatvfs(file.fileno())
                size = max(0, space.f_bavail * space.f_frsize - leave_bytes)
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), size) if size else None
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                else:  # else the server was quicker: look again
                    return size

    def free(self) -> None:
        """Delete the ballast."""
        (self.outside / "ballast").unlink()

    def remount(self, options: str) -> None:
        """Mount it again with other options."""
        subprocess.run([*self.within, "mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount a small disk on `folder`; where that is not possible the test fails and says what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    script = 'mount -t tmpfs -o "size=$2" tmpfs "$1" && echo mounted && exec cat'
    keeper = subprocess.Popen(
        ["unshare", "--mount", *user, "sh", "-c", script, "sh", str(folder), str(size_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    try:
        if keeper.stdout.readline() != "mounted\n":
            keeper.stdin.close()
            pytest.fail(
                "this test needs a small disk: mount namespaces (as root, or user namespaces for others),"
                f" and unshare, nsenter and mount of util-linux; unshare said: {keeper.stderr.read().strip()}"
            )
        enter = ("--preserve-credentials", "--user") if user else ()
        within = ("nsenter", "--target", str(keeper.pid), *enter, "--mount")
        yield SmallDisk(folder, within, Path(f"/proc/{keeper.pid}/root{folder}"))
    finally:
        keeper.stdin.close()
        keeper.wait(_WAIT_SECONDS)
        keeper.stdout.close()
        keeper.stderr.close()
