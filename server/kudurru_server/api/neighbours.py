"""Hands appends to another node, through the AppendStream that it offers everybody."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import grpc

from kudurru_server._proto import event_pb2
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.status import from_append_error
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import StorageUnavailableError
from kudurru_server.frame import varint
from kudurru_server.model import Append, Appended, Condition, Leader

HANDED_TO = "kudurru-handed-to"
"""Metadata of a call whose appends come from another node, and are not handed on: the name of the node they are for."""

_METHOD = "/kudurru.v1.EventStoreService/AppendStream"
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_MESSAGE_APPENDS = 1024
_MESSAGE_BYTES = 2 << 20  # half of what a server takes by default; a larger append is a message of its own


class Channels:
    """Channels to other nodes. Use `open_channels`."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def forward(self, leader: Leader, appends: Sequence[Append]) -> list[Outcome]:
        """See `engine.leadership.Forward`."""
        channel = self._channels.get(leader.address)
        if channel is None:
            channel = self._channels[leader.address] = grpc.aio.insecure_channel(leader.address, options=_OPTIONS)
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_METHOD)
        outcomes: list[Outcome] = []
        try:
            async for answer in method(_messages(appends), metadata=((HANDED_TO, leader.name),)):
                outcomes += map(_decode, pb.AppendStreamResponse.FromString(answer).outcomes)
        except grpc.aio.AioRpcError as error:
            lost = StorageUnavailableError(f"the leader at {leader.address} did not answer ({error.code().name})")
            outcomes += [lost] * (len(appends) - len(outcomes))
        return outcomes

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()


@asynccontextmanager
async def open_channels() -> AsyncIterator[Channels]:
    """Yield channels that are made when they are first used."""
    channels = Channels()
    try:
        yield channels
    finally:
        await channels.close()


def _messages(appends: Sequence[Append]) -> Iterator[bytes]:
    message: list[bytes] = []
    size = 0
    for append in appends:
        if message and (size + append.size_bytes > _MESSAGE_BYTES or len(message) == _MESSAGE_APPENDS):
            yield b"".join(message)
            message, size = [], 0
        body = _encode(append)
        message.append(b"\x0a" + varint(len(body)) + body)
        size += append.size_bytes
    yield b"".join(message)


def _encode(append: Append) -> bytes:
    """Return the AppendRequest: the events are encoded already."""
    conditions = pb.AppendRequest(conditions=map(_condition, append.conditions)).SerializeToString()
    return b"".join((*(b"\x0a" + varint(len(event)) + event for event in append.encoded), conditions))


def _condition(condition: Condition) -> event_pb2.AppendCondition:
    items = [event_pb2.QueryItem(event_types=item.event_types, tags=item.tags) for item in condition.query.items]
    return event_pb2.AppendCondition(fail_if_events_match=event_pb2.Query(items=items), after=str(condition.after))


def _decode(outcome: pb.AppendOutcome) -> Outcome:
    if outcome.WhichOneof("result") != "appended":
        return from_append_error(outcome.error)
    answer = outcome.appended
    count = len(answer.event_ids)
    ticks = int(answer.sortable_unique_ids[0][:19])
    return Appended(answer.last_position - count + 1, count, ticks, answer.already_committed)
