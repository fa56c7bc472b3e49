"""What DynamoDB may do to a request, and how often the proxy does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Rate = float | Mapping[str, float]
"""A probability, 0 to 1, for every operation on items that the fault can happen to, or by name of the operation."""

WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"})
_READS = frozenset({"GetItem", "BatchGetItem", "TransactGetItems", "Query", "Scan"})


class Fault(StrEnum):
    """A kind of fault, by the name of its rate in `Faults`."""

    DELAY = "delay"
    LOST_REQUEST = "lost_request"
    LATE_REQUEST = "late_request"
    THROTTLED = "throttled"
    CONFLICT = "conflict"
    ERROR_BEFORE = "error_before"
    DENIED = "denied"
    PARTIAL = "partial"
    LATE_DUPLICATE = "late_duplicate"
    LOST_RESPONSE = "lost_response"
    ERROR_AFTER = "error_after"
    INDEX_LAG = "index_lag"


_HAPPENS_TO = {
    Fault.LATE_REQUEST: WRITES,
    Fault.LATE_DUPLICATE: WRITES,
    Fault.CONFLICT: WRITES - {"BatchWriteItem"},
    Fault.PARTIAL: frozenset({"BatchWriteItem", "BatchGetItem"}),
}


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each fault happens; without arguments, never. A request may meet several of them."""

    delay: Rate = 0.0
    """It is sent on after a time of at most `longest_delay_seconds`, also if the client has given up by then."""
    longest_delay_seconds: float = 0.05

    lost_request: Rate = 0.0
    """The connection is closed, and nothing is done."""
    late_request: Rate = 0.0
    """The connection is closed, and the write takes effect at most `longest_late_seconds` later."""
    throttled: Rate = 0.0
    """Refused for lack of capacity; a transaction as such, or as cancelled for that reason."""
    conflict: Rate = 0.0
    """Refused because of another transaction; a transaction with reasons for some of its items."""
    error_before: Rate = 0.0
    """An internal error, and nothing is done."""
    denied: Rate = 0.0
    """Refused with `denied_code`, as for credentials or a policy."""
    denied_code: str = "AccessDeniedException"

    partial: Rate = 0.0
    """Of a batch of two or more, some are done, and the others returned as unprocessed."""
    late_duplicate: Rate = 0.0
    """A write is answered, and done once more at most `longest_late_seconds` later."""
    longest_late_seconds: float = 3.0
    lost_response: Rate = 0.0
    """It is done, and the connection is closed."""
    error_after: Rate = 0.0
    """It is done, and answered with an internal error."""

    index_lag_seconds: tuple[float, float] = (0.0, 0.0)
    """The shortest and the longest time until a new item is in the indexes; each item has its own.

    An item is new since it was first written through the proxy."""

    def rate(self, fault: Fault, operation: str) -> float:
        """Return the probability of any fault but the index lag, which is no matter of chance."""
        rate: Rate = getattr(self, fault.value)
        if isinstance(rate, Mapping):
            return rate.get(operation, 0.0)
        return rate if operation in _HAPPENS_TO.get(fault, WRITES | _READS) else 0.0


EVERYTHING = Faults(
    delay=0.1,
    longest_delay_seconds=0.1,
    lost_request=0.02,
    late_request=0.02,
    lost_response=0.03,
    late_duplicate=0.03,
    longest_late_seconds=2.0,
    throttled=0.03,
    conflict=0.03,
    error_before=0.02,
    error_after=0.02,
    partial=0.1,
    index_lag_seconds=(0.0, 1.0),
)
"""A bad day: about every fourth request meets something."""
