"""`python -m examples.flights`: the command line of the demo."""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from kudurru import KudurruError
from rich.console import Console

from examples.flights import stores
from examples.flights.data import CACHE, DataError
from examples.flights.demo import DisagreementError, run
from examples.flights.processes import ProcessError
from examples.flights.stores import Store
from examples.local_aws.components import ComponentError

_COLUMNS = 100
_INTERRUPTED = 130  # as shells say it: 128 + SIGINT


def main(
    flights: Annotated[int | None, typer.Option(min=1, help="Import only so many flights.")] = None,
    dynamodb: Annotated[  # noqa: FBT002 - typer makes it a flag
        bool, typer.Option("--dynamodb", help="Run on DynamoDB Local and SeaweedFS, and import January.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep the store, in this new folder.")] = None,
) -> None:
    """Stream a year of flights through an event store: record, follow, read, decide."""
    console = Console(highlight=False)
    console.width = min(console.width, _COLUMNS) if console.is_terminal else _COLUMNS
    if keep is not None and keep.exists():
        raise typer.BadParameter(f"{keep} is there already; the demo makes a new folder")
    if keep is not None and dynamodb:
        raise typer.BadParameter("--keep is for the embedded store")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    exit_code, tag = 0, ""
    CACHE.mkdir(parents=True, exist_ok=True)  # on the disk of the checkout: a temporary folder may be in memory
    with tempfile.TemporaryDirectory(prefix="store-", dir=CACHE) as temporary:
        try:
            if dynamodb:
                with stores.dynamodb() as store:
                    asyncio.run(_run_until_signal(console, store, flights or stores.JANUARY_FLIGHTS))
            else:
                tag = asyncio.run(_run_until_signal(console, stores.embedded(keep or Path(temporary)), flights))
        except* (KeyboardInterrupt, asyncio.CancelledError):
            console.print("\nstopped")
            exit_code = _INTERRUPTED
        except* (ComponentError, DataError, DisagreementError, KudurruError, OSError, ProcessError) as errors:
            console.print(f"\n{_first(errors)}", style="red", markup=False)
            exit_code = 1
    if exit_code:
        raise typer.Exit(exit_code)
    if keep is not None:
        _tell_what_is_kept(console, keep, tag)


async def _run_until_signal(console: Console, store: Store, limit: int | None) -> str:
    """Run the demo; SIGTERM ends it as Ctrl-C does, with the server stopped and the store removed."""
    running = asyncio.ensure_future(run(console, store, limit))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await running


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _tell_what_is_kept(console: Console, folder: Path, tag: str) -> None:
    commands = Path(sys.executable).parent
    if commands.is_relative_to(Path.cwd()):
        commands = commands.relative_to(Path.cwd())
    console.print("\nThe store is kept. To serve it, and to ask it in another terminal:", soft_wrap=True)
    console.print(f"  {commands / 'kudurru-server'} serve --data-dir {folder}", markup=False, soft_wrap=True)
    console.print(f"  {commands / 'kudurru'} read --tag {tag}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
