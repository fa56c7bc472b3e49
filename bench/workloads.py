"""The workloads: each runs against one server and returns what it did and how long each call took."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from bench import requests

_EVENTS_TAG = 0x0A  # a message with events begins with field 1
SERVICE = "/kudurru.v1.EventStoreService/"


@dataclass(slots=True)
class Result:
    """What a workload did."""

    events: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency in milliseconds that `share` of the calls stayed below."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _closed_loop(at_once: int, seconds: float, call: Callable[[], Awaitable[int]]) -> Result:
    result = Result()
    begin = time.perf_counter()
    end = begin + seconds

    async def client() -> None:
        while (sent := time.perf_counter()) < end:
            done = await call()
            result.events += done
            result.latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(client() for _ in range(at_once)))
    result.seconds = time.perf_counter() - begin
    return result


async def unary_appends(channel: grpc.aio.Channel, seconds: float, *, events: int, at_once: int) -> Result:
    """Conditional appends of `events` events, `at_once` calls in flight."""
    append: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SERVICE + "Append")

    async def call() -> int:
        await append(requests.append(events))
        return events

    return await _closed_loop(at_once, seconds, call)


async def packed_appends(channel: grpc.aio.Channel, seconds: float, *, appends: int, window: int) -> Result:
    """One-event conditional appends, `appends` to a message, `window` messages of one AppendStream in flight."""
    start: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SERVICE + "AppendStream")
    stream = start()
    result = Result()
    sent: asyncio.Queue[float] = asyncio.Queue(window)
    begin = time.perf_counter()

    async def send() -> None:
        while (now := time.perf_counter()) < begin + seconds:
            await sent.put(now)
            await stream.write(requests.append_stream(appends))
        await stream.done_writing()

    sending = asyncio.ensure_future(send())
    answered = 0
    async for message in stream:
        answered += _outcomes(message)
        while answered >= appends:
            answered -= appends
            result.events += appends
            result.latencies.append(time.perf_counter() - sent.get_nowait())
    await sending
    result.seconds = time.perf_counter() - begin
    return result


def _outcomes(message: bytes) -> int:
    count = at = 0
    while at < len(message):
        at += 1
        length = shift = 0
        while message[at] & 0x80:
            length |= (message[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        at += 1 + (length | message[at] << shift)
        count += 1
    return count


async def read_all(channel: grpc.aio.Channel, events: int) -> Result:
    """Read the whole store once, counting bytes."""
    begin = time.perf_counter()
    size = 0
    read: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(SERVICE + "Read")
    async for message in read(b""):
        size += len(message)
    result = Result(events=events, seconds=time.perf_counter() - begin)
    if not size:
        raise RuntimeError("nothing was read")
    return result


async def tag_reads(channel: grpc.aio.Channel, seconds: float, *, at_once: int) -> Result:
    """Read the events of one random tag."""
    read: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(SERVICE + "Read")
    numbers = iter(range(1 << 60))

    async def call() -> int:
        async for _ in read(requests.read_tag(f"tag:{next(numbers) * 7919 % requests.TAGS:08d}")):
            pass
        return 1

    return await _closed_loop(at_once, seconds, call)


async def live(channel: grpc.aio.Channel, seconds: float, *, subscribers: int) -> Result:
    """Append one event every 10 ms; each subscriber's delivery counts, from before the append was sent."""
    append: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SERVICE + "Append")
    subscribe: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(SERVICE + "Subscribe")
    result = Result()
    sent = [0.0]
    appends = int(100 * seconds)

    async def follow() -> None:
        received = 0
        async for message in subscribe(b""):
            if message[0] == _EVENTS_TAG:
                received += 1
                result.events += 1
                result.latencies.append(time.perf_counter() - sent[0])
                if received == appends:
                    return

    async with asyncio.TaskGroup() as tasks:
        for _ in range(subscribers):
            tasks.create_task(follow())
        await asyncio.sleep(0.5)
        begin = time.perf_counter()
        for number in range(appends):
            await asyncio.sleep(max(0.0, begin + number / 100 - time.perf_counter()))
            sent[0] = time.perf_counter()
            await append(requests.append(1, conditional=False))
    result.seconds = time.perf_counter() - begin
    return result
