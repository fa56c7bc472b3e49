"""A client on the generated stubs that keeps the bytes it receives: answers are compared as they were sent."""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias, cast

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb
from kudurru._proto.event_store_service_pb2_grpc import EventStoreServiceStub

SERVICE = "kudurru.v1.EventStoreService"
CALL_SECONDS = 30.0
"""Only bounds a test whose server hangs."""
UNKNOWN_OUTCOMES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20)]
_LENGTH_DELIMITED = 2
_EVENTS_FIELD = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status that is not OK, with the reason from its details (empty without details)."""

    code: grpc.StatusCode
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a Read or a subscription: the events as they were sent, and the rest."""

    frames: list[bytes]
    rest: bytes


Subscription: TypeAlias = "grpc.aio.UnaryStreamCall[pb.SubscribeRequest, Message]"


class Client:
    """One connection. Use `connect`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = EventStoreServiceStub(channel)
        self._read = channel.unary_stream(f"/{SERVICE}/Read", pb.ReadRequest.SerializeToString, split)
        self._subscribe = channel.unary_stream(f"/{SERVICE}/Subscribe", pb.SubscribeRequest.SerializeToString, split)

    async def append(
        self, request: pb.AppendRequest, timeout_seconds: float = CALL_SECONDS
    ) -> pb.AppendResponse | Refusal:
        """Append; return the answer, or the status it ended with."""
        try:
            return await self.stub.Append(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            return refusal(error)

    async def record(self, *events: event_pb2.Event) -> pb.AppendResponse:
        """Append without conditions, which must succeed."""
        return await self.stub.Append(pb.AppendRequest(events=events), timeout=CALL_SECONDS)

    async def read(self, request: pb.ReadRequest | None = None) -> tuple[list[bytes], str]:
        """Return the encoded recorded events and the head of a read."""
        frames: list[bytes] = []
        head = ""
        async for message in self._read(request or pb.ReadRequest(), timeout=CALL_SECONDS):
            frames += message.frames
            head = pb.ReadResponse.FromString(message.rest).head
        return frames, head

    def subscribe(self, request: pb.SubscribeRequest) -> "Subscription":
        """Open a subscription."""
        return cast("Subscription", self._subscribe(request))

    async def head(self) -> pb.GetHeadResponse:
        """Return the head."""
        return await self.stub.GetHead(pb.GetHeadRequest(), timeout=CALL_SECONDS)


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Client]:
    """Connect to a server that listens, over a connection that nothing else uses."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        await asyncio.wait_for(channel.channel_ready(), CALL_SECONDS)
        yield Client(channel)


def split(message: bytes) -> Message:
    """Split a message into the bytes of its events and everything else."""
    frames: list[bytes] = []
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        assert key & 7 == _LENGTH_DELIMITED, f"field {key >> 3} has wire type {key & 7}"
        length, at = _varint(message, at)
        if key >> 3 != _EVENTS_FIELD:
            return Message(frames, message[start:])
        frames.append(message[at : at + length])
        assert len(frames[-1]) == length, "the message ends inside an event"
        at += length
    return Message(frames, b"")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return number, at


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read the reason out of a status."""
    reason = ""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            reason = _reason(status_pb2.Status.FromString(value).details)
    return Refusal(error.code(), reason, error.details() or "")


def append_refusal(error: pb.AppendError) -> Refusal:
    """Read the reason out of an outcome of AppendStream."""
    (code,) = (code for code in grpc.StatusCode if code.value[0] == error.code)
    return Refusal(code, _reason(error.details), error.message)


def _reason(details: Iterable[object]) -> str:
    for detail in details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):  # type: ignore[attr-defined]
            assert info.domain == "kudurru"
            return str(info.reason)
    return ""


def new_id() -> str:
    """Return a UUIDv7 of now."""
    number = time.time_ns() // 1_000_000 << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62
    return str(uuid.UUID(int=number | secrets.randbits(62)))


def event(event_type: str = "Happened", *tags: str, data: bytes = b"", **metadata: str) -> event_pb2.Event:
    """Make an event with a new id."""
    return event_pb2.Event(event_id=new_id(), event_type=event_type, tags=tags, data=data, metadata=metadata)


def query(*items: tuple[Sequence[str], Sequence[str]]) -> event_pb2.Query:
    """Make a query of items, each its event types and its tags."""
    return event_pb2.Query(items=[event_pb2.QueryItem(event_types=types, tags=tags) for types, tags in items])


def parsed(frames: Iterable[bytes]) -> list[event_pb2.RecordedEvent]:
    """Decode events."""
    return [event_pb2.RecordedEvent.FromString(frame) for frame in frames]
