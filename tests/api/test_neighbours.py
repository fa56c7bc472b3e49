"""Handing appends to another node over gRPC: the outcomes are those that node would have given its own callers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.convert import Converter, same_content
from kudurru_server.api.neighbours import open_channels
from kudurru_server.engine.engine import Engine, run_engine
from kudurru_server.engine.leadership import Forward, Neighbours
from kudurru_server.errors import (
    ConditionFailedError,
    EventIdExistsError,
    InvalidRequestError,
    KudurruError,
    StorageUnavailableError,
    UnavailableError,
)
from kudurru_server.model import START, Append, Appended, Leader, Limits, Query
from kudurru_server.settings import Settings
from kudurru_server.storage.interface import LeaderRecord
from kudurru_server.storage.sqlite.store import open_storage

from tests.api.nodes import PATIENCE_SECONDS, listen, run_engine_in
from tests.builders import event, events_of, request, unless, uuid4, uuid7

CONVERTER = Converter(Limits())


def appends() -> list[Append]:
    """Return appends of every fate, in an order in which each has it."""
    first = event("Opened", "account:1", "ü:Ω", event_id=uuid4(), data=b"\x00\xff")
    requests: list[pb.AppendRequest] = [
        request(first, event("Other")),
        request(event("Opened", "account:1"), conditions=[unless((["Opened"], ["account:1"]), ([], ["x", "y"]))]),
        request(event("Fine"), conditions=[unless((["Opened"], ["account:2"]))]),
        request(event("Changed", event_id=first.event_id)),
        request(event("Future", event_id=uuid7(3_000 * 365 * 86_400 * 10_000_000))),
        request(event("Lost"), conditions=[unless((["A"], []), after=f"{1:019d}{77:011d}")]),
    ]
    requests.append(requests[0])
    return [CONVERTER.append(one) for one in requests]


@asynccontextmanager
async def named(folder: Path) -> AsyncIterator[Engine]:
    """Run a node that appends may be handed to."""
    record = cast("LeaderRecord", None)  # nobody loses puts
    neighbours = Neighbours(record, cast("Forward", None), "node", None, 1.0)
    async with open_storage(folder) as storage, run_engine(storage, same_content, None, neighbours) as engine:
        yield engine


async def test_every_outcome_comes_back_as_it_is(tmp_path: Path) -> None:
    wanted = appends()
    async with run_engine_in(tmp_path / "own") as own:
        expected = await own.append([replace(one) for one in wanted])
    kinds = [Appended, ConditionFailedError, Appended, EventIdExistsError, InvalidRequestError, KudurruError, Appended]
    assert all(map(isinstance, expected, kinds))
    async with named(tmp_path / "other") as other, listen(other) as address, open_channels() as channels:
        found = await channels.forward(Leader("node", address), wanted)
        assert [told(outcome) for outcome in found] == [told(outcome) for outcome in expected]
        span, _ = await other.span(START, None, backwards=False)
        frames = b"".join([batch.frames async for batch in other.read(Query(), span, 0)])
        assert [one.event.event_type for one in events_of(frames)] == ["Opened", "Other", "Fine"]
        assert [one.event.SerializeToString() for one in events_of(frames)] == [
            data for place in (0, 2) for data in wanted[place].encoded
        ]


def told(outcome: object) -> object:
    """Return what an outcome says, but for what depends on the time."""
    if isinstance(outcome, Appended):
        return outcome.first, outcome.count, outcome.already_committed
    assert isinstance(outcome, KudurruError)
    metadata = {key: value for key, value in outcome.metadata.items() if key not in {"head", "sortable_unique_id"}}
    return type(outcome), outcome.reason, metadata


async def test_more_than_a_message_holds_goes_over_in_several(tmp_path: Path) -> None:
    many = [CONVERTER.append(request(event())) for _ in range(2500)]
    large = [CONVERTER.append(request(*(event(data=bytes(1 << 20)) for _ in range(3)))) for _ in range(4)]
    async with named(tmp_path) as engine, listen(engine) as address, open_channels() as channels:
        outcomes = await channels.forward(Leader("node", address), [*many, *large])
        assert len(outcomes) == 2504
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
        assert engine.head.position == 2512


async def test_a_node_that_is_not_there_leaves_the_outcome_unknown() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        async with asyncio.timeout(PATIENCE_SECONDS), open_channels() as channels:
            (outcome,) = await channels.forward(Leader("node", f"127.0.0.1:{bound.getsockname()[1]}"), appends()[:1])
        assert isinstance(outcome, StorageUnavailableError)


async def test_a_node_that_dies_leaves_the_outcome_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_engine_in(tmp_path) as engine, open_channels() as channels:
        called = asyncio.Event()

        async def never(_appends: object, **_: object) -> list[object]:
            called.set()
            await asyncio.Event().wait()
            return []

        monkeypatch.setattr(engine, "append", never)
        async with listen(engine) as address:
            asking = asyncio.ensure_future(channels.forward(Leader("node", address), appends()[:2]))
            await called.wait()
        outcomes = await asking
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailableError] * 2


async def test_a_node_of_another_name_records_nothing(tmp_path: Path) -> None:
    async with named(tmp_path) as engine, listen(engine) as address, open_channels() as channels:
        (outcome,) = await channels.forward(Leader("another", address), appends()[:1])
        assert isinstance(outcome, UnavailableError)
        assert engine.head.position == 0


async def test_the_limits_of_messages_are_for_clients(tmp_path: Path) -> None:
    settings = Settings(max_appends_per_message=10, max_message_bytes=1000)
    many = [CONVERTER.append(request(event(data=bytes(500)))) for _ in range(30)]
    async with named(tmp_path) as engine, listen(engine, settings) as address, open_channels() as channels:
        outcomes = await channels.forward(Leader("node", address), many)
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
