"""Reading a span: from the store up to the tail, and the rest from memory."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from kudurru_server.engine.tail import Tail
from kudurru_server.model import Batch, Query
from kudurru_server.storage.interface import Span, Storage

BATCH_BYTES = 1 << 20
"""A message ends with the event that reaches this: well under the 4 MiB of clients, large enough for full speed."""


class Reader:
    """Reads for one tail and its store."""

    def __init__(self, tail: Tail, storage: Storage) -> None:
        self._tail = tail
        self._storage = storage

    async def read(self, query: Query, span: Span, limit: int) -> AsyncGenerator[Batch]:
        """Yield the matching events of `span`, which ends at or before the head; `limit` 0 means all.

        The last batch reaches the end of the span, or makes the limit full.
        """
        room = limit or sys.maxsize
        while span.after < span.until and room > 0:
            start = self._tail.start
            if (span.until if span.backwards else span.after + 1) >= start:
                part = Span(max(span.after, start - 1), span.until, span.backwards)
                batch = self._tail.batch(query, part, room, BATCH_BYTES)
                yield batch
                room -= batch.count
                span = span.beyond(batch.reached)
                continue
            part = Span(span.after, min(span.until, start - 1), span.backwards)
            async with aclosing(self.history(query, part, room)) as batches:
                async for batch in batches:
                    yield batch
                    room -= batch.count
                    span = span.beyond(batch.reached)

    async def history(self, query: Query, span: Span, room: int = sys.maxsize) -> AsyncGenerator[Batch]:
        """Yield the matching events of an applied `span`, at most `room`; the next batch is read while one is sent."""
        page = asyncio.ensure_future(self._storage.history(query, span, room, BATCH_BYTES))
        try:
            while True:
                batch = await page
                room -= batch.count
                span = span.beyond(batch.reached)
                last = span.after >= span.until or room <= 0
                if not last:
                    page = asyncio.ensure_future(self._storage.history(query, span, room, BATCH_BYTES))
                yield batch
                if last:
                    return
        finally:
            page.cancel()
