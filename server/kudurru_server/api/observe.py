"""What a call leaves behind: its count, its seconds and its cost, in metrics and, for a caller who asks, in trailers.

It wraps handlers, where an interceptor would come too late: it must see an error before that becomes a status, and say
the cost before the call has ended.
"""

import time
from types import TracebackType

import grpc

from kudurru_server.api.status import OK, outcome_name
from kudurru_server.cost import Bill
from kudurru_server.metrics import Metrics

_Context = grpc.aio.ServicerContext[bytes, bytes]
_ASKED = ("kudurru-cost", "1")


class ObservedMethod:
    """A method of a service."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self.name = name
        self.account = metrics.account(name)
        self.seconds = metrics.call_seconds.labels(name)
        self.under_way = 0
        metrics.calls_under_way.labels(name).set_function(lambda: self.under_way)
        self._calls = metrics.calls
        self._ok = metrics.calls.labels(name, OK)

    def ended(self, outcome: str) -> None:
        """Count a call that has ended so."""
        (self._ok if outcome == OK else self._calls.labels(self.name, outcome)).inc()

    def call(self, context: _Context) -> "_Call":
        """Observe a call: the block does all of its work and raises what it fails with."""
        return _Call(self, context)


class _Call:
    """One call; a class, since a generator would take twice the time."""

    __slots__ = ("_begin", "_bill", "_context", "_method")

    def __init__(self, method: ObservedMethod, context: _Context) -> None:
        self._method = method
        self._context = context
        self._bill = Bill(method.account)

    def __enter__(self) -> None:
        self._begin = time.perf_counter()
        self._method.under_way += 1
        self._bill.__enter__()

    def __exit__(self, _: type[BaseException] | None, failure: BaseException | None, __: TracebackType | None) -> None:
        bill, context, method = self._bill, self._context, self._method
        bill.__exit__()
        if _ASKED in (context.invocation_metadata() or ()):
            context.set_trailing_metadata(
                (
                    ("kudurru-read-units", _decimal(bill.read_units)),
                    ("kudurru-write-units", _decimal(bill.write_units)),
                )
            )
        method.under_way -= 1
        method.ended(outcome_name(context, failure))
        method.seconds.observe(time.perf_counter() - self._begin)


def _decimal(units: float) -> str:
    """Return units as a decimal number; a share of a small entry has many digits, and a millionth is enough."""
    return f"{units:.6f}".rstrip("0").rstrip(".")
