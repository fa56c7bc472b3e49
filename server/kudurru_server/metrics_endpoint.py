"""The metrics over HTTP, for Prometheus: a thread of its own, so that a scrape holds up nothing but itself."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from kudurru_server.metrics import Metrics


@contextmanager
def serve_metrics(metrics: Metrics, listen: str) -> Iterator[str]:
    """Serve them on `listen`, HOST:PORT, to the end of the block; yield the address with the port it got.

    Raises:
        OSError: it is in use, or not an address of this machine.
        ValueError: it is not an address.
    """
    host, _, port = listen.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("it is not HOST:PORT")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
    except OverflowError as error:
        raise ValueError(f"{port} is not a port") from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
