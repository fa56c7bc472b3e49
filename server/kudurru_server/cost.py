"""Who pays: the read and write units that DynamoDB reports go to the bill of whoever the work is done for.

The bill is part of the context, which tasks inherit: whatever a call starts pays into the same bill. Work that is done
for several at once, such as writing an entry of the log, is collected first and then split among them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, Self

Spend = Callable[[str, float, float], None]
"""Takes a table, and the read and the write units consumed in it."""


class Bill:
    """What a piece of work has cost so far; `account` is told of everything that is added to it.

    As a context manager, once: the block, and the tasks started in it, pay into it.
    """

    __slots__ = ("_account", "_before", "read_units", "write_units")

    def __init__(self, account: Spend | None = None) -> None:
        self._account = account
        self.read_units = 0.0
        self.write_units = 0.0

    def __enter__(self) -> Self:
        self._before = _bill.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _bill.reset(self._before)

    def add(self, table: str, read_units: float, write_units: float) -> None:
        """Add what was consumed in a table."""
        self.read_units += read_units
        self.write_units += write_units
        if self._account is not None:
            self._account(table, read_units, write_units)


class Payer(Protocol):
    """One of those for whom work is done together."""

    @property
    def bill(self) -> Bill:
        """Who pays."""
        ...

    @property
    def weight(self) -> int:
        """The share, compared with those of the others."""
        ...


_bill: ContextVar[Bill | None] = ContextVar("bill", default=None)


def current_bill() -> Bill:
    """Return the bill of the running work; outside any, one that nobody reads."""
    return _bill.get() or Bill()


def spend(table: str, read_units: float, write_units: float) -> None:
    """Add to the bill of the running work."""
    current_bill().add(table, read_units, write_units)


@contextmanager
def shared_by(payers: Iterable[Payer]) -> Iterator[None]:
    """Split what the block costs, also if it fails, among `payers` by their weights.

    They are looked at only if it has cost anything. What the block starts and leaves behind is paid by nobody.
    """
    spent: list[tuple[str, float, float]] = []
    try:
        with Bill(lambda *units: spent.append(units)):
            yield
    finally:
        if spent:
            weights: dict[Bill, int] = {}  # appends that came together have one bill
            for payer in payers:
                weights[payer.bill] = weights.get(payer.bill, 0) + payer.weight
            total = sum(weights.values())
            for table, read_units, write_units in spent:
                for bill, weight in weights.items():
                    bill.add(table, read_units * weight / total, write_units * weight / total)
