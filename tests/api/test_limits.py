"""Every limit exactly at its edge and one above, and every rule about what a request may say."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server._proto.event_pb2 import Event, Query, QueryItem
from kudurru_server.api.convert import Converter
from kudurru_server.errors import InvalidRequestError
from kudurru_server.model import Limits

from tests.api.nodes import Node, Stub, failure_of, read, serve
from tests.builders import event, now_ticks, query_message, request, unless, uuid4, uuid7

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1 << 20


def with_metadata(pairs: int, total_bytes: int) -> Event:
    """Return an event with metadata of so many pairs and bytes in all."""
    one = event()
    for number in range(pairs - 1):
        one.metadata[f"{number:02d}"] = ""
    one.metadata["k"] = "v" * (total_bytes - 2 * (pairs - 1) - 1)
    return one


def of_bytes(total: int) -> pb.AppendRequest:
    """Return an append whose encoded events have exactly so many bytes."""
    events = [event(data=bytes(MIB - 100)) for _ in range(4)]
    last = event()
    missing = total - sum(one.ByteSize() for one in events)
    last.data = bytes(missing - last.ByteSize() - 5)
    last.data += bytes(missing - last.ByteSize())
    assert sum(one.ByteSize() for one in (*events, last)) == total
    return request(*events, last)


def query_of(items: int) -> Query:
    return Query(items=[QueryItem(event_types=[f"T{number}"]) for number in range(items)])


EDGES: dict[str, tuple[Callable[[int], pb.AppendRequest], int, str]] = {
    "event type": (lambda n: request(event("t" * n)), 256, "EVENT_TYPE_INVALID"),
    "event type in characters of 2 bytes": (
        lambda n: request(event("é" * (n // 2) + "x" * (n % 2))),
        256,
        "EVENT_TYPE_INVALID",
    ),
    "tag": (lambda n: request(event("E", "t" * n)), 256, "TAG_INVALID"),
    "tag in characters of 4 bytes": (
        lambda n: request(event("E", "\U0001f600" * (n // 4) + "x" * (n % 4))),
        256,
        "TAG_INVALID",
    ),
    "tags": (lambda n: request(event("E", *(f"t:{i}" for i in range(n)))), 64, "TOO_MANY_TAGS"),
    "metadata pairs": (lambda n: request(with_metadata(n, 300)), 64, "METADATA_TOO_LARGE"),
    "metadata bytes": (lambda n: request(with_metadata(3, n)), 16 * 1024, "METADATA_TOO_LARGE"),
    "content type": (lambda n: request(Event(event_type="E", content_type="c" * n)), 256, "CONTENT_TYPE_INVALID"),
    "data": (lambda n: request(event(data=bytes(n))), MIB, "DATA_TOO_LARGE"),
    "events": (lambda n: request(*(Event(event_type="E") for _ in range(n))), 4096, "TOO_MANY_EVENTS"),
    "append bytes": (of_bytes, 4 * MIB, "APPEND_TOO_LARGE"),
    "conditions": (lambda n: request(event(), conditions=[unless((("No",), ()))] * n), 16, "TOO_MANY_CONDITIONS"),
    "query items": (
        lambda n: request(event(), conditions=[unless(*(((f"No{i}",), ()) for i in range(n)))]),
        64,
        "QUERY_TOO_LARGE",
    ),
    "event types of an item": (
        lambda n: request(event(), conditions=[unless(([f"No{i}" for i in range(n)], ()))]),
        64,
        "QUERY_TOO_LARGE",
    ),
    "tags of an item": (
        lambda n: request(event(), conditions=[unless(((), [f"no{i}" for i in range(n)]))]),
        64,
        "TOO_MANY_TAGS",
    ),
}


@pytest.mark.parametrize("limit", EDGES)
async def test_a_limit_allows_its_edge_and_refuses_one_above(stub: Stub, limit: str) -> None:
    make, edge, reason = EDGES[limit]
    await stub.Append(make(edge))
    head = await stub.GetHead(pb.GetHeadRequest())
    with pytest.raises(grpc.RpcError) as error:
        await stub.Append(make(edge + 1))
    failure = failure_of(error.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert await stub.GetHead(pb.GetHeadRequest()) == head


FIRST = uuid7()
INVALID: dict[str, tuple[pb.AppendRequest, str]] = {
    "no events": (pb.AppendRequest(), "NO_EVENTS"),
    "no event type": (request(event("")), "EVENT_TYPE_INVALID"),
    "an empty tag": (request(event("E", "a", "")), "TAG_INVALID"),
    "an empty tag alone": (request(event("E", "")), "TAG_INVALID"),
    "a tag twice": (request(event("E", "a", "b", "a")), "TAG_REPEATED"),
    "an id twice": (request(event(event_id=FIRST), event(event_id=FIRST)), "EVENT_ID_REPEATED"),
    "an id twice in two cases": (request(event(event_id=FIRST), event(event_id=FIRST.upper())), "EVENT_ID_REPEATED"),
    "an id that is no UUID": (request(event(event_id="x" * 36)), "EVENT_ID_INVALID"),
    "an id without hyphens": (request(event(event_id=FIRST.replace("-", ""))), "EVENT_ID_INVALID"),
    "an id in braces": (request(event(event_id="{" + FIRST + "}")), "EVENT_ID_INVALID"),
    "an id and a line feed": (request(event(event_id=FIRST + "\n")), "EVENT_ID_INVALID"),
    "an id of the future": (request(event(event_id=uuid7(now_ticks() + 36_000_000_000))), "EVENT_ID_IN_FUTURE"),
    "a long content type": (
        request(Event(event_type="E", content_type="x" * 257)),
        "CONTENT_TYPE_INVALID",
    ),
    "a short cursor": (request(event(), conditions=[unless(after="1" * 29)]), "CURSOR_MALFORMED"),
    "a cursor of other digits": (request(event(), conditions=[unless(after="\u0661" * 30)]), "CURSOR_MALFORMED"),
    "an empty type in a condition": (request(event(), conditions=[unless((("",), ()))]), "EVENT_TYPE_INVALID"),
    "an empty tag in a condition": (request(event(), conditions=[unless(((), ("",)))]), "TAG_INVALID"),
    **{
        f"a type with {character!r}": (request(event(f"a{character}b")), "EVENT_TYPE_INVALID")
        for character in "\0\t\n\r\x1f\x7f\x85\x9f"
    },
    **{
        f"a tag with {character!r}": (request(event("E", "ok", f"a{character}b")), "TAG_INVALID")
        for character in "\0\t\n\r\x1f\x7f\x85\x9f"
    },
}


@pytest.mark.parametrize("what", INVALID)
async def test_what_breaks_a_rule_is_refused_with_its_reason(stub: Stub, what: str) -> None:
    given, reason = INVALID[what]
    with pytest.raises(grpc.RpcError) as error:
        await stub.Append(given, timeout=3)
    failure = failure_of(error.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert (await stub.Append(request(event()), timeout=3)).last_position > 0


@pytest.mark.parametrize("more", [[], [event("E", event_id=uuid4())]])
async def test_two_ids_in_one_are_refused_and_stop_nobody(tmp_path: Path, more: list[Event]) -> None:
    async with serve(tmp_path / "data") as own:
        with pytest.raises(grpc.RpcError) as error:
            await own.Append(request(event(event_id=f"{uuid4()},{uuid4()}"), *more), timeout=2)
        failure = failure_of(error.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "EVENT_ID_INVALID")
        assert (await own.Append(request(event()), timeout=2)).last_position == 1


@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        ("EVENT_ID_INVALID", event(event_id="no")),
        ("EVENT_ID_REPEATED", event(event_id=FIRST)),
        ("EVENT_ID_IN_FUTURE", event(event_id=uuid7(now_ticks() + 7_000_000_000))),
        ("EVENT_TYPE_INVALID", event("")),
        ("TAG_INVALID", event("E", "")),
        ("TAG_REPEATED", event("E", "a", "a")),
        ("TOO_MANY_TAGS", event("E", *map(str, range(65)))),
        ("DATA_TOO_LARGE", event(data=bytes(MIB + 1))),
        ("METADATA_TOO_LARGE", with_metadata(65, 300)),
        ("CONTENT_TYPE_INVALID", Event(event_type="E", content_type="c" * 257)),
    ],
)
async def test_a_fault_of_an_event_names_the_event(stub: Stub, reason: str, bad: Event) -> None:
    with pytest.raises(grpc.RpcError) as error:
        await stub.Append(request(event(event_id=FIRST), bad, event()))
    failure = failure_of(error.value)
    assert failure.reason == reason
    assert failure.metadata["event_index"] == "1"


async def test_unicode_is_kept_as_it_is(stub: Stub) -> None:
    names = ["é", "e\u0301", "\u2028", "\ufeff", "名前:値", "\U0001f600", " ", "a b", "\ue000", ":", "::"]
    one = event("タイプ \u200b", *names, data="é".encode())
    one.content_type = "text/é"
    one.metadata["ключ\n"] = "значение\0"
    await stub.Append(request(one))
    found = await stub.GetEvent(pb.GetEventRequest(event_id=one.event_id))
    assert found.event.event == one
    for name in names:
        assert (await stub.GetTag(pb.GetTagRequest(tag=name))).exists


async def test_a_request_that_is_no_message_is_refused(grpc_server: Node) -> None:
    async with grpc.aio.insecure_channel(grpc_server.address) as channel:
        invalid_utf8 = request(event("TYPE")).SerializeToString().replace(b"TYPE", b"\xff\xfe\xff\xfe")
        for method in ("Append", "GetEvent", "GetTag", "ListTags"):
            call: Any = channel.unary_unary(f"/kudurru.v1.EventStoreService/{method}")
            for data in (b"\xff\xff\xff", invalid_utf8 if method == "Append" else b"\x0a\x02\xff\xfe"):
                with pytest.raises(grpc.RpcError) as error:
                    await call(data)
                if method != "ListTags" or data == b"\xff\xff\xff":
                    failure = failure_of(error.value)
                    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


async def test_unknown_fields_make_no_message_too_large_for_a_reader(grpc_server: Node, stub: Stub) -> None:
    """An event may carry fields of a later version; it must not become one that nobody can read."""
    unknown = b"\xfa\x3e" + b"\xff\xff\xdf\x01"  # field 1007, bytes
    size = 0x7F | 0x7F << 7 | 0x5F << 14 | 1 << 21
    padding = [event(data=bytes(1_020_000))]
    large = event("Unknown").SerializeToString() + unknown + bytes(size)
    data = b"".join(b"\x0a" + _varint(len(one)) + one for one in (large,))
    after = (await stub.Append(request(*padding))).sortable_unique_ids[0]
    with contextlib.suppress(grpc.RpcError):  # refusing it is as good as keeping its messages small
        await grpc_call(grpc_server, data)
    events, _ = await read(stub, pb.ReadRequest(after=f"{int(after[:19]):019d}{0:011d}"))
    assert events


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded, number = encoded + bytes((number & 0x7F | 0x80,)), number >> 7
    return encoded + bytes((number,))


async def grpc_call(node: Node, data: bytes) -> None:
    """Send an append as raw bytes."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        call: Any = channel.unary_unary("/kudurru.v1.EventStoreService/Append")
        await call(data)


async def test_limits_below_their_defaults_hold_for_small_events_too() -> None:
    for limits, one in (
        (Limits(data_bytes=10), event(data=bytes(11))),
        (Limits(metadata_pairs=0), with_metadata(1, 2)),
        (Limits(metadata_bytes=4), with_metadata(1, 5)),
        (Limits(tags_per_event=0), event("E", "a")),
        (Limits(event_type_bytes=3), event("four")),
        (Limits(tag_bytes=3), event("E", "four")),
    ):
        with pytest.raises(InvalidRequestError):
            Converter(limits).append(request(one))


async def test_a_query_that_asks_for_what_no_event_can_have_is_refused_everywhere(stub: Stub) -> None:
    bad = query_message(((frozenset(("a\tb",)), frozenset()),))
    for call in (stub.Read(pb.ReadRequest(query=bad)), stub.Subscribe(pb.SubscribeRequest(query=bad))):
        with pytest.raises(grpc.RpcError) as error:
            await call.read()
        assert failure_of(error.value).reason == "EVENT_TYPE_INVALID"
    with pytest.raises(grpc.RpcError) as error:
        await stub.GetTag(pb.GetTagRequest(tag=""))
    assert failure_of(error.value).reason == "TAG_INVALID"
