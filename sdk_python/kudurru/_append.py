"""Append: safe to repeat, so it is repeated until the outcome is known or the time is up.

The rule about outcomes: a refusal speaks for its own attempt only. Once an attempt has ended without a known outcome,
only an acknowledgement or a condition conflict says what became of the append, because an earlier attempt may still
be recorded after a later one was refused; every other answer is then reported as OutcomeUnknownError.
"""

import asyncio
from collections.abc import Iterable

import grpc.aio

from kudurru._append_stream import MAX_MESSAGE_BYTES, AppendStream, Pending
from kudurru._backoff import Backoff
from kudurru._call import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS
from kudurru._errors import ConditionFailedError, KudurruError, OutcomeUnknownError, Reason, UnavailableError
from kudurru._model import Appended, Event, event_message
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb
from kudurru._query import Condition, Query
from kudurru._status import OUTCOME_UNKNOWN, Code, error_of, status_of

_SERVICE = "/kudurru.v1.EventStoreService/"
_APPENDS_TAG = b"\x0a"  # field 1 of AppendStreamRequest, length-delimited


class Appender:
    """Appends over one shared stream, except for appends too large for a stream message, which go alone."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stream = AppendStream(
            channel.stream_stream(_SERVICE + "AppendStream", None, pb.AppendStreamResponse.FromString)
        )
        self._append: grpc.aio.UnaryUnaryMultiCallable[bytes, pb.AppendResponse] = channel.unary_unary(
            _SERVICE + "Append", None, pb.AppendResponse.FromString
        )

    async def append(self, request: bytes, timeout_seconds: float) -> Appended:
        """Record the events of an encoded AppendRequest once.

        Raises:
            OutcomeUnknownError: They may be recorded, now or later.
            KudurruError: Nothing was written, and nothing will be.
        """
        pending = Pending(b"".join((_APPENDS_TAG, _varint(len(request)), request)))
        alone = len(pending.encoded) > MAX_MESSAGE_BYTES
        backoff: Backoff | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    outcome = await (self._alone(pending, request) if alone else self._stream.attempt(pending))
                    if outcome.HasField("appended"):
                        return _appended(outcome.appended)
                    _judge(pending, outcome.error)
                    backoff = backoff or Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
                    await asyncio.sleep(backoff.next_seconds())
        except TimeoutError:
            raise self._timed_out(pending, timeout_seconds) from None

    async def aclose(self) -> None:
        """End the stream."""
        await self._stream.aclose()

    async def _alone(self, pending: Pending, request: bytes) -> pb.AppendOutcome:
        pending.sent = True
        try:
            return pb.AppendOutcome(appended=await self._append(request))
        except grpc.aio.AioRpcError as error:
            return pb.AppendOutcome(error=status_of(error))

    def _timed_out(self, pending: Pending, timeout_seconds: float) -> KudurruError:
        last = pending.doubt or self._stream.failure
        message = f"no outcome within {timeout_seconds:g} s" + (f" ({last.message})" if last else "")
        reason = last.reason if last else Reason.UNSPECIFIED
        if pending.sent or pending.doubt:
            return OutcomeUnknownError(reason, message)
        return UnavailableError(reason, f"{message}; nothing was sent")


def _judge(pending: Pending, failed: pb.AppendError) -> None:
    """Raise what this attempt's error means for the append, or return if it is to be tried again."""
    error = error_of(failed.code, failed.message, failed.details)
    if isinstance(error, ConditionFailedError):
        raise error
    if failed.code in OUTCOME_UNKNOWN and pending.sent:
        pending.doubt = error
    if failed.code == Code.UNAVAILABLE:
        return
    if pending.doubt is not None:
        raise OutcomeUnknownError(error.reason, error.message, error.metadata) from pending.doubt
    raise error


def encode_append(events: Event | Iterable[Event], condition: Condition | Iterable[Condition] | None) -> bytes:
    """Return the AppendRequest, encoded once for all attempts."""
    events = (events,) if isinstance(events, Event) else events
    conditions = (condition,) if isinstance(condition, Condition) else condition or ()
    return pb.AppendRequest(
        events=[event_message(event) for event in events],
        conditions=[
            event_pb2.AppendCondition(fail_if_events_match=query_message(one.query), after=one.after)
            for one in conditions
        ],
    ).SerializeToString()


def query_message(query: Query | None) -> event_pb2.Query | None:
    """Return the query as it travels; unset means every event."""
    if query is None or not query.items:
        return None
    return event_pb2.Query(
        items=[event_pb2.QueryItem(event_types=item.event_types, tags=item.tags) for item in query.items]
    )


def _appended(response: pb.AppendResponse) -> Appended:
    return Appended(
        tuple(response.sortable_unique_ids),
        tuple(response.event_ids),
        response.last_position,
        response.already_committed,
    )


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
