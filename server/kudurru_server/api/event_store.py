"""The EventStoreService, on an engine."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import accumulate, takewhile

import grpc

from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api import convert, rpc
from kudurru_server.api.append_stream import AppendStream
from kudurru_server.api.convert import Converter
from kudurru_server.api.observe import ObservedMethod
from kudurru_server.api.outcome import encode_appended
from kudurru_server.api.rpc import Context
from kudurru_server.engine.engine import Engine
from kudurru_server.engine.subscription import CaughtUp, Checkpoint, FellBehind
from kudurru_server.errors import InvalidRequestError, KudurruError
from kudurru_server.metrics import Metrics
from kudurru_server.model import Batch

SERVICE = pb.DESCRIPTOR.services_by_name["EventStoreService"].full_name
_DEFAULT_HEARTBEAT_SECONDS = 5.0
_SHORTEST_HEARTBEAT_SECONDS = 0.01
_DEFAULT_PAGE = 1000
_LARGEST_PAGE = 10_000
_PAGE_BYTES = 1 << 20


class EventStoreApi:
    """The methods of the service."""

    def __init__(self, engine: Engine, converter: Converter, metrics: Metrics) -> None:
        self._engine = engine
        self._converter = converter
        self._metrics = metrics
        self._sent_by_read = metrics.events_sent.labels("Read")
        self._sent_by_subscribe = metrics.events_sent.labels("Subscribe")

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all methods."""

        def method(name: str) -> ObservedMethod:
            return ObservedMethod(name, self._metrics)

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Append": rpc.unary(method("Append"), pb.AppendRequest, self._append),
                "AppendStream": rpc.both_streams(method("AppendStream"), self._append_stream),
                "Read": rpc.server_stream(method("Read"), pb.ReadRequest, self._read),
                "Subscribe": rpc.server_stream(method("Subscribe"), pb.SubscribeRequest, self._subscribe),
                "GetEvent": rpc.unary(method("GetEvent"), pb.GetEventRequest, self._get_event),
                "GetHead": rpc.unary(method("GetHead"), pb.GetHeadRequest, self._get_head),
                "GetTag": rpc.unary(method("GetTag"), pb.GetTagRequest, self._get_tag),
                "ListTags": rpc.unary(method("ListTags"), pb.ListTagsRequest, self._list_tags),
            },
        )

    async def _append(self, request: pb.AppendRequest, _: Context) -> bytes:
        append = self._converter.append(request)
        (outcome,) = await self._engine.append([append])
        if isinstance(outcome, KudurruError):
            raise outcome
        return encode_appended(append, outcome)

    async def _append_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await AppendStream(self._engine, self._converter, context).serve(requests)

    async def _read(self, request: pb.ReadRequest, context: Context) -> None:
        query = self._converter.query(request.query)
        after = convert.cursor(request.after, "after")
        until = convert.cursor(request.until, "until") if request.until else None
        await self._reach(request.at_least, context)
        span, head = await self._engine.span(after, until, backwards=request.backwards)
        room = request.limit
        async with aclosing(self._engine.read(query, span, request.limit)) as batches:
            async for batch in batches:
                room -= batch.count
                self._sent_by_read.inc(batch.count)
                full = bool(request.limit) and not room
                if full and not request.backwards:
                    head = await self._engine.cursor_at(batch.reached)
                if full or (batch.reached <= span.after + 1 if request.backwards else batch.reached >= span.until):
                    await context.write(batch.frames + pb.ReadResponse(head=str(head)).SerializeToString())
                    return
                if batch.count:
                    await context.write(batch.frames)
        await context.write(pb.ReadResponse(head=str(head)).SerializeToString())

    async def _subscribe(self, request: pb.SubscribeRequest, context: Context) -> None:
        query = self._converter.query(request.query)
        after = None if request.from_now else convert.cursor(request.after, "after")
        heartbeat_seconds = _heartbeat(request)
        async with aclosing(await self._engine.subscribe(query, after, heartbeat_seconds)) as messages:
            async for message in messages:
                if isinstance(message, Batch):
                    await context.write(message.frames)
                    self._sent_by_subscribe.inc(message.count)
                else:
                    await context.write(_news(message))

    async def _get_event(self, request: pb.GetEventRequest, context: Context) -> bytes:
        event_id = convert.event_id(request.event_id)
        await self._reach(request.at_least, context)
        return await self._engine.event(event_id)  # a frame has the tag of field 1, which is `event` here

    async def _get_head(self, _: pb.GetHeadRequest, __: Context) -> bytes:
        head = self._engine.head
        return pb.GetHeadResponse(sortable_unique_id=str(head), position=head.position).SerializeToString()

    async def _get_tag(self, request: pb.GetTagRequest, context: Context) -> bytes:
        tag = self._converter.tag(request.tag)
        await self._reach(request.at_least, context)
        found = await self._engine.tag(tag, with_count=request.with_count)
        if found is None:
            return pb.GetTagResponse(count=0 if request.with_count else None).SerializeToString()
        first, last, count = found
        return pb.GetTagResponse(
            exists=True, first_sortable_unique_id=str(first), last_sortable_unique_id=str(last), count=count
        ).SerializeToString()

    async def _list_tags(self, request: pb.ListTagsRequest, context: Context) -> bytes:
        if request.page_size > _LARGEST_PAGE:
            raise InvalidRequestError("FIELD_INVALID", f"page_size is above {_LARGEST_PAGE}", field="page_size")
        size = request.page_size or _DEFAULT_PAGE
        group = request.group if request.HasField("group") else None
        after = self._converter.page_token(request.page_token, group)
        await self._reach(request.at_least, context)
        tags = await self._engine.tags(group, after, size + 1)
        fitting = sum(1 for _ in takewhile(_fits, accumulate(len(tag.encode()) for tag in tags[:size])))
        token = tags[fitting - 1] if len(tags) > fitting else ""
        return pb.ListTagsResponse(tags=tags[:fitting], next_page_token=token).SerializeToString()

    async def _reach(self, at_least: str, context: Context) -> None:
        if at_least:
            await self._engine.reach(convert.cursor(at_least, "at_least"), context.time_remaining())


def _fits(size_bytes: int) -> bool:
    return size_bytes <= _PAGE_BYTES


def _heartbeat(request: pb.SubscribeRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return _DEFAULT_HEARTBEAT_SECONDS
    seconds = request.heartbeat_interval.seconds + request.heartbeat_interval.nanos / 1e9
    if seconds < _SHORTEST_HEARTBEAT_SECONDS:
        raise InvalidRequestError(
            "FIELD_INVALID",
            f"heartbeat_interval is below {_SHORTEST_HEARTBEAT_SECONDS} s",
            field="heartbeat_interval",
        )
    return float(seconds)


def _news(message: CaughtUp | FellBehind | Checkpoint) -> bytes:
    cursor = str(message.cursor)
    if isinstance(message, CaughtUp):
        return pb.SubscribeResponse(caught_up=pb.CaughtUp(sortable_unique_id=cursor)).SerializeToString()
    if isinstance(message, FellBehind):
        return pb.SubscribeResponse(fell_behind=pb.FellBehind(sortable_unique_id=cursor)).SerializeToString()
    checkpoint = pb.Checkpoint(sortable_unique_id=cursor, head=str(message.head), lag=message.lag)
    return pb.SubscribeResponse(checkpoint=checkpoint).SerializeToString()
