"""Takes what other nodes have recorded into the tail.

The next place of the log is decided either by this node's put or by reading what another node put there, never by both
at once: whoever does one of them has the turn.
"""

import asyncio

from kudurru_server.engine.complaint import Complaint
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import StorageUnavailableError
from kudurru_server.storage.interface import Storage

_BACK_OFF = 1.2  # from the busy interval to the idle one within some ten polls


class Follower:
    """Follows the log for one tail."""

    def __init__(self, tail: Tail, storage: Storage, busy_seconds: float | None, idle_seconds: float) -> None:
        """Follow with pauses between the two lengths; `busy_seconds` None: this node is the only one."""
        self._tail = tail
        self._storage = storage
        self._busy_seconds = busy_seconds
        self._idle_seconds = idle_seconds
        self._wanted = asyncio.Event()
        self._complaint = Complaint("follow_failed")
        self.turn = asyncio.Lock()

    @property
    def has_others(self) -> bool:
        """Tell whether other nodes may write to the store."""
        return self._busy_seconds is not None

    async def run(self) -> None:
        """Follow the log, for ever, if there are other nodes."""
        pause = self._busy_seconds
        while pause is not None and self._busy_seconds is not None:
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            found = False
            try:
                while await self._take_turn(latest=False):
                    found = True
            except StorageUnavailableError as error:
                self._complaint.fails(error)
            pause = self._busy_seconds if found else min(self._idle_seconds, pause * _BACK_OFF)

    def hurry(self) -> None:
        """Look at the log now: somebody waits for news."""
        self._wanted.set()

    async def catch_up(self, to: int | None = None) -> None:
        """Take in everything that was recorded before the call, or at least what there is up to position `to`.

        Raises:
            StorageUnavailableError: the log could not be read.
        """
        while self.has_others and (to is None or self._tail.head.position < to):
            if not await self._take_turn(latest=True):
                return

    async def _take_turn(self, *, latest: bool) -> bool:
        """Take in some of what others have recorded; return whether there was anything."""
        async with self.turn:  # not for longer: on a busy log there is always more
            return await self._load(latest=latest)

    async def take_in_news(self) -> bool:
        """Take in what others have recorded, to its end; tell whether there was anything. The caller has the turn.

        Raises:
            StorageUnavailableError: the log could not be read.
        """
        found = False
        while await self._load(latest=True):
            found = True
        return found

    async def _load(self, *, latest: bool) -> bool:
        entries = await self._storage.entries(self._tail.head.position, latest=latest)
        for entry in entries:
            self._tail.load(entry)
        self._complaint.works()
        return bool(entries)
