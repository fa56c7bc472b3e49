"""The cost of calls on a real DynamoDB: what trailers say is what the metrics add up to."""

import asyncio
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from random import randbytes

import grpc
import pytest
from kudurru_server._proto import event_pb2
from kudurru_server._proto import event_store_service_pb2 as pb

from tests.api.nodes import make_stub
from tests.aws.backend import new_prefix
from tests.aws.components import Component
from tests.builders import event, request
from tests.engine.nodes import until
from tests.server_process import ServerProcess, run_server

_ASK = (("kudurru-cost", "1"),)
_PATIENCE_SECONDS = 20.0


def cost(trailers: Iterable[tuple[str, str | bytes]] | None) -> tuple[float, float]:
    """Return the read and the write units that trailers name."""
    found = dict(trailers or ())
    return float(found["kudurru-read-units"]), float(found["kudurru-write-units"])


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_PATIENCE_SECONDS) as answer:
        lines = (line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


def metrics_address(server: ServerProcess) -> str:
    (serving,) = (line for line in server.log() if line["event"] == "serving")
    return str(serving["metrics"])


def paid(samples: dict[str, float], account: str) -> tuple[float, float]:
    """Return the read and the write units of an account, over all tables."""
    read, write = (
        sum(
            units
            for name, units in samples.items()
            if name.startswith(f'kudurru_{kind}_units_total{{account="{account}"')
        )
        for kind in ("read", "write")
    )
    return read, write


async def test_calls_cost_what_the_metrics_say(tmp_path: Path, dynamodb: Component) -> None:
    variables = {
        **dynamodb.environment,
        "KUDURRU_STORAGE": "dynamodb",
        "KUDURRU_DYNAMODB_TABLE_PREFIX": new_prefix(),
        "KUDURRU_DYNAMODB_CREATE_TABLES": "true",
        "KUDURRU_DYNAMODB_APPLY_DELAY_SECONDS": "0",
        "KUDURRU_METRICS_LISTEN": "127.0.0.1:0",
    }
    async with (
        run_server(tmp_path, env=variables) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = make_stub(channel)
        calls = [
            stub.Append(request(event("A", "a", data=randbytes(size))), metadata=_ASK, timeout=_PATIENCE_SECONDS)
            for size in (10, 5000)
        ]
        await asyncio.gather(*calls)
        costs = [cost(await call.trailing_metadata()) for call in calls]
        address = metrics_address(server)
        await until(lambda: scrape(address)["kudurru_applied_position"] >= 2)
        samples = scrape(address)
        total = sum(read for read, _ in costs), sum(write for _, write in costs)
        assert paid(samples, "Append") == pytest.approx(total, abs=1e-5)
        assert paid(samples, "Append")[1] >= 6.0  # 5 KB are five units, wherever they were put
        assert paid(samples, "apply")[1] > paid(samples, "Append")[1]
        assert paid(samples, "follow")[0] > 0.0
        assert paid(samples, "other")[0] > 0.0
        assert samples['kudurru_database_calls_total{code="OK",operation="TransactWriteItems"}'] >= 1
        assert await server.stop() == 0
    async with (
        run_server(tmp_path, env=variables) as server,  # with an empty tail
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        query = event_pb2.Query(items=[event_pb2.QueryItem(tags=["a"])])
        read = make_stub(channel).Read(pb.ReadRequest(query=query), metadata=_ASK, timeout=_PATIENCE_SECONDS)
        assert sum([len(message.events) async for message in read]) == 2
        assert paid(scrape(metrics_address(server)), "Read") == cost(await read.trailing_metadata())
        assert cost(await read.trailing_metadata())[0] > 0.0
        assert await server.stop() == 0
