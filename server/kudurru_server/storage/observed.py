"""A store around a store: it counts and times what is written, and says who pays for what nobody has asked for.

That is writing derived rows, and looking for what other nodes have recorded. All else is paid by whoever's context it
runs in.
"""

import time
from collections.abc import Sequence

from kudurru_server.cost import Bill
from kudurru_server.metrics import Metrics
from kudurru_server.model import Entry
from kudurru_server.storage.interface import Storage


class ObservedStorage:
    """A `Storage`."""

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        self._storage = storage
        self._metrics = metrics
        self._puts = {outcome: metrics.log_puts.labels(outcome) for outcome in ("won", "lost", "failed")}
        self._applying, self._following = metrics.account("apply"), metrics.account("follow")
        self.head = storage.head
        self.keep = storage.keep
        self.applied = storage.applied
        self.highest_id = storage.highest_id
        self.history = storage.history
        self.first_matches = storage.first_matches
        self.find = storage.find
        self.ticks_at = storage.ticks_at
        self.position_before = storage.position_before
        self.tag = storage.tag
        self.tags = storage.tags

    async def put(self, entry: Entry) -> bool:
        """See `Storage`."""
        outcome = "failed"
        begin = time.perf_counter()
        try:
            is_won = await self._storage.put(entry)
            outcome = "won" if is_won else "lost"
        finally:
            self._metrics.log_put_seconds.observe(time.perf_counter() - begin)
            self._puts[outcome].inc()
        if is_won:
            self._metrics.events_appended.inc(len(entry.ids))
        return is_won

    async def entries(self, after: int, *, latest: bool = True) -> Sequence[Entry]:
        """See `Storage`; who needs not the latest entries only follows the log."""
        if latest:
            return await self._storage.entries(after)
        with Bill(self._following):
            return await self._storage.entries(after, latest=False)

    async def apply(self, entries: Sequence[Entry]) -> None:
        """See `Storage`."""
        with Bill(self._applying), self._metrics.apply_seconds.time():
            await self._storage.apply(entries)
