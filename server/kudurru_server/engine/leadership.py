"""Who takes the appends of all nodes while several append at once: a soft leader.

Nodes that put entries at the same time lose puts to each other, and a lost put is paid for. So once a node has lost a
few, it hands its appends to the leader, or becomes it if nobody is. Only what is seen to beat is trusted, and only as
long as it answers. Nothing depends on it: two leaders, or none, cost puts and no more. Where nobody loses puts, nobody
leads, and that costs nothing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import OverloadedError, StorageUnavailableError, UnavailableError
from kudurru_server.model import Append, Leader
from kudurru_server.storage.interface import LeaderRecord

_PUTS = 10
_LOST_PUTS = 3  # of the last ten: a rare one is cheaper than a leader
_TERM_LEASES = 3  # a silent leader is replaced after one, and that must not be the end of it
_LONGEST_DISTRUST_SECONDS = 60.0
_logger = structlog.get_logger()

Forward = Callable[[Leader, Sequence[Append]], Awaitable[Sequence[Outcome]]]
"""Has the leader judge and record appends, and returns what it says of each."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How a node gets on with the others that share its store."""

    record: LeaderRecord
    forward: Forward
    name: str
    """Of this node, and of no other that ever was: an address may go to another server."""
    address: str | None
    """Where the others reach this node; None: they cannot, so it never leads."""
    lease_seconds: float
    """Who shows no sign of life for so long is not the leader any more."""


class Leadership:
    """What one node knows of the leader."""

    def __init__(self, neighbours: Neighbours | None) -> None:
        """Know nobody; without neighbours, for ever."""
        self._neighbours = neighbours
        self._lost_puts: deque[bool] = deque(maxlen=_PUTS)
        self._contended = asyncio.Event()
        self._leader: Leader | None = None
        self._believed_until = self._distrusted_until = self._used_at = float("-inf")
        self._distrust_seconds = 0.0

    @property
    def has_neighbours(self) -> bool:
        """Tell whether there may be a leader."""
        return self._neighbours is not None

    @property
    def is_elsewhere(self) -> bool:
        """Tell whether appends are better handed to another node."""
        return self._leader is not None and self._distrusted_until <= _now() < self._believed_until

    def check_name(self, name: str) -> None:
        """Return if this is the node of that name.

        Raises:
            UnavailableError: it is not; nothing was recorded.
        """
        if self._neighbours is None or name != self._neighbours.name:
            raise UnavailableError("STORAGE_UNAVAILABLE", "this is not the node that it was handed to")
        self.used()

    def put_decided(self, *, lost: bool) -> None:
        """Take note of a put, which is lost if another node was faster."""
        self._lost_puts.append(lost)
        if lost and sum(self._lost_puts) >= _LOST_PUTS:
            self._contended.set()
            self.used()

    def used(self) -> None:
        """Take note that a leader is of use: puts were lost, or appends are handed over, by this node or to it."""
        self._used_at = _now()

    async def hand_over(self, appends: Sequence[Append]) -> Sequence[Outcome]:
        """Return what the leader says of appends, if it answers within the lease."""
        neighbours, leader = self._neighbours, self._leader
        if neighbours is None or leader is None or not self.is_elsewhere:
            return [OverloadedError("there is no leader any more")] * len(appends)
        try:
            async with asyncio.timeout(neighbours.lease_seconds):
                outcomes = await neighbours.forward(leader, appends)
        except TimeoutError:
            outcomes = [StorageUnavailableError("the leader did not answer in time")] * len(appends)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            outcomes = []  # the call was cancelled, not this task
        except Exception as error:
            _logger.exception("hand_over_failed", address=leader.address, exc_info=error)
            outcomes = []
        if len(outcomes) != len(appends):
            outcomes = [StorageUnavailableError("the leader did not answer as it should")] * len(appends)
        lost = next((outcome for outcome in outcomes if isinstance(outcome, UnavailableError)), None)
        if lost is None:
            self.used()
            self._distrust_seconds = 0.0
        elif leader.name == (self._leader or leader).name:
            longer = max(neighbours.lease_seconds, min(2 * self._distrust_seconds, _LONGEST_DISTRUST_SECONDS))
            _logger.warning("leader_distrusted", address=leader.address, reason=lost.reason, error=lost.message)
            self._distrust_seconds, self._distrusted_until = longer, _now() + longer
        return outcomes

    async def run(self) -> None:
        """Follow who leads while it matters, for ever, if there are neighbours."""
        while self._neighbours is not None:
            await self._contended.wait()
            try:
                await self._serve_a_term(self._neighbours)
            except StorageUnavailableError as error:
                _logger.warning("leader_unknown", reason=error.reason, error=error.message)
                self._leader = None
                await asyncio.sleep(self._neighbours.lease_seconds)
            finally:
                self._leader = None
                self._lost_puts.clear()
                self._contended.clear()

    async def _serve_a_term(self, neighbours: Neighbours) -> None:
        """Lead or follow until nobody has had a use for it for a while."""
        lease_seconds = neighbours.lease_seconds
        self.used()
        seen, since = await neighbours.record.look(), _now()
        while _now() - self._used_at < _TERM_LEASES * lease_seconds:
            leads = seen is not None and seen.name == neighbours.name
            is_stale = seen is None or _now() - since >= lease_seconds
            now: Leader | None
            if neighbours.address is not None and (leads or is_stale):
                now = await neighbours.record.write(Leader(neighbours.name, neighbours.address), seen)
            else:
                now = await neighbours.record.look()
            if now != seen:
                if now is None or now.name == neighbours.name:
                    self._leader = None
                    if now is not None and (seen is None or seen.name != now.name):
                        _logger.info("leads", address=neighbours.address)
                elif seen is not None and now.name == seen.name:  # it is seen to beat
                    if self._leader is None or self._leader.name != now.name:
                        _logger.info("hands_over", address=now.address)
                    self._leader, self._believed_until = now, _now() + lease_seconds
                seen, since = now, _now()
            await asyncio.sleep(lease_seconds / 4)


def _now() -> float:
    return asyncio.get_running_loop().time()
