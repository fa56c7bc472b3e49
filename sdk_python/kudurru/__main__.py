"""The command `kudurru`; what it needs comes with the extra `cli`."""

import os
import sys


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # a server that goes away is told by us, not by gRPC
    try:
        from kudurru._cli import app  # noqa: PLC0415 - the client works without these packages
    except ModuleNotFoundError as missing:
        if missing.name not in {"rich", "typer"}:
            raise
        sys.exit(f"kudurru: {missing.name} is not installed; the command line needs: pip install 'kudurru[cli]'")
    app(prog_name="kudurru")


if __name__ == "__main__":
    main()
