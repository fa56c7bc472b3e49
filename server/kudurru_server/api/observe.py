"""What a call leaves behind: its count, its seconds and its cost, in metrics and, for a caller who asks, in trailers.

It wraps handlers, where an interceptor would come too late: it must see an error before that becomes a status, and say
the cost before the call has ended.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from kudurru_server.api.status import outcome_name
from kudurru_server.cost import Bill, charged_to
from kudurru_server.metrics import Metrics

_Context = grpc.aio.ServicerContext[bytes, bytes]
_ASKED = ("kudurru-cost", "1")


class ObservedMethod:
    """A method of a service."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self.name = name
        self._calls = metrics.calls
        self._account = metrics.account(name)
        self._under_way = metrics.calls_under_way.labels(name)
        self._seconds = metrics.call_seconds.labels(name)

    @contextmanager
    def call(self, context: _Context) -> Iterator[None]:
        """Observe a call: the block does all of its work and raises what it fails with."""
        begin = time.perf_counter()
        self._under_way.inc()
        bill = Bill(self._account)
        failure: BaseException | None = None
        try:
            with charged_to(bill):
                yield
        except BaseException as error:
            failure = error
            raise
        finally:
            if _ASKED in (context.invocation_metadata() or ()):
                context.set_trailing_metadata(
                    (
                        ("kudurru-read-units", _decimal(bill.read_units)),
                        ("kudurru-write-units", _decimal(bill.write_units)),
                    )
                )
            self._under_way.dec()
            self._calls.labels(self.name, outcome_name(context, failure)).inc()
            self._seconds.observe(time.perf_counter() - begin)


def _decimal(units: float) -> str:
    """Return units as a decimal number; a share of a small entry has many digits, and a millionth is enough."""
    return f"{units:.6f}".rstrip("0").rstrip(".")
