"""The contract of a store of large things."""

from typing import Protocol


class Blobs(Protocol):
    """Keeps bytes under keys.

    Raises, everywhere:
        StorageUnavailableError: it failed or did not answer; a write may or may not have taken effect.
    """

    async def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, durably. What is there already was the same, and stays."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None."""
        ...
