"""A service on the loopback address that answers with what a test has put down, and keeps what it was asked."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from aiohttp import web
from multidict import CIMultiDictProxy

JSON_TYPE = "application/x-amz-json-1.0"


@dataclass(frozen=True)
class Canned:
    """An answer."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    """It never comes."""
    drops: bool = False
    """The connection ends instead."""


@dataclass
class Service:
    """Gives its answers in order, and the last of them again and again."""

    endpoint: str = ""
    answers: deque[Canned] = field(default_factory=deque)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Operation and arguments of each call of DynamoDB."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    most_under_way: int = 0
    headers: list[CIMultiDictProxy[str]] = field(default_factory=list)
    """Of each request."""
    release: asyncio.Event | None = None
    """If there is one, answers wait for it."""

    def will(self, *answers: Canned) -> None:
        """Answer so from now on."""
        self.answers = deque(answers)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(request.headers)
        if "X-Amz-Target" in request.headers:
            self.requests.append((request.headers["X-Amz-Target"].partition(".")[2], json.loads(body)))
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.asked.set()
        try:
            if self.release is not None:
                await self.release.wait()
            if answer.hangs:
                await asyncio.Event().wait()
            if answer.drops and request.transport is not None:
                request.transport.abort()
        finally:
            self.under_way -= 1
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


def answer(content: dict[str, Any], **headers: str) -> Canned:
    """Return an answer as DynamoDB gives it."""
    body = json.dumps(content).encode()
    return Canned(body, 200, {"Content-Type": JSON_TYPE, "x-amz-crc32": str(crc32(body)), **headers})


def refusal(code: str, status: int = 400, **more: object) -> Canned:
    """Return an error as DynamoDB gives it."""
    content = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "secret text", **more}
    return Canned(json.dumps(content).encode(), status, {"Content-Type": JSON_TYPE})


@asynccontextmanager
async def canned_service() -> AsyncIterator[Service]:
    """Run a service that answers `{}` to everything."""
    service = Service()
    service.will(answer({}))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        service.endpoint = f"http://{host}:{port}"
        yield service
    finally:
        await runner.cleanup()
