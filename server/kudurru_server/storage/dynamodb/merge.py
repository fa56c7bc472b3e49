"""The index of all events is spread over shards; merged, their pages are the history again.

Each shard is read in the order of its ids. What lies at or below the lowest id that any unfinished shard has reached is
complete: nothing lower can come any more. It is sorted at once, which is several times quicker than taking the lowest
event of all shards one by one. The index is eventually consistent, so a row may be missing; positions are dense, so
the run ends where one is.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.database import Item, Question, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.layout import Layout

_position = itemgetter("position")


@dataclass(slots=True)
class _Shard:
    question: Question
    is_finished: bool = False
    reached: str = ""
    """The last id it has given."""


class IndexReader:
    """Reads runs of events from the index of all events."""

    def __init__(self, rows: EventRows, layout: Layout) -> None:
        self._rows = rows
        self._layout = layout

    async def run(self, low: str, high: str, first: int, page_items: int) -> list[Item]:
        """Return rows from position `first` on without a gap, up to about a page of each shard; perhaps none.

        Args:
            low: below or at the id of `first`, and above that of the event before it.
            high: the highest id wanted.
            first: the position the run begins at.
            page_items: how many rows are asked of each shard at a time.
        """
        shards = [
            _Shard(Question(Table.EVENTS, keys.shard_pk(shard), low, high, index=keys.ALL_EVENTS))
            for shard in range(self._layout.write_shard_count)
        ]
        pages = await asyncio.gather(*(self._page(shard, page_items) for shard in shards))
        border = min((shard.reached for shard in shards if not shard.is_finished), default=high)
        return dense(complete(pages, border), first)

    async def refresh(self) -> None:
        """Learn of shards that other nodes have added."""
        await self._layout.refresh()

    async def _page(self, shard: _Shard, page_items: int) -> list[Item]:
        page = await self._rows.page(shard.question, page_items)
        shard.is_finished = page.more is None
        if page.items:
            shard.reached = text_of(page.items[-1], "sortable_unique_id")
        return page.items


def complete(pages: Sequence[Sequence[Item]], border: str) -> list[Item]:
    """Return what lies at or below `border` of pages that are each in order, in order."""
    below = [[item for item in page if text_of(item, "sortable_unique_id") <= border] for page in pages]
    return sorted(chain.from_iterable(below), key=_position)


def dense(items: Sequence[Item], first: int) -> list[Item]:
    """Return the items up to the first position that is missing; a row that appears twice counts once."""
    run: list[Item] = []
    for item in items:
        position = number_of(item, "position")
        if position == first + len(run):
            run.append(item)
        elif position > first + len(run):
            break
    return run
