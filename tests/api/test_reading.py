"""Read, GetEvent, GetHead, GetTag and ListTags through the wire, on a small store whose every event is known."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server._proto.event_pb2 import Event
from kudurru_server.engine.engine import EngineOptions

from tests.api.nodes import PATIENCE_SECONDS, Stub, failure_of, positions, read, serve
from tests.builders import NOON, event, fact_of, held, query_message, request, unless, uuid4, uuid7
from tests.reference import OutOfRangeError, Query, Reference

SECOND = 10_000_000
ODD: Query = ((frozenset(("A",)), frozenset()), (frozenset(), frozenset(("n:9", "x"))))


class Small:
    """A server with twelve events, two a second, and the same events in the reference."""

    def __init__(self, stub: Stub, reference: Reference) -> None:
        self.stub = stub
        self.reference = reference

    def cursor(self, position: int) -> str:
        return self.reference.events[position - 1].cursor if position else ""


@pytest.fixture(params=["tail", "history"])
async def small(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Small]:
    if request.param == "history":
        monkeypatch.setattr("kudurru_server.engine.tail.GENERATION_EVENTS", 2)
    now = NOON
    options = EngineOptions(tail_bytes=1, clock=lambda: now)
    async with held(serve(tmp_path / "data", options)) as stub:
        reference = Reference()
        for second in range(6):
            now = NOON + second * SECOND
            events = [
                event("AB"[at], "x", f"n:{2 * second + at + 1}", "odd" if at else "g:h", event_id=uuid7(NOON))
                for at in range(2)
            ]
            await stub.Append(pb.AppendRequest(events=events))
            reference.append(list(map(fact_of, events)), [], now)
        yield Small(stub, reference)


def time(seconds: int) -> str:
    return f"{NOON + seconds * SECOND:019d}{0:011d}"


BOUNDS: list[str | int] = ["", 1, 4, 5, 11, 12, time(-1), time(0), time(2), time(5), time(6), time(10**6)]


@pytest.mark.parametrize("backwards", [False, True])
async def test_every_read_is_that_of_the_reference(small: Small, backwards: bool) -> None:  # noqa: FBT001
    for query in ((), ODD, ((frozenset(("C",)), frozenset()),)):
        for after in BOUNDS:
            for until in BOUNDS:
                for limit in (0, 1, 3, 12, 13):
                    low = small.cursor(after) if isinstance(after, int) else after
                    high = small.cursor(until) if isinstance(until, int) else until
                    asked = pb.ReadRequest(
                        query=query_message(query), after=low, until=high, backwards=backwards, limit=limit
                    )
                    expected, head = small.reference.read(query, low, high, backwards=backwards, limit=limit)
                    found, found_head = await read(small.stub, asked)
                    assert positions(found) == [one.position for one in expected], asked
                    if limit and len(expected) == limit and not backwards:
                        assert found_head == expected[-1].cursor
                    else:
                        assert found_head == head, asked


async def test_a_head_used_as_after_of_a_condition_lets_pass_what_was_read(small: Small) -> None:
    for limit, until in ((0, ""), (0, small.cursor(5)), (3, "")):
        found, head = await read(small.stub, pb.ReadRequest(limit=limit, until=until))
        assert head == found[-1].sortable_unique_id
        condition = unless(((), (f"n:{len(found)}",)), after=head)
        await small.stub.Append(request(event(event_id=uuid7(NOON)), conditions=[condition]))


async def test_cursors_of_another_store_are_out_of_range_everywhere(small: Small) -> None:
    stub, last = small.stub, small.cursor(12)
    foreign = [
        f"{last[:19]}{13:011d}",
        f"{int(last[:19]) + 1:019d}{12:011d}",
        f"{int(small.cursor(3)[:19]) - 1:019d}{3:011d}",
        "9" * 30,
    ]
    for cursor in foreign:
        with pytest.raises(OutOfRangeError):
            small.reference.position(cursor)
        calls: list[tuple[str, Any]] = [
            ("after", stub.Read(pb.ReadRequest(after=cursor)).read()),
            ("until", stub.Read(pb.ReadRequest(until=cursor)).read()),
            ("after", stub.Subscribe(pb.SubscribeRequest(after=cursor)).read()),
            (
                "conditions[0].after",
                stub.Append(request(event(event_id=uuid7(NOON)), conditions=[unless(after=cursor)])),
            ),
        ]
        for field, call in calls:
            with pytest.raises(grpc.RpcError) as error:
                await call
            failure = failure_of(error.value)
            assert (failure.code, failure.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_OUT_OF_RANGE")
            assert failure.metadata["field"] == field
            assert failure.metadata["head"] == last


async def test_malformed_cursors_are_refused_everywhere(small: Small) -> None:
    stub = small.stub
    for cursor in ("1", "x" * 30, "0" * 31, " " + "0" * 29, "+" + "0" * 29):
        for call in (
            stub.Read(pb.ReadRequest(after=cursor)).read(),
            stub.Read(pb.ReadRequest(until=cursor)).read(),
            stub.Read(pb.ReadRequest(at_least=cursor)).read(),
            stub.Subscribe(pb.SubscribeRequest(after=cursor)).read(),
            stub.GetTag(pb.GetTagRequest(tag="x", at_least=cursor)),
            stub.ListTags(pb.ListTagsRequest(at_least=cursor)),
            stub.GetEvent(pb.GetEventRequest(event_id=uuid4(), at_least=cursor)),
        ):
            with pytest.raises(grpc.RpcError) as error:
                await call
            failure = failure_of(error.value)
            assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_MALFORMED")


async def test_every_event_is_found_by_its_id(small: Small) -> None:
    for one in small.reference.events:
        answer = await small.stub.GetEvent(pb.GetEventRequest(event_id=one.fact.event_id))
        assert answer.event.sortable_unique_id == one.cursor
        assert fact_of(answer.event.event) == one.fact
    with pytest.raises(grpc.RpcError) as error:
        await small.stub.GetEvent(pb.GetEventRequest(event_id=uuid4()))
    failure = failure_of(error.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    with pytest.raises(grpc.RpcError) as error:
        await small.stub.GetEvent(pb.GetEventRequest(event_id="no"))
    assert failure_of(error.value).reason == "EVENT_ID_INVALID"


@pytest.mark.parametrize("tag", ["x", "odd", "n:1", "n:12", "g:h", "none"])
async def test_a_tag_tells_its_first_last_and_count(small: Small, tag: str) -> None:
    expected = small.reference.tag(tag)
    for with_count in (False, True):
        answer = await small.stub.GetTag(pb.GetTagRequest(tag=tag, with_count=with_count))
        assert answer.exists == (expected is not None)
        if expected:
            assert (answer.first_sortable_unique_id, answer.last_sortable_unique_id) == expected[:2]
            assert answer.HasField("count") == with_count
            assert answer.count == (expected[2] if with_count else 0)


@pytest.mark.parametrize("group", [None, "", "n", "g", "none"])
@pytest.mark.parametrize("page_size", [1, 2, 5, 0, 10_000])
async def test_tags_come_in_pages_without_gap_or_repetition(small: Small, group: str | None, page_size: int) -> None:
    found: list[str] = []
    token = ""
    while True:
        asked = pb.ListTagsRequest(page_size=page_size, page_token=token)
        if group is not None:
            asked.group = group
        answer = await small.stub.ListTags(asked)
        assert len(answer.tags) <= (page_size or 1000)
        found += answer.tags
        token = answer.next_page_token
        if not token:
            break
    assert found == small.reference.tags(group)


async def test_page_sizes_and_tokens_out_of_range_are_refused(small: Small) -> None:
    for asked, reason in (
        (pb.ListTagsRequest(page_size=10_001), "FIELD_INVALID"),
        (pb.ListTagsRequest(page_token="a\tb"), "PAGE_TOKEN_INVALID"),  # noqa: S106
        (pb.ListTagsRequest(group="g", page_token="n:1"), "PAGE_TOKEN_INVALID"),  # noqa: S106
    ):
        with pytest.raises(grpc.RpcError) as error:
            await small.stub.ListTags(asked)
        failure = failure_of(error.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_an_empty_store_answers_everything(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as stub:
        assert await stub.GetHead(pb.GetHeadRequest()) == pb.GetHeadResponse()
        for asked in (pb.ReadRequest(), pb.ReadRequest(backwards=True, limit=1), pb.ReadRequest(until=time(0))):
            assert await read(stub, asked) == ([], "")
        assert not (await stub.GetTag(pb.GetTagRequest(tag="x"))).exists
        assert await stub.ListTags(pb.ListTagsRequest()) == pb.ListTagsResponse()
        await stub.Append(request(event(), conditions=[unless()]))


async def test_large_reads_come_in_messages_every_client_can_take(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as stub:
        for _ in range(5):
            await stub.Append(request(*(event(data=bytes(1 << 20)) for _ in range(3))))
            await stub.Append(request(*(Event(event_type="Small", data=bytes(900)) for _ in range(1000))))
        for backwards in (False, True):
            found, _ = await read(stub, pb.ReadRequest(backwards=backwards))
            assert len(found) == 5015
            assert positions(found) == sorted(positions(found), reverse=backwards)


async def test_at_least_waits_for_what_is_not_there_yet(tmp_path: Path) -> None:
    now = NOON
    async with serve(tmp_path / "data", EngineOptions(clock=lambda: now)) as stub:
        await stub.Append(request(event("A", "x", event_id=uuid7(NOON))))
        wanted, event_id = f"{NOON:019d}{2:011d}", uuid7(NOON)
        calls = [
            asyncio.ensure_future(read(stub, pb.ReadRequest(at_least=wanted))),
            asyncio.ensure_future(_await(stub.GetTag(pb.GetTagRequest(tag="x", with_count=True, at_least=wanted)))),
            asyncio.ensure_future(_await(stub.ListTags(pb.ListTagsRequest(at_least=wanted)))),
            asyncio.ensure_future(_await(stub.GetEvent(pb.GetEventRequest(event_id=event_id, at_least=wanted)))),
        ]
        done, _ = await asyncio.wait(calls, timeout=0.1)
        assert not done
        await stub.Append(request(event("B", "x", event_id=event_id)))
        found, tag, tags, got = await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_SECONDS)
        assert positions(found[0]) == [1, 2]
        assert tag.count == 2
        assert list(tags.tags) == ["x"]
        assert got.event.position == 2


async def _await(call: Any) -> Any:  # noqa: ANN401 - calls of any type
    return await call


async def test_at_least_that_is_not_reached_is_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kudurru_server.engine.engine.AT_LEAST_SECONDS", 0.05)
    async with serve(tmp_path / "data") as stub:
        await stub.Append(request(event()))
        far = "9" * 19 + f"{9:011d}"
        with pytest.raises(grpc.RpcError) as error:
            await stub.GetTag(pb.GetTagRequest(tag="x", at_least=far))
        failure = failure_of(error.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "AT_LEAST_NOT_REACHED")
        with pytest.raises(grpc.RpcError) as error:
            await stub.GetTag(pb.GetTagRequest(tag="x", at_least=far), timeout=0.05)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as error:
            await stub.GetTag(pb.GetTagRequest(tag="x", at_least=f"{NOON:019d}{9:011d}"))
        assert failure_of(error.value).code is grpc.StatusCode.OUT_OF_RANGE
