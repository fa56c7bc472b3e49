"""A store of large things that fails now and then, and is shared by all nodes."""

import asyncio
import random

from kudurru_server.errors import StorageUnavailableError


class FakeBlobs:
    """A `Blobs`."""

    def __init__(self, kept: dict[str, bytes], fails: float, chance: random.Random) -> None:
        self._kept = kept
        self.fails = fails
        self._chance = chance

    async def put(self, key: str, data: bytes) -> None:
        await self._travel()
        assert self._kept.get(key, data) == data
        self._kept[key] = data
        await self._travel()

    async def get(self, key: str) -> bytes | None:
        await self._travel()
        return self._kept.get(key)

    async def _travel(self) -> None:
        await asyncio.sleep(self._chance.random() * 0.02)
        if self._chance.random() < self.fails:
            raise StorageUnavailableError
