"""The command line of the server: `kudurru-server serve`, with a flag for every setting."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import structlog
import typer
from pydantic import ValidationError
from rich.console import Console

from kudurru_server.app import ListenError, serve
from kudurru_server.errors import DataDirectoryError, KudurruError
from kudurru_server.logs import configure_logs
from kudurru_server.settings import Settings

app = typer.Typer(
    name="kudurru-server",
    help="The Kudurru event store: events with tags, conditional appends, subscriptions without a gap.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def _main() -> None:
    """Keep `serve` a command of its own."""


def _with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Give a command a flag for every field of `Settings`; what is not given comes from the environment."""

    def run(**flags: Any) -> None:  # noqa: ANN401 - the flags are as various as the settings
        try:
            settings = Settings(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            for problem in error.errors():
                name = str(problem["loc"][0]) if problem["loc"] else "settings"
                _fail(f"KUDURRU_{name.upper()} (--{name.replace('_', '-')}): {problem['msg']}", code=2)
        command(settings)

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    help=f"{field.description} [dim](KUDURRU_{name.upper()}, default {field.default})[/dim]",
                    show_default=False,
                ),
            ],
        )
        for name, field in Settings.model_fields.items()
    ]
    vars(run)["__signature__"] = inspect.Signature(parameters)  # typer reads the flags from it
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def _serve(settings: Settings) -> None:
    """Serve the event store until SIGTERM or Ctrl-C.

    Without a flag it listens on 127.0.0.1:50051 and stores in ./kudurru-data. Every flag is also an environment
    variable; flags win.

    [bold]Examples[/bold]

    kudurru-server serve

    kudurru-server serve --listen 0.0.0.0:50051 --data-dir /var/lib/kudurru

    KUDURRU_LISTEN=unix:/run/kudurru.sock kudurru-server serve
    """
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(serve(settings))
    except (DataDirectoryError, ListenError) as error:
        _fail(str(error), code=1)
    except KudurruError as error:
        _fail(f"cannot start on {settings.data_dir}: {error.message}", code=1)
    except Exception as error:  # noqa: BLE001 - the last border: a broken promise ends the process, and the log says why
        structlog.get_logger().critical("crashed", exc_info=error)
        _fail("a fault of the server; the log says more", code=1)


app.command("serve")(_with_settings(_serve))


def _fail(message: str, *, code: int) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"kudurru-server: {message}")
    raise typer.Exit(code)
