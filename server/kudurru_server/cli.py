"""The command line of the server: `kudurru-server serve`, with a flag for every setting."""

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer
from pydantic import ValidationError
from rich.console import Console

from kudurru_server.app import ListenError, serve
from kudurru_server.errors import DataDirectoryError, KudurruError
from kudurru_server.logs import configure_logs
from kudurru_server.settings import Settings
from kudurru_server.stores import (
    Plan,
    RestoreError,
    create_tables,
    describe_tables,
    policy,
    restore_tables,
    verify_tables,
)

_T = TypeVar("_T")

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


def _with_settings(
    command: Callable[..., None], families: tuple[str, ...] = ("",), **switches: str
) -> Callable[..., None]:
    """Give a command a flag for every field of `Settings`, or those whose names begin with one of `families`.

    What is not given comes from the environment. `switches` are the command's own, each with its description.
    """

    def run(**flags: Any) -> None:  # noqa: ANN401 - the flags are as various as the settings
        own = {name: flags.pop(name) for name in switches}
        try:
            settings = Settings(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            for problem in error.errors():
                name = str(problem["loc"][0]) if problem["loc"] else "settings"
                _fail(f"KUDURRU_{name.upper()} (--{name.replace('_', '-')}): {problem['msg']}", code=2)
        command(settings, **own)

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
        if name.startswith(families)
    ]
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{name}", help=text)],
        )
        for name, text in switches.items()
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

    kudurru-server serve --storage dynamodb --dynamodb-create-tables true --s3-bucket my-payloads

    KUDURRU_LISTEN=unix:/run/kudurru.sock kudurru-server serve
    """
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(serve(settings))
    except (DataDirectoryError, ListenError) as error:
        _fail(str(error), code=1)
    except KudurruError as error:
        where = settings.data_dir if settings.storage == "sqlite" else settings.storage
        _fail(f"cannot start on {where}: {error.message}", code=1)
    except Exception as error:  # noqa: BLE001 - the last border: a broken promise ends the process, and the log says why
        structlog.get_logger().critical("crashed", exc_info=error)
        _fail("a fault of the server; the log says more", code=1)


app.command("serve")(_with_settings(_serve))

tables = typer.Typer(help="The tables of the store on DynamoDB.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(tables, name="tables")
_FAMILIES = ("dynamodb_table_prefix", "dynamodb_endpoint_url", "s3_bucket", "s3_key_prefix", "dynamodb_create_tables")


def _create(settings: Settings) -> None:
    """Create the tables that are missing, and wait until all can be used."""
    _run(create_tables(settings))
    Console().print(f"the tables {settings.dynamodb_table_prefix}* are ready", highlight=False)


def _verify(settings: Settings) -> None:
    """Check that the tables are there and are as they must be; say what is missing or differs."""
    _run(verify_tables(settings))
    Console().print(f"the tables {settings.dynamodb_table_prefix}* are as they must be", highlight=False)


def _describe(settings: Settings) -> None:
    """Say what the service knows of the tables, as JSON lines."""
    for one in _run(describe_tables(settings)):
        sys.stdout.write(f"{json.dumps(asdict(one))}\n")


def _restore(settings: Settings, *, yes: bool) -> None:
    """Make tables that were restored to different points in time one store again: the log decides.

    Stop every server first. It says what it will do and asks; it may be cut off and run again. See docs/dynamodb.md.
    """
    out = Console(highlight=False, soft_wrap=True)

    def agree(plan: Plan) -> bool:
        tables = f"{settings.dynamodb_table_prefix}*"
        out.print(f"the log of {tables} ends with entry {plan.number}, position {plan.head.position}")
        out.print(f"rows above position {plan.head.position} will be deleted")
        out.print(f"rows of {plan.number - plan.floor} entries above {plan.floor}, the floor, will be written again")
        if plan.behind:
            out.print(f"log entries behind a gap will be deleted: {', '.join(map(str, sorted(plan.behind)))}")
        return yes or typer.confirm("restore?")

    done = _run(restore_tables(settings, agree))
    if done is None:
        _fail("nothing was changed", code=1)
    out.print(
        f"restored: rows of {done.entries} entries were written again,"
        f" {done.event_rows_deleted} rows of events and {done.tag_rows_deleted} of tags were deleted"
    )


def _iam_policy(settings: Settings) -> None:
    """Print what a server must be allowed to do, as an IAM policy with the least privileges."""
    found = policy(
        settings.dynamodb_table_prefix,
        bucket=settings.s3_bucket,
        bucket_prefix=settings.s3_key_prefix,
        with_create=settings.dynamodb_create_tables,
    )
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n")


for _name, _command in (("create", _create), ("verify", _verify), ("describe", _describe)):
    tables.command(_name)(_with_settings(_command, _FAMILIES[:2]))
tables.command("restore")(_with_settings(_restore, ("dynamodb_", "s3_"), yes="Do not ask."))
app.command("iam-policy")(_with_settings(_iam_policy, _FAMILIES))


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(work)
    except KudurruError as error:
        _fail(error.message, code=1)
    except (DataDirectoryError, RestoreError) as error:
        _fail(str(error), code=1)


def _fail(message: str, *, code: int) -> NoReturn:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"kudurru-server: {message}")
    raise typer.Exit(code)
