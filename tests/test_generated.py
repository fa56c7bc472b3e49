"""The committed stubs are what the protos say, and the same in both distributions."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (ROOT / "server/kudurru_server/_proto", ROOT / "sdk_python/kudurru/_proto")


def test_the_committed_stubs_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "protos/generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_both_copies_of_the_stubs_are_identical() -> None:
    server, sdk = ({path.name: path.read_bytes() for path in target.glob("*.py*")} for target in TARGETS)
    assert server == sdk
    assert "event_store_service_pb2.py" in server
