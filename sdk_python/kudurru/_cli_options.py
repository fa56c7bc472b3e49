"""From the options of the command line to the values of the client; what does not fit is a usage error."""

import json
import re
from datetime import datetime, timedelta

import typer

from kudurru._cursor import cursor_at
from kudurru._jsonl import encode_json
from kudurru._query import Query, QueryItem

_DURATION = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def query_of(types: list[str] | None, tags: list[str] | None) -> Query:
    """Return the query of --type and --tag."""
    return Query.of(types=types or (), tags=tags or ()) if types or tags else Query.all()


def query_item(text: str) -> QueryItem:
    """Return the query item that TYPE,…/TAG,… means; either side may be empty."""
    types, _, tags = text.partition("/")
    return QueryItem(
        tuple(name for name in types.split(",") if name),
        tuple(tag for tag in tags.split(",") if tag),
    )


def json_data(text: str) -> bytes:
    """Return the data that --data means."""
    try:
        return encode_json(json.loads(text)) if text else b""
    except ValueError:
        raise typer.BadParameter("not JSON; a string needs its quotes: '\"text\"'", param_hint="--data") from None


def pair(text: str) -> tuple[str, str]:
    """Return the pair that KEY=VALUE means."""
    key, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--metadata")
    return key, value


def begin_after(after: str, since: str) -> str:
    """Return the cursor that --after or --since means."""
    if after and since:
        raise typer.BadParameter("begins elsewhere than --after", param_hint="--since")
    return cursor_at(_moment(since)) if since else after


def _moment(text: str) -> datetime:
    if match := _DURATION.fullmatch(text):
        return datetime.now().astimezone() - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a time nor like 15m", param_hint="--since") from None
