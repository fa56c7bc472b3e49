"""A store in memory behind the real protocol, and scripts for what goes wrong on the way to it.

By default it behaves: appends are recorded once, conditions are judged, reads and subscriptions are answered. A test
puts functions into `on_append`, `on_append_stream`, `on_read` and `on_subscribe`; each handles one attempt, in turn.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Never

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from kudurru import Event
from kudurru._model import event_message
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb
from kudurru._proto.event_store_service_pb2_grpc import (
    EventStoreServiceServicer,
    add_EventStoreServiceServicer_to_server,
)

Context = grpc.aio.ServicerContext[Any, Any]
Appends = AsyncIterator[pb.AppendStreamRequest]
OnAppend = Callable[[pb.AppendRequest], Awaitable[pb.AppendOutcome] | pb.AppendOutcome]
OnAppendStream = Callable[[Appends, Context], AsyncIterator[pb.AppendStreamResponse]]
OnRead = Callable[[pb.ReadRequest, Context], AsyncIterator[pb.ReadResponse]]
OnSubscribe = Callable[[pb.SubscribeRequest, Context], AsyncIterator[pb.SubscribeResponse]]


def cursor(position: int) -> str:
    """Make the cursor of a position; ticks rise with positions."""
    return f"{638_000_000_000_000_000 + position:019d}{position:011d}" if position else ""


def refused(code: grpc.StatusCode, reason: str = "", **metadata: str) -> pb.AppendError:
    """Make a status as the store does."""
    error = pb.AppendError(code=code.value[0], message=reason.lower() or code.name)
    if reason:
        error.details.add().Pack(ErrorInfo(domain="kudurru", reason=reason, metadata=metadata))
    return error


async def fail(context: Context, error: pb.AppendError) -> Never:
    """End a call with a status."""
    details: list[AnyMessage] = list(error.details)
    status = Status(code=error.code, message=error.message, details=details)
    code = next(code for code in grpc.StatusCode if code.value[0] == error.code)
    await context.abort(code, error.message, (("grpc-status-details-bin", status.SerializeToString()),))


class FakeServer(EventStoreServiceServicer):
    """The server; `target` says where it is."""

    def __init__(self) -> None:
        self.target = ""
        self.recorded: list[event_pb2.RecordedEvent] = []
        self._positions: dict[str, int] = {}
        self.grown = asyncio.Event()
        self.on_append: deque[OnAppend] = deque()
        self.on_append_stream: deque[OnAppendStream] = deque()
        self.on_read: deque[OnRead] = deque()
        self.on_subscribe: deque[OnSubscribe] = deque()
        self.on_head: deque[pb.AppendError] = deque()
        self.messages: list[pb.AppendStreamRequest] = []
        self.reads: list[pb.ReadRequest] = []
        self.subscribes: list[pb.SubscribeRequest] = []
        self.cancelled = asyncio.Event()
        self.tags_page_size = 2
        self._server = grpc.aio.server()

    async def start(self, address: str = "127.0.0.1:0") -> None:
        """Listen."""
        self._server = grpc.aio.server()
        add_EventStoreServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        self.target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Go away at once; what is recorded stays."""
        await self._server.stop(None)

    def record(self, *events: Event) -> None:
        """Record events as another client would."""
        self._record([event_message(event) for event in events])

    @property
    def ids(self) -> list[str]:
        """The ids of the recorded events."""
        return list(self._positions)

    def forget(self) -> None:
        """Be empty again."""
        self.recorded.clear()
        self._positions.clear()

    def _record(self, events: list[event_pb2.Event]) -> pb.AppendResponse:
        for event in events:
            position = len(self.recorded) + 1
            recorded = event_pb2.RecordedEvent(event=event, sortable_unique_id=cursor(position), position=position)
            recorded.recorded_at.FromNanoseconds(1_700_000_000_000_000_000 + position * 100)
            self.recorded.append(recorded)
            self._positions[event.event_id] = position
        self.grown.set()
        self.grown = asyncio.Event()
        return self._response([event.event_id for event in events], committed=False)

    def _response(self, ids: list[str], *, committed: bool) -> pb.AppendResponse:
        positions = [self._positions[event_id] for event_id in ids]
        return pb.AppendResponse(
            sortable_unique_ids=map(cursor, positions),
            event_ids=ids,
            last_position=positions[-1],
            already_committed=committed,
        )

    def append(self, request: pb.AppendRequest) -> pb.AppendOutcome:
        """Judge and record, as the store does."""
        ids = [event.event_id for event in request.events]
        if not ids:
            return pb.AppendOutcome(error=refused(grpc.StatusCode.INVALID_ARGUMENT, "NO_EVENTS"))
        if known := set(ids) & self._positions.keys():
            contents = {event_id: self.recorded[self._positions[event_id] - 1].event for event_id in known}
            if len(known) == len(ids) and all(contents[event.event_id] == event for event in request.events):
                return pb.AppendOutcome(appended=self._response(ids, committed=True))
            error = refused(grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_EXISTS", event_id=min(known), position="1")
            return pb.AppendOutcome(error=error)
        for index, condition in enumerate(request.conditions):
            for event in self.matching(condition.fail_if_events_match, condition.after):
                error = refused(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "CONDITION_FAILED",
                    condition_index=str(index),
                    sortable_unique_id=event.sortable_unique_id,
                    position=str(event.position),
                    event_id=event.event.event_id,
                    event_type=event.event.event_type,
                )
                return pb.AppendOutcome(error=error)
        return pb.AppendOutcome(appended=self._record(list(request.events)))

    def matching(self, query: event_pb2.Query, after: str = "") -> list[event_pb2.RecordedEvent]:
        """Return what matches after a cursor."""

        def matches(event: event_pb2.Event) -> bool:
            return not query.items or any(
                (not item.event_types or event.event_type in item.event_types) and set(item.tags) <= set(event.tags)
                for item in query.items
            )

        return [event for event in self.recorded if event.sortable_unique_id > after and matches(event.event)]

    async def decide(self, request: pb.AppendRequest) -> pb.AppendOutcome:
        """Let the next script decide, or the store."""
        if not self.on_append:
            return self.append(request)
        outcome = self.on_append.popleft()(request)
        return outcome if isinstance(outcome, pb.AppendOutcome) else await outcome

    async def Append(self, request: pb.AppendRequest, context: Context) -> pb.AppendResponse:  # noqa: N802
        outcome = await self.decide(request)
        if outcome.HasField("error"):
            await fail(context, outcome.error)
        return outcome.appended

    async def AppendStream(  # noqa: N802
        self, request_iterator: Appends, context: Context
    ) -> AsyncIterator[pb.AppendStreamResponse]:
        if self.on_append_stream:
            async for response in self.on_append_stream.popleft()(request_iterator, context):
                yield response
            return
        async for message in request_iterator:
            self.messages.append(message)
            yield pb.AppendStreamResponse(outcomes=[await self.decide(one) for one in message.appends])

    async def Read(self, request: pb.ReadRequest, context: Context) -> AsyncIterator[pb.ReadResponse]:  # noqa: N802
        self.reads.append(request)
        if self.on_read:
            async for response in self.on_read.popleft()(request, context):
                yield response
            return
        for response in self.read(request):
            yield response

    def read(self, request: pb.ReadRequest) -> list[pb.ReadResponse]:
        """Answer a read, two events to a message."""
        until = request.until or cursor(len(self.recorded))
        events = [one for one in self.matching(request.query, request.after) if one.sortable_unique_id <= until]
        head = min(until, cursor(len(self.recorded)))
        if request.backwards:
            events.reverse()
        if 0 < request.limit < len(events):
            events = events[: request.limit]
            head = head if request.backwards else events[-1].sortable_unique_id
        pages = [pb.ReadResponse(events=events[i : i + 2]) for i in range(0, len(events), 2)]
        return [*pages, pb.ReadResponse(head=head)]

    async def Subscribe(  # noqa: N802
        self, request: pb.SubscribeRequest, context: Context
    ) -> AsyncIterator[pb.SubscribeResponse]:
        self.subscribes.append(request)
        try:
            script = self.on_subscribe.popleft() if self.on_subscribe else self.subscribe
            async for response in script(request, context):
                yield response
        finally:
            self.cancelled.set()

    async def subscribe(self, request: pb.SubscribeRequest, _: Context) -> AsyncIterator[pb.SubscribeResponse]:
        """Answer a subscription: history, a signal, then what is recorded."""
        done = len(self.recorded) if request.from_now else int(request.after[19:] or 0)
        caught_up = False
        while True:
            grown = self.grown
            events = self.matching(request.query, cursor(done))
            done = len(self.recorded)
            if events:
                yield pb.SubscribeResponse(events=events)
            if not caught_up:
                caught_up = True
                yield pb.SubscribeResponse(caught_up=pb.CaughtUp(sortable_unique_id=cursor(done)))
            if done == len(self.recorded):
                await grown.wait()

    async def GetEvent(self, request: pb.GetEventRequest, context: Context) -> pb.GetEventResponse:  # noqa: N802
        if request.event_id not in self._positions:
            await fail(context, refused(grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND"))
        return pb.GetEventResponse(event=self.recorded[self._positions[request.event_id] - 1])

    async def GetHead(self, _: pb.GetHeadRequest, context: Context) -> pb.GetHeadResponse:  # noqa: N802
        if self.on_head:
            await fail(context, self.on_head.popleft())
        position = len(self.recorded)
        return pb.GetHeadResponse(sortable_unique_id=cursor(position), position=position)

    async def GetTag(self, request: pb.GetTagRequest, _: Context) -> pb.GetTagResponse:  # noqa: N802
        found = self.matching(event_pb2.Query(items=[event_pb2.QueryItem(tags=[request.tag])]))
        if not found:
            return pb.GetTagResponse(exists=False, count=0 if request.with_count else None)
        return pb.GetTagResponse(
            exists=True,
            first_sortable_unique_id=found[0].sortable_unique_id,
            last_sortable_unique_id=found[-1].sortable_unique_id,
            count=len(found) if request.with_count else None,
        )

    async def ListTags(self, request: pb.ListTagsRequest, _: Context) -> pb.ListTagsResponse:  # noqa: N802
        tags = sorted({tag for event in self.recorded for tag in event.event.tags})
        if request.HasField("group"):
            tags = [tag for tag in tags if (tag.partition(":")[0] if ":" in tag else "") == request.group]
        begin = int(request.page_token or 0)
        end = begin + self.tags_page_size
        return pb.ListTagsResponse(tags=tags[begin:end], next_page_token=str(end) if end < len(tags) else "")
