"""Every instrument of a server, in one place; docs/metrics.md says what they mean to whoever runs one.

Whoever uses an instrument with labels often keeps the child that `labels` returns. Gauges are read when somebody looks.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call] # when a series began is of no use, and doubles their number

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The instruments of one server."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        # ── calls ──
        self.calls = Counter("kudurru_calls", "Calls that have ended.", ("method", "code"), registry=registry)
        self.call_seconds = Histogram(
            "kudurru_call_seconds", "How long calls took.", ("method",), buckets=_SECONDS, registry=registry
        )
        self.calls_under_way = Gauge(
            "kudurru_calls_under_way",
            "Calls under way; those of Subscribe are subscribers.",
            ("method",),
            registry=registry,
        )
        self.events_appended = Counter("kudurru_events_appended", "Events this node has recorded.", registry=registry)
        self.events_sent = Counter(
            "kudurru_events_sent", "Events sent to readers and subscribers.", ("method",), registry=registry
        )

        # ── the log and what is derived from it ──
        self.log_puts = Counter(
            "kudurru_log_puts", "Entries put: won, lost to another node, or failed.", ("outcome",), registry=registry
        )
        self.log_put_seconds = Histogram(
            "kudurru_log_put_seconds", "How long an entry took to be put.", buckets=_SECONDS, registry=registry
        )
        self.apply_seconds = Histogram(
            "kudurru_apply_seconds",
            "How long entries took to be applied, by this node or another.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.head_position = Gauge("kudurru_head_position", "Position of the last event.", registry=registry)
        self.applied_position = Gauge(
            "kudurru_applied_position", "Position up to which the index is known to be written.", registry=registry
        )
        self.unapplied_bytes = Gauge(
            "kudurru_unapplied_bytes", "Memory of events that are not yet in the index.", registry=registry
        )
        self.pending_bytes = Gauge("kudurru_pending_bytes", "Events waiting to be written.", registry=registry)

        # ── DynamoDB ──
        self.read_units = Counter("kudurru_read_units", "Read units consumed.", ("account", "table"), registry=registry)
        self.write_units = Counter(
            "kudurru_write_units", "Write units consumed.", ("account", "table"), registry=registry
        )
        self.database_calls = Counter(
            "kudurru_database_calls", "Attempts at calls of DynamoDB.", ("operation", "code"), registry=registry
        )

    def account(self, name: str) -> Callable[[str, float, float], None]:
        """Return what counts the units consumed in each table for `name`: a method, or the node's own work."""

        def spend(table: str, read_units: float, write_units: float) -> None:
            self.read_units.labels(name, table).inc(read_units)
            self.write_units.labels(name, table).inc(write_units)

        return spend

    def database_called(self, operation: str, code: str) -> None:
        """Count an attempt at a call of DynamoDB."""
        self.database_calls.labels(operation, code).inc()
