"""From cursors to positions and back, and the refusal of cursors that are not this store's."""

from kudurru_server.engine.follower import Follower
from kudurru_server.engine.tail import Tail
from kudurru_server.errors import CursorOutOfRangeError
from kudurru_server.model import Cursor
from kudurru_server.storage.interface import Storage


class Cursors:
    """Translates for one tail and its store."""

    def __init__(self, tail: Tail, storage: Storage, follower: Follower) -> None:
        self._tail = tail
        self._storage = storage
        self._follower = follower

    def in_tail(self, cursor: Cursor, field: str) -> int | None:
        """Return the position that `cursor` stands right after, if memory tells; else None.

        Raises:
            CursorOutOfRangeError: it lies beyond the head or contradicts an event of the tail.
        """
        tail = self._tail
        if cursor.position == 0:
            if cursor.ticks == 0:
                return 0
            return tail.position_before(cursor.ticks) if cursor.ticks > tail.left.ticks else None
        if cursor.position > tail.head.position:
            raise CursorOutOfRangeError(field, cursor, tail.head)
        if cursor.position < tail.left.position:
            return None
        at_border = cursor.position == tail.left.position
        return self._checked(cursor, field, tail.left.ticks if at_border else tail.ticks_at(cursor.position))

    async def follow(self, cursor: Cursor) -> None:
        """Take in what there is up to a cursor, which another node may have shown."""
        if cursor.position > self._tail.head.position:
            await self._follower.catch_up(cursor.position)

    async def position(self, cursor: Cursor, field: str) -> int:
        """Return the position that `cursor` stands right after, with a look into the store if it is old.

        Raises:
            CursorOutOfRangeError: it lies beyond the head or contradicts the event at its position.
        """
        await self.follow(cursor)
        position = self.in_tail(cursor, field)
        if position is not None:
            return position
        if cursor.position == 0:
            return await self._storage.position_before(cursor.ticks, self._tail.applied)
        return self._checked(cursor, field, await self._storage.ticks_at(cursor.position))

    def _checked(self, cursor: Cursor, field: str, ticks: int) -> int:
        if ticks != cursor.ticks:
            raise CursorOutOfRangeError(field, cursor, self._tail.head)
        return cursor.position

    async def at(self, position: int) -> Cursor:
        """Return the cursor of the event at `position`; of position 0, the beginning."""
        if position == 0:
            return Cursor(0, 0)
        if position == self._tail.left.position:
            return self._tail.left
        if position >= self._tail.start:
            return Cursor(self._tail.ticks_at(position), position)
        return Cursor(await self._storage.ticks_at(position), position)
