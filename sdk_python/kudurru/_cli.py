"""The commands of `kudurru`: append, read, subscribe, tags, head, get. JSON lines in and out."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated

import typer

from kudurru._cli_append import append_file, append_one, append_stdin
from kudurru._cli_options import begin_after, json_data, pair, query_item, query_of
from kudurru._client import DEFAULT_TARGET, EventStore, connect
from kudurru._errors import KudurruError
from kudurru._jsonl import InputError
from kudurru._model import JSON_CONTENT_TYPE, Event
from kudurru._query import Condition, Query
from kudurru._show import Output

_INTERRUPTED = 130  # 128 + SIGINT, as shells say it

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Target = Annotated[str, typer.Option(envvar="KUDURRU_TARGET", help="host:port, or unix:/path.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to go on trying while no server answers.")]
Types = Annotated[list[str] | None, typer.Option("--type", help="Events of this type; repeat for any of several.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Events with this tag; repeat for all of several.")]
After = Annotated[str, typer.Option(help="Begin after this cursor (a sortable_unique_id).")]
Since = Annotated[
    str, typer.Option(metavar="TIME", help="Begin at this time: 2026-01-31T12:00, or 15m, 2h, 7d for so long ago.")
]


@app.callback()
def kudurru() -> None:
    """Append to a Kudurru event store, read it, and follow it.

    On a terminal events are shown for people; into a pipe or a file they are written as JSON lines, which `append`
    takes. Every command tells more with `--help`.

        kudurru append --type CourseDefined --tag course:c1 --data '{"seats": 30}'
        kudurru read --tag course:c1
        kudurru subscribe --type CourseDefined | jq .data
        kudurru read > events.jsonl
        kudurru append --from events.jsonl --target other:50051
    """


@app.command()
def append(
    *,
    event_type: Annotated[str, typer.Option("--type", help="The event's type.")] = "",
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag of the event; repeat for several.")] = None,
    data: Annotated[str, typer.Option(help="The event's data, JSON.")] = "",
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A fact beside the data.")] = None,
    event_id: Annotated[str, typer.Option(help="A UUID, to record the event once however often this runs.")] = "",
    if_none: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE,…/TAG,…", help="Only if no event has one of the types and all the tags; repeatable."
        ),
    ] = None,
    after: Annotated[str, typer.Option(help="… recorded after this cursor.")] = "",
    source: Annotated[
        Path | None, typer.Option("--from", exists=True, dir_okay=False, help="Append the lines of this file.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
) -> None:
    """Append one event given by options, or events given as JSON lines.

    Without `--type`, lines come from standard input or from a file, and are recorded in their order. A line looks like
    `{"event_type": "CourseDefined", "tags": ["course:c1"], "data": {"seats": 30}}`; data that is not JSON goes into
    `data_base64`, and `content_type`, `metadata` and `event_id` may be given. Lines with an `event_id` are recorded
    once, so a file may be appended again after an interruption.

        kudurru append --type CourseDefined --tag course:c1 --if-none CourseDefined/course:c1
        kudurru append --from events.jsonl
        producer | kudurru append
    """
    if not event_type:
        if tags or data or metadata or event_id or if_none or after:
            raise typer.BadParameter("needed to describe an event; lines describe themselves", param_hint="--type")
        if source is None and sys.stdin.isatty():
            raise typer.BadParameter("say --type, or --from FILE, or pipe in JSON lines", param_hint="--type")
        if source is None:
            _run(target, timeout, append_stdin)
        else:
            path, size_bytes = source, source.stat().st_size
            _run(target, timeout, lambda store: append_file(store, path, size_bytes))
        return
    if source is not None:
        raise typer.BadParameter("describes one event, and --from many", param_hint="--type")
    event = Event(
        event_type,
        json_data(data),
        tags=tags or (),
        content_type=JSON_CONTENT_TYPE if data else "",
        metadata=dict(pair(text) for text in metadata or ()),
        event_id=event_id or None,
    )
    query = Query(tuple(query_item(text) for text in if_none or ()))
    condition = Condition(query, after) if if_none or after else None
    _run(target, timeout, lambda store: append_one(store, event, condition))


@app.command()
def read(
    *,
    types: Types = None,
    tags: Tags = None,
    after: After = "",
    since: Since = "",
    until: Annotated[str, typer.Option(help="End with this cursor.")] = "",
    backwards: Annotated[bool, typer.Option("--backwards", help="From the newest to the oldest.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="The most events; 0 means all.")] = 0,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 10.0,
) -> None:
    """Write the events that match, in the order in which they were recorded.

    kudurru read --tag course:c1 --tag student:s1
    kudurru read --type CourseDefined --since 2h
    kudurru read --backwards --limit 10
    """
    begin = begin_after(after, since)

    async def write(store: EventStore) -> None:
        output = Output()
        query = query_of(types, tags)
        async for event in store.read(query, after=begin, until=until, backwards=backwards, limit=limit):
            output.event(event)

    _run(target, timeout, write)


@app.command()
def subscribe(
    *,
    types: Types = None,
    tags: Tags = None,
    after: After = "",
    since: Since = "",
    from_now: Annotated[bool, typer.Option("--from-now", help="Only what is recorded from now on.")] = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Write the events that match, and go on with what is recorded next, until interrupted.

    If the server goes away, it waits for its return and goes on where it was.

        kudurru subscribe --from-now
        kudurru subscribe --tag course:c1 | jq .event_type
    """
    begin = begin_after(after, since)
    if from_now and begin:
        raise typer.BadParameter("begins elsewhere than --after or --since", param_hint="--from-now")

    async def follow(store: EventStore) -> None:
        output = Output()
        async for event in store.subscribe(query_of(types, tags), after=begin, from_now=from_now):
            output.event(event)
            output.flush()

    _run(target, 0, follow)


@app.command("tags")
def list_tags(
    *,
    tag: Annotated[str, typer.Argument(help="Tell about this tag instead.")] = "",
    group: Annotated[str | None, typer.Option(help="Only tags of this group, the part before the colon.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Count the events of TAG.")] = False,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 10.0,
) -> None:
    """List the tags in use, or tell about one.

    kudurru tags --group course
    kudurru tags course:c1 --count
    """

    async def write(store: EventStore) -> None:
        output = Output()
        if tag:
            info = await store.tag(tag, count=count)
            fields: dict[str, object] = {"tag": tag, "exists": info.exists}
            if info.exists:
                fields["first_sortable_unique_id"] = info.first_sortable_unique_id
                fields["last_sortable_unique_id"] = info.last_sortable_unique_id
            output.fields(fields if info.count is None else fields | {"count": info.count})
            return
        async for name in store.tags(group):
            output.text(name, {"tag": name})

    _run(target, timeout, write)


@app.command()
def head(*, target: Target = DEFAULT_TARGET, timeout: Timeout = 10.0) -> None:
    """Write the cursor and the position of the last event."""

    async def write(store: EventStore) -> None:
        end = await store.head()
        Output().fields({"sortable_unique_id": end.sortable_unique_id, "position": end.position})

    _run(target, timeout, write)


@app.command()
def get(
    event_id: Annotated[str, typer.Argument(help="A UUID.")],
    *,
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 10.0,
) -> None:
    """Write one event."""

    async def write(store: EventStore) -> None:
        Output().event(await store.get_event(event_id))

    _run(target, timeout, write)


def _run(target: str, timeout: float, command: Callable[[EventStore], Coroutine[None, None, None]]) -> None:
    """Run a command to its end, and end the process as its shell expects."""

    async def connected() -> None:
        async with connect(target, timeout=timeout) as store:
            await command(store)

    try:
        asyncio.run(connected())
        sys.stdout.flush()
    except (KudurruError, InputError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Who read this has seen enough. What is still buffered must not fail when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        typer.echo("kudurru: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
