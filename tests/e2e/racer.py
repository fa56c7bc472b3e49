"""A client process of the race: it waits at the barrier, runs with several racers at once, and tells what came of them.

It is told rounds on standard input, a JSON object a line, answers "ready" when its racers stand at the barrier, runs
when it reads "go", and answers with the outcome of each racer: "won", "lost" or "did not run" (it had read a winner).
"""

import asyncio
import json
import sys
from typing import Any

import grpc
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import Client, Refusal, append_refusal, connect, event, query


class Racer:
    """One of those who want to be the first with a tag."""

    def __init__(self, client: Client, tag: str, *, streams: bool) -> None:
        self._client = client
        self._tag = tag
        self._streams = streams
        self._after: str | None = None

    async def read(self) -> None:
        """Look whether somebody has won."""
        frames, head = await self._client.read(pb.ReadRequest(query=query(((), [self._tag]))))
        self._after = None if frames else head

    async def run(self) -> str:
        """Append on what was read."""
        if self._after is None:
            return "did not run"
        condition = event_pb2.AppendCondition(fail_if_events_match=query(((), [self._tag])), after=self._after)
        request = pb.AppendRequest(events=[event("Won", self._tag)], conditions=[condition])
        answer = await (self._over_stream(request) if self._streams else self._client.append(request))
        if isinstance(answer, Refusal):
            assert answer.code is grpc.StatusCode.FAILED_PRECONDITION, answer
            assert answer.reason == "CONDITION_FAILED"
            return "lost"
        return "won"

    async def _over_stream(self, request: pb.AppendRequest) -> pb.AppendResponse | Refusal:
        call = self._client.stub.AppendStream()
        await call.write(pb.AppendStreamRequest(appends=[request]))
        await call.done_writing()
        (outcome,) = [outcome async for response in call for outcome in response.outcomes]
        return outcome.appended if outcome.HasField("appended") else append_refusal(outcome.error)


async def _round(racers: list[Racer], told: asyncio.StreamReader, *, read_first: bool) -> list[str]:
    if read_first:
        await asyncio.gather(*(racer.read() for racer in racers))
    _say("ready")
    assert await told.readline() == b"go\n"
    if not read_first:
        await asyncio.gather(*(racer.read() for racer in racers))
    return list(await asyncio.gather(*(racer.run() for racer in racers)))


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _main(address: str) -> None:
    told = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    async with connect(address) as one, connect(address) as other:
        while line := await told.readline():
            asked: dict[str, Any] = json.loads(line)
            racers = [
                Racer((one, other)[number % 2], asked["tag"], streams=number % 3 == 0)
                for number in range(asked["racers"])
            ]
            _say(await _round(racers, told, read_first=asked["read_first"]))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
