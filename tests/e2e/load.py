"""Clients that append as fast as they are answered until the server is gone, and followers that resume."""

import asyncio
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import grpc
import grpc.aio
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import Client, Refusal, append_refusal, new_id, parsed, query, refusal
from tests.e2e.ledger import Ledger, append_request

BLOCK_BYTES = 16 * 1024
"""Of the embedded store: larger events and batches span blocks."""
_TYPES = 5
_TAGS = 40
_STREAM_AHEAD = 40
_POLL_SECONDS = 0.002

Make = Callable[[], pb.AppendRequest]
AppendStreamCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.AppendStreamRequest, pb.AppendStreamResponse]"


class Workload:
    """Makes appends of all kinds: small and large, conditional or not, with ids of now and of no time."""

    def __init__(self, rng: random.Random, ledger: Ledger) -> None:
        self._rng = rng
        self._ledger = ledger

    def __call__(self) -> pb.AppendRequest:
        """Make the next append."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.03:
            events = [self._event(rng.randint(BLOCK_BYTES, 16 * BLOCK_BYTES)) for _ in range(rng.randint(1, 3))]
        elif kind < 0.1:
            events = [self._event(rng.randint(0, 500)) for _ in range(rng.randint(50, 300))]
        else:
            events = [self._event(rng.randint(0, 200)) for _ in range(rng.randint(1, 5))]
        return append_request(events, self._conditions() if rng.random() < 0.4 else ())

    def _event(self, size: int) -> event_pb2.Event:
        rng = self._rng
        return event_pb2.Event(
            event_id=str(uuid.uuid4()) if rng.random() < 0.05 else new_id(),
            event_type=f"Type{rng.randrange(_TYPES)}",
            tags=[f"tag:{number}" for number in rng.sample(range(_TAGS), rng.randint(0, 3))],
            data=rng.randbytes(size),
            content_type="application/octet-stream" if size % 2 else "",
        )

    def _conditions(self) -> list[event_pb2.AppendCondition]:
        rng = self._rng
        conditions = []
        for _ in range(rng.randint(1, 2)):
            if rng.random() < 0.2:  # the whole history, of a tag that nobody has
                conditions.append(event_pb2.AppendCondition(fail_if_events_match=query(((), [f"new:{new_id()}"]))))
                continue
            types = [f"Type{number}" for number in rng.sample(range(_TYPES), rng.randint(0, 2))]
            tags = [f"tag:{number}" for number in rng.sample(range(_TAGS), rng.randint(0 if types else 1, 2))]
            conditions.append(
                event_pb2.AppendCondition(fail_if_events_match=query((types, tags)), after=self._recent_cursor())
            )
        return conditions

    def _recent_cursor(self) -> str:
        recent = self._ledger.acknowledged[-50:]
        return self._rng.choice(recent)[1].sortable_unique_ids[-1] if recent else ""


async def append_one_by_one(client: Client, ledger: Ledger, make: Make) -> None:
    """Append over unary calls until an outcome is unknown."""
    while True:
        request = make()
        answer = await client.append(request)
        ledger.note(request, answer)
        if isinstance(answer, Refusal) and answer.code is grpc.StatusCode.UNAVAILABLE:
            return


async def append_by_stream(client: Client, ledger: Ledger, make: Make, rng: random.Random) -> None:
    """Append over one AppendStream, reading behind the writing, until it ends."""
    call = client.stub.AppendStream()
    waiting: deque[pb.AppendRequest] = deque()
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            message = pb.AppendStreamRequest(appends=[make() for _ in range(rng.randint(1, 20))])
            waiting.extend(message.appends)
            await call.write(message)
            while len(waiting) > _STREAM_AHEAD:
                response = await call.read()
                if not isinstance(response, pb.AppendStreamResponse):
                    break
                note_outcomes(response, waiting, ledger)
    await ended(call, waiting, ledger)
    ledger.unanswered += waiting


async def write_unless_blocked(
    call: AppendStreamCall, message: pb.AppendStreamRequest, timeout_seconds: float = 1.0
) -> bool:
    """Write a message; False if the server does not take it, which then goes on in the background.

    Raises:
        AioRpcError: the call has ended.
    """
    writing = asyncio.ensure_future(call.write(message))
    done, _ = await asyncio.wait([writing], timeout=timeout_seconds)  # a write that is cancelled cancels its call
    if done:
        await writing
    return bool(done)


async def ended(call: AppendStreamCall, waiting: deque[pb.AppendRequest], ledger: Ledger) -> Refusal:
    """Read what an AppendStream that ends still answers; return the status it ends with."""
    try:
        while isinstance(response := await call.read(), pb.AppendStreamResponse):
            note_outcomes(response, waiting, ledger)
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    except asyncio.InvalidStateError:
        pass
    return Refusal(await call.code(), "", await call.details())


def note_outcomes(response: pb.AppendStreamResponse, waiting: deque[pb.AppendRequest], ledger: Ledger) -> None:
    """Take down the outcomes of the appends that wait longest."""
    for outcome in response.outcomes:
        which = outcome.WhichOneof("result")
        assert which is not None, "an outcome says nothing"
        ledger.note(waiting.popleft(), outcome.appended if which == "appended" else append_refusal(outcome.error))


class Follower:
    """A subscriber that lives through the servers: it resumes from the last event it was sent."""

    def __init__(self, query: event_pb2.Query | None = None) -> None:
        self.query = query or event_pb2.Query()
        self.frames: list[bytes] = []
        self.ending: Refusal | None = None

    @property
    def cursor(self) -> str:
        """Where it resumes."""
        return parsed(self.frames[-1:])[0].sortable_unique_id if self.frames else ""

    async def follow(self, client: Client) -> None:
        """Follow until the stream ends."""
        try:
            async for message in client.subscribe(pb.SubscribeRequest(query=self.query, after=self.cursor)):
                self.frames += message.frames
        except grpc.aio.AioRpcError as error:
            self.ending = refusal(error)

    async def catch_up(self, client: Client) -> None:
        """Follow until it has caught up with the head."""
        call = client.subscribe(pb.SubscribeRequest(query=self.query, after=self.cursor))
        async for message in call:
            self.frames += message.frames
            if pb.SubscribeResponse.FromString(message.rest).HasField("caught_up"):
                break
        call.cancel()


async def load(client: Client, ledger: Ledger, rng: random.Random, *, unary: int = 12, streams: int = 3) -> None:
    """Append over many calls at once until the server is gone."""
    make = Workload(rng, ledger)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(unary):
            tasks.create_task(append_one_by_one(client, ledger, make))
        for _ in range(streams):
            tasks.create_task(append_by_stream(client, ledger, make, rng))


async def until(
    reached: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, timeout_seconds: float = 30.0
) -> None:
    """Ask again and again, of another process, whether something has become true.

    Raises:
        AssertionError: it did not become true in time.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                answer = reached()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"after {timeout_seconds} s there is still no {what}") from None
