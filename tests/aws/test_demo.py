"""The demo on DynamoDB and S3: it ends by itself or by a signal, and leaves nothing that runs."""

import asyncio
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process

_DEMO = ("-m", "examples.flights", "--dynamodb", "--flights")
_SECONDS = 120


async def _start(flights: int) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, *_DEMO, str(flights), stdout=PIPE, stderr=PIPE)


def _still_listening(said: str) -> list[str]:
    ports = re.findall(r"127\.0\.0\.1:(\d+)", said)
    assert len(ports) >= 2, said
    listening = []
    for port in ports:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", int(port))) == 0:
                listening.append(port)
    return listening


async def test_it_runs_to_its_end_on_dynamodb_and_a_bucket() -> None:
    demo = await _start(1000)
    async with asyncio.timeout(_SECONDS):
        stdout, stderr = await demo.communicate()
    said = stdout.decode()
    assert demo.returncode == 0, said + stderr.decode()
    assert "1,000 flights, 2,995 events" in said
    assert "agrees with the csv" in said
    assert "19 are refused" in said
    assert "they lie in the bucket" in said
    assert _still_listening(said) == []


async def test_a_signal_ends_it_and_the_services() -> None:
    demo = await _start(27_004)
    assert demo.stdout is not None
    said = ""
    async with asyncio.timeout(_SECONDS):
        while "projector" not in said:
            line = await demo.stdout.readline()
            assert line, said
            said += line.decode()
        demo.send_signal(signal.SIGTERM)
        await demo.communicate()
    assert demo.returncode == 130
    assert _still_listening(said) == []
