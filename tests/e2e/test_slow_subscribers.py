"""Subscribers that do not read: they cost little memory, slow nobody down, and miss nothing when they read again."""

import asyncio
import random
import time
from pathlib import Path

from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import CALL_SECONDS, Client, Message, Subscription, connect, event
from tests.e2e.load import until
from tests.server_process import run_server

_EVENT_BYTES = 64 * 1024
_EVENTS_PER_APPEND = 32
_HISTORY_BYTES = 104 << 20
_STALLED = 8
_BUDGET_BYTES = 16 << 20
_SMALL_TAIL = ("--tail-bytes", str(1 << 20))
_GENERATION_BYTES = 16 << 20


async def _append_bytes(client: Client, rng: random.Random, size: int) -> float:
    """Append so many bytes of events; return the seconds it took."""
    batches = [
        [event("Large", f"tag:{number}", data=rng.randbytes(_EVENT_BYTES)) for number in range(_EVENTS_PER_APPEND)]
        for _ in range(size // (_EVENT_BYTES * _EVENTS_PER_APPEND))
    ]
    started = time.monotonic()
    for batch in batches:
        await client.record(*batch)
    return time.monotonic() - started


async def test_stalled_subscribers_cost_bounded_memory_and_slow_nobody(tmp_path: Path, rng: random.Random) -> None:
    async with run_server(tmp_path, *_SMALL_TAIL) as server, connect(server.address) as client:
        await _append_bytes(client, rng, _HISTORY_BYTES)
        alone = await _append_bytes(client, rng, _HISTORY_BYTES // 2)
        before = server.memory_bytes()
        calls = []
        async with connect(server.address) as idle:
            for number in range(_STALLED):
                # Half of them stall in history, the others live.
                stalled = pb.SubscribeRequest(from_now=True) if number % 2 else pb.SubscribeRequest()
                calls.append(idle.subscribe(stalled))
            for call in calls[::2]:
                await call.read()
            beside = await _append_bytes(client, rng, _HISTORY_BYTES // 2)
            grown = server.memory_bytes() - before
            print(f"{grown / _STALLED / 2**20:.1f} MiB each; {alone:.2f} s alone, {beside:.2f} s beside them")  # noqa: T201
            assert grown < _STALLED * _BUDGET_BYTES, f"{grown >> 20} MiB for {_STALLED} stalled subscribers"
            assert beside < 3 * alone + 1, f"appends took {beside} s beside stalled subscribers, {alone} s without"
            started = time.monotonic()
            frames, _ = await client.read(pb.ReadRequest(limit=1000))
            assert len(frames) == 1000
            assert time.monotonic() - started < 10


async def test_a_subscriber_that_fell_behind_is_told_and_gets_every_event_once(
    tmp_path: Path, rng: random.Random
) -> None:
    async with run_server(tmp_path, *_SMALL_TAIL) as server, connect(server.address) as client:
        await _append_bytes(client, rng, 2 << 20)
        async with connect(server.address) as slow:
            call = slow.subscribe(pb.SubscribeRequest())
            messages: list[Message] = []
            await _read_until(call, messages, "caught_up")
            await _append_bytes(client, rng, 4 * _GENERATION_BYTES)
            await until(lambda: len(list((tmp_path / "data" / "index").glob("*.run"))) > 2, "generation to drop")
            await _read_until(call, messages, "fell_behind")
            await _read_until(call, messages, "caught_up")
            await client.record(event("Last"))
            await _read_until(call, messages, None)
            call.cancel()
        frames, _ = await client.read()
        assert [frame for message in messages for frame in message.frames] == frames


async def _read_until(call: Subscription, messages: list[Message], signal: str | None) -> None:
    """Read until a signal comes, or with None until the next events come."""
    async with asyncio.timeout(CALL_SECONDS):
        async for message in call:
            messages.append(message)
            came = pb.SubscribeResponse.FromString(message.rest).WhichOneof("signal")
            if came == signal if signal else message.frames:
                return
    raise AssertionError(f"the stream ended without {signal}")
