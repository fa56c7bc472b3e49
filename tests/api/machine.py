"""The server against the reference, in random histories: every answer, through the wire, at every step.

Generations of three events and a tail of next to nothing let every step cross the border between memory, runs, merges
and the log. Where several nodes share the store, any of them is asked, and some have not looked at the log for long.
Where the network has faults, a call that ends as unavailable is repeated at the next node, and only then judged.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server._proto.event_pb2 import AppendCondition, Event
from kudurru_server._proto.event_store_service_pb2_grpc import EventStoreServiceStub
from kudurru_server.engine.engine import EngineOptions
from kudurru_server.errors import StorageUnavailableError

from tests.api.machine_server import ThreadedServer
from tests.builders import NOON, fact_of, query_message
from tests.loop_thread import LoopThread
from tests.reference import (
    TICKS_PER_MILLISECOND,
    UNIX_EPOCH_TICKS,
    Condition,
    Done,
    OutOfRangeError,
    Query,
    Recorded,
    Reference,
    Refused,
)
from tests.storage.backends import Backend

_T = TypeVar("_T")
PATIENCE_SECONDS = 10.0
GENERATION_EVENTS = 3
FAN_OUT = 2
TYPES, TAGS = ("A", "B", "C"), ("x", "y", "g:1", "g:2", "ü")
CODES = {
    "CONDITION_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "EVENT_ID_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "EVENT_ID_IN_FUTURE": grpc.StatusCode.INVALID_ARGUMENT,
    "CURSOR_OUT_OF_RANGE": grpc.StatusCode.OUT_OF_RANGE,
}

tags = st.lists(st.sampled_from(TAGS), max_size=3, unique=True)
items = st.tuples(
    st.frozensets(st.sampled_from((*TYPES, "Never")), max_size=2),
    st.frozensets(st.sampled_from((*TAGS, "never")), max_size=2),
)
queries = st.lists(items, max_size=3).map(tuple)
shapes = st.lists(
    st.tuples(st.sampled_from(TYPES), tags, st.sampled_from((0, 3, 300)), st.sampled_from("4nop")),
    min_size=1,
    max_size=5,
)
fractions = st.integers(0, 1000)
steps = st.sampled_from((0, 0, 1, 1000, 20_000_000, 3_000_000_000, -5_000_000, -90 * 600_000_000))


def meaningful(query: Query) -> Query:
    """Return the query as the server reads it: with an item that matches everything, it matches everything."""
    return query if all(types or found for types, found in query) else ()


@dataclass(frozen=True, slots=True)
class Setup:
    """What a machine runs on."""

    backends: Sequence[Callable[[Path], Backend]]
    """An example runs on one of them."""
    nodes: int = 1
    follow_seconds: tuple[float | None, ...] = (None,)
    """Between looks for the entries of other nodes, one of these in an example; None: there are no others."""
    apply_delay_seconds: float | None = None
    has_faults: bool = False
    """Calls may end as unavailable."""


@dataclass(slots=True)
class Stream:
    """A subscription."""

    query: Query
    after: int
    cursor: str
    call: Any


class Machine(RuleBasedStateMachine):
    """Random clients of one server, or of several that share a store."""

    setup: Setup
    unavailable = 0

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.reference = Reference()
        self.sent: list[list[Event]] = []
        self.numbers = count(1)
        self.streams: list[Stream] = []
        self.servers: list[ThreadedServer] = []
        self.latest = 0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("kudurru_server.engine.tail.GENERATION_EVENTS", GENERATION_EVENTS)
        self.patch.setattr("kudurru_server.storage.sqlite.index.FAN_OUT", FAN_OUT)
        self.stack = ExitStack()
        self.stack.callback(self.patch.undo)
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))

    @initialize(
        tail_bytes=st.sampled_from((1, 5_000, 1 << 20)),
        place=fractions,
        pace=fractions,
        chance=st.randoms(use_true_random=False),
    )
    def start(self, tail_bytes: int, place: int, pace: int, chance: random.Random) -> None:
        setup, self.chance = self.setup, chance
        backend = setup.backends[place % len(setup.backends)](self.folder)
        follow_seconds = setup.follow_seconds[pace % len(setup.follow_seconds)]
        options = EngineOptions(
            tail_bytes=tail_bytes,
            follow_busy_seconds=follow_seconds,
            follow_idle_seconds=follow_seconds or 0.0,
            apply_delay_seconds=setup.apply_delay_seconds,
            clock=lambda: self.now,
        )
        thread = self.stack.enter_context(LoopThread())
        for _ in range(setup.nodes):
            server = ThreadedServer(thread, backend.open, options)
            self.start_server(server)
            self.stack.callback(server.stop)
            self.servers.append(server)

    def start_server(self, server: ThreadedServer) -> None:
        """Start it, or where the store may not answer, try until it does."""
        while True:
            try:
                server.start()
            except StorageUnavailableError:
                assert self.setup.has_faults
            else:
                return

    def teardown(self) -> None:
        with self.stack:
            if len(self.servers) == self.setup.nodes:
                self.check_streams()

    # ── asking ──

    def ask(self, call: Callable[[EventStoreServiceStub], _T], first: int | None = None) -> tuple[_T, int, bool]:
        """Return the answer of any node (or try `first` first), which node it is, and whether it is the first try."""
        start = self.chance.randrange(len(self.servers)) if first is None else first
        deadline = time.monotonic() + PATIENCE_SECONDS
        for attempt in count():
            node = (start + attempt) % len(self.servers)
            try:
                return call(self.servers[node].stub), node, attempt == 0
            except grpc.RpcError as error:
                is_fault = self.setup.has_faults and error.code() is grpc.StatusCode.UNAVAILABLE
                if not is_fault or time.monotonic() > deadline:
                    raise
                type(self).unavailable += 1
        raise AssertionError

    @property
    def at_least(self) -> str:
        """What a read must have seen: the node that acknowledged it has, another one is told."""
        return self.reference.head if self.setup.nodes > 1 else ""

    # ── appends ──

    def new_id(self, kind: str) -> str:
        """Return a UUIDv4, or a UUIDv7 of now, of long ago, or of 59 seconds ahead."""
        number = next(self.numbers)
        if kind == "4":
            return str(UUID(int=(number * 0x9E3779B97F4A7C15 % (1 << 64)) << 64 | number, version=4))
        lead = {"n": 0, "o": -36_000_000_000_000, "p": 590_000_000}[kind]
        milliseconds = (self.now + lead - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
        return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number))

    def cursor(self, kind: str, fraction: int) -> str:
        """Return a cursor: the start, the head, an event's, or a time."""
        events = self.reference.events
        if kind == "start" or not events:
            return ""
        if kind == "head":
            return self.reference.head
        event = events[fraction * (len(events) - 1) // 1000]
        if kind == "event":
            return event.cursor
        return (
            f"{event.ticks - fraction % 2:019d}{0:011d}"  # of the past: refusals of the future have tests of their own
        )

    cursors = st.tuples(st.sampled_from(("start", "head", "head", "event", "time")), fractions)
    conditions = st.lists(st.tuples(queries, cursors), max_size=3)

    @rule(shape=shapes, wanted=conditions, step=steps)
    def append(self, shape: list[Any], wanted: list[Any], step: int) -> None:
        self.now = max(NOON - 10**11, self.now + step)
        events = [
            Event(event_type=kind, tags=found, data=bytes(size), event_id=self.new_id(version))
            for kind, found, size, version in shape
        ]
        self.send(events, wanted)
        self.sent.append(events)

    @precondition(lambda self: self.sent)
    @rule(
        fraction=fractions,
        change=st.sampled_from(("", "", "", "reversed", "subset", "superset", "content", "two")),
        wanted=conditions,
        step=steps,
    )
    def repeat(self, fraction: int, change: str, wanted: list[Any], step: int) -> None:
        self.now = max(NOON - 10**11, self.now + step)
        place = fraction * (len(self.sent) - 1) // 1000
        events = [Event.FromString(one.SerializeToString()) for one in self.sent[place]]
        if change == "reversed":
            events.reverse()
        elif change == "subset":
            events = events[1:] or events
        elif change == "superset":
            events.append(Event(event_type="A", event_id=self.new_id("n")))
        elif change == "content":
            events[-1].data += b"more"
        elif change == "two":
            known = {one.event_id for one in events}
            events += [one for one in self.sent[-1] if one.event_id not in known]
        self.send(events, wanted)
        if change in ("superset", "two"):
            self.sent.append(events)

    @precondition(lambda self: self.setup.nodes > 1)
    @rule(shape=shapes, wanted=conditions)
    def append_and_repeat(self, shape: list[Any], wanted: list[Any]) -> None:
        """Repeat at once and on other conditions, perhaps at a node that does not know of the append."""
        self.append(shape, [], 0)
        self.repeat(1000, "", wanted, 0)

    def send(self, events: list[Event], wanted: list[Any]) -> None:
        """Append, and hold the answer against the reference's."""
        conditions = [Condition(query, self.cursor(*cursor)) for query, cursor in wanted]
        request = pb.AppendRequest(
            events=events,
            conditions=[
                AppendCondition(fail_if_events_match=query_message(one.query), after=one.after) for one in conditions
            ],
        )
        judged = [Condition(meaningful(one.query), one.after) for one in conditions]
        expected = self.reference.append(list(map(fact_of, events)), judged, self.now)
        try:
            answer, node, at_once = self.ask(lambda stub: stub.Append(request, timeout=PATIENCE_SECONDS))
        except grpc.RpcError as error:
            self.check_refusal(expected, error)
            return
        assert isinstance(expected, Done), (expected, answer)
        assert list(answer.sortable_unique_ids) == expected.cursors
        if at_once or expected.already:  # else an earlier try may have recorded it
            assert answer.already_committed == expected.already
        if not expected.already:
            self.latest = node
        assert list(answer.event_ids) == [one.event_id for one in events]

    def check_refusal(self, expected: Done | Refused, error: grpc.RpcError) -> None:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        assert status is not None, error
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        assert isinstance(expected, Refused), (expected, info)
        assert info.reason == expected.reason, (expected, info)
        assert status.code == CODES[info.reason].value[0]
        if expected.positions:
            position = int(info.metadata["position"])
            assert position in expected.positions
            assert info.metadata["event_id"] == self.reference.events[position - 1].fact.event_id
        if info.reason == "CONDITION_FAILED":
            assert int(info.metadata["condition_index"]) == expected.index
            assert info.metadata["sortable_unique_id"] == self.reference.events[position - 1].cursor

    # ── reading ──

    @rule(query=queries, after=cursors, until=cursors, backwards=st.booleans(), limit=st.sampled_from((0, 0, 1, 2, 5)))
    def read(self, query: Query, after: Any, until: Any, backwards: bool, limit: int) -> None:  # noqa: ANN401, FBT001
        low, high = self.cursor(*after), self.cursor(*until)
        request = pb.ReadRequest(
            query=query_message(query),
            after=low,
            until=high,
            backwards=backwards,
            limit=limit,
            at_least=self.at_least or low,
        )
        messages, _, _ = self.ask(lambda stub: list(stub.Read(request, timeout=PATIENCE_SECONDS)))
        found = [one for message in messages for one in message.events]
        expected, head = self.reference.read(meaningful(query), low, high, backwards=backwards, limit=limit)
        self.check_events(found, expected)
        assert messages[-1].head == head

    def check_events(self, found: list[Any], expected: list[Recorded]) -> None:
        assert [one.position for one in found] == [one.position for one in expected]
        assert [one.sortable_unique_id for one in found] == [one.cursor for one in expected]
        assert [fact_of(one.event) for one in found] == [one.fact for one in expected]

    @rule(off=st.sampled_from((-1, 1, 10_000_000)), fraction=fractions)
    def read_after_a_foreign_cursor(self, off: int, fraction: int) -> None:
        events = self.reference.events
        position = 1 + fraction * (len(events) + 1) // 1000
        ticks = (events[position - 1].ticks if position <= len(events) else self.now) + off
        cursor = f"{ticks:019d}{position:011d}"
        with pytest.raises(OutOfRangeError):
            self.reference.position(cursor)
        calls: list[Callable[[EventStoreServiceStub], Any]] = [
            lambda stub: next(iter(stub.Read(pb.ReadRequest(after=cursor), timeout=PATIENCE_SECONDS))),
            lambda stub: next(iter(stub.Subscribe(pb.SubscribeRequest(after=cursor), timeout=PATIENCE_SECONDS))),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as error:
                self.ask(call)
            assert error.value.code() is grpc.StatusCode.OUT_OF_RANGE
        event = Event(event_type="A", event_id=self.new_id("n"))
        expected = self.reference.append([fact_of(event)], [Condition(after=cursor)], self.now)
        request = pb.AppendRequest(events=[event], conditions=[AppendCondition(after=cursor)])
        with pytest.raises(grpc.RpcError) as refused:
            self.ask(lambda stub: stub.Append(request, timeout=PATIENCE_SECONDS))
        self.check_refusal(expected, refused.value)

    @rule(tag=st.sampled_from((*TAGS, "never")), with_count=st.booleans())
    def tag(self, tag: str, with_count: bool) -> None:  # noqa: FBT001
        request = pb.GetTagRequest(tag=tag, with_count=with_count, at_least=self.at_least)
        answer, _, _ = self.ask(lambda stub: stub.GetTag(request, timeout=PATIENCE_SECONDS))
        expected = self.reference.tag(tag)
        assert answer.exists == (expected is not None)
        if expected:
            assert (answer.first_sortable_unique_id, answer.last_sortable_unique_id) == expected[:2]
            assert answer.count == (expected[2] if with_count else 0)

    @rule(group=st.sampled_from((None, "", "g", "none")), page_size=st.sampled_from((1, 2, 100)))
    def tags(self, group: str | None, page_size: int) -> None:
        found: list[str] = []
        token = None
        while token != "":
            request = pb.ListTagsRequest(
                page_size=page_size, page_token=token or "", group=group, at_least=self.at_least
            )
            answer, _, _ = self.ask(lambda stub: stub.ListTags(request, timeout=PATIENCE_SECONDS))  # noqa: B023
            found += answer.tags
            token = answer.next_page_token
        assert found == self.reference.tags(group)

    @precondition(lambda self: self.sent)
    @rule(fraction=fractions)
    def get_event(self, fraction: int) -> None:
        event_id = self.sent[fraction * (len(self.sent) - 1) // 1000][0].event_id
        expected = self.reference.get_event(event_id)
        request = pb.GetEventRequest(event_id=event_id, at_least=self.at_least)
        try:
            answer, _, _ = self.ask(lambda stub: stub.GetEvent(request, timeout=PATIENCE_SECONDS))
        except grpc.RpcError as error:
            assert (error.code(), expected) == (grpc.StatusCode.NOT_FOUND, None)  # noqa: PT017 - or it is found
        else:
            assert expected is not None
            self.check_events([answer.event], [expected])

    # ── subscriptions ──

    @precondition(lambda self: len(self.streams) < 3)
    @rule(query=queries, after=cursors)
    def subscribe(self, query: Query, after: Any) -> None:  # noqa: ANN401
        kind, fraction = after
        cursor = self.cursor("event" if kind == "time" else kind, fraction)
        stream = Stream(query, self.reference.position(cursor), cursor, None)
        self.open_stream(stream)
        self.streams.append(stream)

    def open_stream(self, stream: Stream) -> None:
        """Subscribe, or subscribe again, at any node."""
        request = pb.SubscribeRequest(query=query_message(stream.query), after=stream.cursor)
        stream.call, _, _ = self.ask(lambda stub: stub.Subscribe(request))

    @precondition(lambda self: self.streams)
    @rule()
    def check_streams(self) -> None:
        """Read what each subscription has got by now, and end it."""
        if self.at_least:
            for node in range(len(self.servers)):
                request = pb.GetTagRequest(tag="x", at_least=self.at_least)
                self.ask(lambda stub: stub.GetTag(request, timeout=PATIENCE_SECONDS), node)  # noqa: B023
        for stream in self.streams:
            expected = self.reference.read(meaningful(stream.query))[0]
            expected = [one for one in expected if one.position > stream.after]
            self.check_events(list(self.delivered(stream, len(expected))), expected)
            stream.call.cancel()
        self.streams.clear()

    def delivered(self, stream: Stream, least: int) -> Iterator[Any]:
        """Yield what a subscription delivers, at least so much, until it has caught up."""
        number, caught_up = 0, False
        deadline = time.monotonic() + PATIENCE_SECONDS
        while number < least or not caught_up:
            assert time.monotonic() < deadline
            try:
                message = next(stream.call)
            except grpc.RpcError as error:
                if not self.setup.has_faults or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self.open_stream(stream)
                continue
            yield from message.events
            number += len(message.events)
            caught_up = caught_up or message.WhichOneof("signal") == "caught_up"
            if message.events:
                stream.cursor = message.events[-1].sortable_unique_id

    # ── the servers ──

    @rule(node=fractions)
    def restart(self, node: int) -> None:
        self.check_streams()
        server = self.servers[node % len(self.servers)]
        server.stop()
        self.start_server(server)

    @invariant()
    def the_head_is_that_of_the_reference(self) -> None:
        for node, server in enumerate(self.servers):
            answer = server.stub.GetHead(pb.GetHeadRequest(), timeout=PATIENCE_SECONDS)
            at = len(self.reference.events) if node == self.latest else answer.position
            head = self.reference.events[at - 1].cursor if at else ""
            assert (answer.sortable_unique_id, answer.position) == (head, at)


def run_machine(setup: Setup, max_examples: int) -> int:
    """Run the machine, and return how many calls ended as unavailable.

    An example that fails is made smaller only where it is the same each time.
    """
    phases = [Phase.generate] if setup.nodes > 1 else list(Phase)

    class Running(Machine):
        """A machine with this setup."""

    Running.setup = setup
    run_state_machine_as_test(
        Running,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=phases,
        ),
    )
    return Running.unavailable
