"""DynamoDB with its bad days: a proxy in front of DynamoDB Local that delays, loses, repeats and refuses by chance."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp import web

from tests.aws import batches, wire
from tests.aws.components import Component
from tests.aws.faults import WRITES, Fault, Faults
from tests.aws.index_lag import IndexLag
from tests.aws.wire import Answer, Call

__all__ = ["Fault", "FaultProxy", "Faults", "fault_proxy"]

_HOST = "127.0.0.1"
_UPSTREAM_SECONDS = 60.0
_KEEPALIVE_SECONDS = 10.0
"""Well below the 30 seconds after which DynamoDB Local closes a connection, which would be a fault without a name."""
_LONGEST_BODY_BYTES = 32 << 20
_OF_ONE_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "x-amz-crc32", "host"})


class FaultProxy:
    """A running proxy. Use `fault_proxy`."""

    def __init__(self, upstream: Component, session: aiohttp.ClientSession, faults: Faults, seed: int) -> None:
        self.faults = faults
        """May be set at any time; `Faults()` is calm. What is late already still comes."""
        self.counts: Counter[Fault] = Counter()
        """How often each fault happened; of the index lag, how many items were hidden."""
        self.requests: Counter[str] = Counter()
        """How many requests came, by operation."""
        self.endpoint = ""
        self.site: web.TCPSite | None = None
        self._upstream = upstream
        self._session = session
        self._chance = random.Random(seed)
        self._index = IndexLag(self._send, self._chance)
        self._late: set[asyncio.Task[None]] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What makes an AWS client use it."""
        return {**self._upstream.environment, "AWS_ENDPOINT_URL_DYNAMODB": self.endpoint}

    async def settled(self) -> None:
        """Wait until everything that was late has come."""
        while self._late:
            await asyncio.wait(self._late)

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Refuse connections within the block, and close those there are."""
        assert self.site is not None
        runner, port = self.site._runner, int(self.endpoint.rpartition(":")[2])  # noqa: SLF001
        calm, self.faults = self.faults, Faults(lost_request=1.0)
        await self.site.stop()
        try:
            yield
        finally:
            self.faults = calm
            self.site = web.TCPSite(runner, _HOST, port)
            await self.site.start()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request, or close its connection."""
        call = Call(_passed_on(request.headers), await request.read())
        self.requests[call.operation] += 1
        if self._happens(Fault.DELAY, call):
            await asyncio.sleep(self._chance.uniform(0, self.faults.longest_delay_seconds))
        try:
            answer = self._refusal(call) or await self._answer(call)
        except (_LostError, aiohttp.ClientError, TimeoutError):  # the last two if DynamoDB Local has ended
            answer = None
        if answer is not None:
            return answer.response()
        if request.transport is not None:
            if self._chance.random() < 0.5:  # the client sees an end, or a reset
                request.transport.close()
            else:
                request.transport.abort()
        return web.Response()

    def _refusal(self, call: Call) -> Answer | None:
        """Return the answer to a request of which nothing is done, if that is to happen."""
        if self._happens(Fault.LOST_REQUEST, call):
            raise _LostError
        if self._happens(Fault.LATE_REQUEST, call):
            self._send_late(call)
            raise _LostError
        if self._happens(Fault.THROTTLED, call):
            return wire.throttled(call, self._chance)
        if self._happens(Fault.CONFLICT, call):
            return wire.conflict(call, self._chance)
        if self._happens(Fault.DENIED, call):
            return wire.denied(self.faults.denied_code)
        return wire.internal_error() if self._happens(Fault.ERROR_BEFORE, call) else None

    async def _answer(self, call: Call) -> Answer:
        """Do it, and return what it is answered with."""
        answer = await self._do(call)
        if self._happens(Fault.LATE_DUPLICATE, call):
            self._send_late(call)
        if self._happens(Fault.LOST_RESPONSE, call):
            raise _LostError
        return wire.internal_error() if self._happens(Fault.ERROR_AFTER, call) else answer

    async def _do(self, call: Call) -> Answer:
        if self._chance.random() < self.faults.rate(Fault.PARTIAL, call.operation):
            parts = batches.split(call, self._chance)
            if parts is not None:
                self.counts[Fault.PARTIAL] += 1
                some, left = parts
                answer = await self._forward(some)
                return batches.with_left(answer, call, left) if answer.status < 400 else answer
        return await self._forward(call)

    async def _forward(self, call: Call) -> Answer:
        """Send a call on, as the index lag wants it."""
        await self._index.learn(call)
        if call.operation in WRITES:
            answered = self._index.note(call)
            answer = await self._send(call)
            answered(answer)
            return answer
        lag_seconds = self.faults.index_lag_seconds
        if call.operation != "Query" or not any(lag_seconds) or "IndexName" not in call.json():
            return await self._send(call)
        with_keys, unasked = self._index.with_keys(call)
        answer = await self._send(with_keys)
        if answer.status >= 400:
            return answer
        shown, hidden = self._index.without_new(call, answer, unasked, lag_seconds)
        if hidden:
            self.counts[Fault.INDEX_LAG] += hidden
        return shown

    async def _send(self, call: Call) -> Answer:
        async with self._session.post(self._upstream.endpoint, headers=call.headers, data=call.body) as response:
            return Answer(response.status, _passed_on(response.headers), await response.read())

    def _send_late(self, call: Call) -> None:
        delay_seconds = self._chance.uniform(0, self.faults.longest_late_seconds)

        async def send() -> None:
            await asyncio.sleep(delay_seconds)
            with suppress(aiohttp.ClientError, TimeoutError):  # there is nobody to tell
                await self._forward(call)

        task = asyncio.create_task(send())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _happens(self, fault: Fault, call: Call) -> bool:
        rate = self.faults.rate(fault, call.operation)
        happens = rate > 0 and self._chance.random() < rate
        if happens:
            self.counts[fault] += 1
        return happens

    async def drop_late(self) -> None:
        """Give up what is late."""
        tasks = list(self._late)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _LostError(Exception):
    """The client gets no answer."""


@asynccontextmanager
async def fault_proxy(upstream: Component, seed: int, faults: Faults | None = None) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of a DynamoDB until the end of the block, on a free port; calm unless told otherwise."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
    timeout = aiohttp.ClientTimeout(total=_UPSTREAM_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        proxy = FaultProxy(upstream, session, faults or Faults(), seed)
        application = web.Application(client_max_size=_LONGEST_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            proxy.site = web.TCPSite(runner, _HOST, 0)
            await proxy.site.start()
            host, port = runner.addresses[0][:2]
            proxy.endpoint = f"http://{host}:{port}"
            yield proxy
        finally:
            await runner.cleanup()
            await proxy.drop_late()


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() not in _OF_ONE_HOP}
