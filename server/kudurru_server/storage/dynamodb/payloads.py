"""Large payloads live in S3: an event or frame is stored without the bytes of its `data`, and gets them back when read.

The bytes are cut out of the encoding and put back at the same place, so what a reader gets is what the client sent,
byte for byte. They are kept under their hash, before the event is recorded.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.frame import event_range
from kudurru_server.storage.blobs.interface import Blobs

_DATA_FIELD = 4 << 3 | 2  # the tag of `data` in an Event, whose wire type is 2
_KEPT = 1024
Locate = Callable[[bytes], tuple[int, int]]
"""Tells where the payload lies."""
_LENGTH, _FIXED64, _FIXED32 = 2, 1, 5


@dataclass(frozen=True, slots=True)
class Cut:
    """What is missing from an event, and where."""

    place: int
    """Which event of the entry."""
    offset: int
    """Where in its encoding the bytes belong."""
    digest: str
    """Their SHA-256 in hexadecimal."""


def blob_key(digest: str) -> str:
    """Return the key under which a payload is kept."""
    return f"payloads/{digest}"


class Payloads:
    """Takes payloads above a threshold out, and puts them back."""

    def __init__(self, blobs: Blobs | None, threshold_bytes: int) -> None:
        self._blobs = blobs
        self._threshold_bytes = threshold_bytes
        self._kept: dict[str, None] = {}  # the last digests that were put: the rows need the same as the log

    async def take_out(self, encoded: list[bytes], locate: Locate) -> list[Cut]:
        """Cut the large payloads out of encoded events or frames, in place, once they are kept; return what was cut.

        Raises:
            StorageUnavailableError: they could not be kept.
        """
        if self._blobs is None:
            return []
        cuts: list[Cut] = []
        wanted: dict[str, bytes] = {}
        for place, whole in enumerate(encoded):
            if len(whole) <= self._threshold_bytes:
                continue
            start, stop = locate(whole)
            if stop - start > self._threshold_bytes:
                payload = whole[start:stop]
                digest = sha256(payload).hexdigest()
                wanted[digest] = payload
                encoded[place] = whole[:start] + whole[stop:]
                cuts.append(Cut(place, start, digest))
        await asyncio.gather(*(self._keep(self._blobs, digest, payload) for digest, payload in wanted.items()))
        return cuts

    async def _keep(self, blobs: Blobs, digest: str, payload: bytes) -> None:
        if digest not in self._kept:
            await blobs.put(blob_key(digest), payload)
            self._kept[digest] = None
            if len(self._kept) > _KEPT:
                self._kept.pop(next(iter(self._kept)))

    async def put_back(self, encoded: list[bytes], cuts: Sequence[Cut]) -> None:
        """Complete what was cut, in place.

        Raises:
            StorageUnavailableError: a payload could not be read, or is not there.
        """
        payloads = await asyncio.gather(*(self._read(cut.digest) for cut in cuts))
        for cut, payload in zip(cuts, payloads, strict=True):
            rest = encoded[cut.place]
            encoded[cut.place] = rest[: cut.offset] + payload + rest[cut.offset :]

    async def _read(self, digest: str) -> bytes:
        payload = None if self._blobs is None else await self._blobs.get(blob_key(digest))
        if payload is None:
            where = "there is no bucket" if self._blobs is None else "it is not in the bucket"
            raise StorageUnavailableError(f"the payload {digest} cannot be read: {where}")
        return payload


def payload_of_frame(frame: bytes) -> tuple[int, int]:
    """Return where the payload lies in a frame."""
    start, stop = event_range(frame)
    low, high = payload_of_event(frame[start:stop])
    return start + low, start + high


def payload_of_event(event: bytes) -> tuple[int, int]:
    """Return where the largest occurrence of `data` lies in an encoded event; an empty range if there is none."""
    found = (0, 0)
    at = 0
    while at < len(event):
        tag, at = _varint(event, at)
        if tag & 7 == _LENGTH:
            length, at = _varint(event, at)
            if tag == _DATA_FIELD and length > found[1] - found[0]:
                found = (at, at + length)
            at += length
        elif tag & 7 == _FIXED64:
            at += 8
        elif tag & 7 == _FIXED32:
            at += 4
        elif tag & 7 == 0:
            _, at = _varint(event, at)
        else:
            break  # a group: nothing of ours, and nothing behind it is looked for
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while data[at] & 0x80:
        number |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return number | data[at] << shift, at + 1
