"""The metrics: what a running server shows, that every instrument is documented, and an address that is taken."""

import re
import socket
from pathlib import Path

import grpc
import pytest
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.metrics import Metrics

from tests.api.nodes import make_stub
from tests.builders import event, unless
from tests.server_process import run_server, run_to_end

DOCS = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"


async def test_a_server_shows_what_it_has_done(tmp_path: Path) -> None:
    async with run_server(tmp_path, "--metrics-listen", "127.0.0.1:0") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = make_stub(channel)
            request = pb.AppendRequest(events=[event("A"), event("A")])
            await stub.Append(request)
            await stub.Append(request)
            with pytest.raises(grpc.RpcError):
                await stub.Append(pb.AppendRequest(events=[event("A")], conditions=[unless((["A"], ()))]))
            async for _ in stub.Read(pb.ReadRequest()):
                pass
            subscription = stub.Subscribe(pb.SubscribeRequest())
            await subscription.read()
            samples = server.metrics()
            subscription.cancel()
        assert samples['kudurru_calls_total{code="OK",method="Append"}'] == 2
        assert samples['kudurru_calls_total{code="FAILED_PRECONDITION",method="Append"}'] == 1
        assert samples['kudurru_call_seconds_count{method="Append"}'] == 3
        assert samples['kudurru_calls_under_way{method="Subscribe"}'] == 1
        assert samples['kudurru_calls_under_way{method="Append"}'] == 0
        assert samples["kudurru_events_appended_total"] == 2
        assert samples['kudurru_events_sent_total{method="Read"}'] == 2
        assert samples['kudurru_log_puts_total{outcome="won"}'] == 1
        assert samples["kudurru_log_put_seconds_count"] == 1
        assert samples["kudurru_head_position"] == 2
        assert samples["kudurru_applied_position"] == 0
        assert samples["kudurru_unapplied_bytes"] > 0
        assert samples["kudurru_pending_bytes"] == 0
        assert not [name for name in samples if name.endswith("_created")]
        assert await server.stop() == 0


def test_every_instrument_is_documented_with_its_labels() -> None:
    metrics = Metrics()
    instruments = {
        instrument._name + ("_total" if instrument._type == "counter" else ""): instrument._labelnames  # noqa: SLF001
        for instrument in vars(metrics).values()
        if instrument is not metrics.registry
    }
    rows = re.findall(r"^\| `(kudurru_\w+)` \|(.*?)\|", DOCS.read_text(), re.MULTILINE)
    documented = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert documented == instruments


@pytest.mark.parametrize("address", ["", "9464", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:70000", "192.0.2.1:9464"])
def test_an_address_that_is_none_keeps_the_server_from_starting(tmp_path: Path, address: str) -> None:
    flags = ("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--metrics-listen", address)
    ended = run_to_end("serve", *flags)
    assert ended.code == 1
    assert ended.stderr.startswith(f"kudurru-server: cannot serve metrics on {address}: ")


def test_an_address_in_use_keeps_the_server_from_starting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--metrics-listen", address)
        ended = run_to_end("serve", *flags)
    assert ended.code == 1
    assert f"cannot serve metrics on {address}: " in ended.stderr
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr
