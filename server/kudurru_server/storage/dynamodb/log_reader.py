"""Reads the commit log: entries by their number, and where a position or a time lies in it.

What is learned on the way is remembered, so that a search has a narrow beginning.
"""

import asyncio
from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import chain

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.model import Entry
from kudurru_server.storage.dynamodb import body as bodies
from kudurru_server.storage.dynamodb import entry_item, keys
from kudurru_server.storage.dynamodb.attributes import bytes_of, number_of, text_of
from kudurru_server.storage.dynamodb.database import Database, Item, Question, Table
from kudurru_server.storage.dynamodb.entry_item import Place
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.payloads import Payloads

_KNOWN_PLACES = 4096


class LogReader:
    """Reads what is in the log."""

    def __init__(self, database: Database, payloads: Payloads, rows: EventRows, stripes: int) -> None:
        self._database = database
        self._payloads = payloads
        self._rows = rows
        self.stripes = stripes
        """How many partitions neighbouring entries are spread over."""
        self._known: list[tuple[int, int]] = [(0, 0)]  # last position and number of entries, ascending
        self._ticks: dict[int, int] = {}

    # ── by number ──

    async def items(self, low: int, high: int) -> list[Item]:
        """Return the items of entries from `low` on, at most up to `high`, without a gap; perhaps none."""
        high = min(high, (low // keys.SEGMENT_ENTRIES + 1) * keys.SEGMENT_ENTRIES - 1)
        if low > high:
            return []
        firsts = range(low, min(high, low + self.stripes - 1) + 1)  # one number on each stripe
        pages = await asyncio.gather(*(self._page(number, high) for number in firsts))
        found = {number_of(item, "n"): item for item in chain.from_iterable(pages)}
        end = low
        while end in found:
            end += 1
        items = [found[number] for number in range(low, end)]
        for item in items:  # who reads on from here need not search
            self.learn(number_of(item, "first_position") + number_of(item, "event_count") - 1, number_of(item, "n"))
        return items

    async def _page(self, low: int, high: int) -> list[Item]:
        question = Question(Table.LOG, keys.log_pk(low, self.stripes), low, high)
        page = await self._rows.asking(lambda: self._database.query(question))
        return page.items

    async def entries_of(self, items: Sequence[Item]) -> list[Entry]:
        """Return the entries of items, in their order."""
        return list(await asyncio.gather(*map(self.entry, items)))

    async def entry_at(self, number: int) -> Entry:
        """Return entry `number`, which is in the log."""
        item = await self.item(number, consistent=True)
        if item is None:
            raise StorageUnavailableError(f"log entry {number} is missing")
        return await self.entry(item)

    async def entry(self, item: Item) -> Entry:
        """Return the entry of an item; where the body is trimmed, from the rows."""
        place = entry_item.place_of(item)
        packed = await self._packed(item, place.number)
        if packed is None:
            return await self._rows.entry(place)
        body = bodies.unpack(packed)
        await self._payloads.put_back(body.events, body.cuts)
        return entry_item.to_entry(place, body)

    async def _packed(self, item: Item, number: int) -> bytes | None:
        """Return the body; None if it is trimmed, perhaps just now: parts go before the entry's word of them."""
        if "body" in item:
            return entry_item.check(bytes_of(item, "body"), item["checksum"], number)
        if "spilled_to" not in item:
            return None
        name, parts = text_of(item, "spilled_to"), number_of(item, "spilled_parts")
        found = await asyncio.gather(*(self._part(name, part) for part in range(parts)))
        whole = [part for part in found if part is not None]
        return entry_item.check(b"".join(whole), item["checksum"], number) if len(whole) == parts else None

    async def _part(self, name: str, part: int) -> bytes | None:
        key = keys.spill_key(name, part)
        item = await self._rows.asking(lambda: self._database.get(Table.LOG, key, consistent=True))
        return None if item is None else bytes_of(item, "body")

    async def item(self, number: int, *, consistent: bool) -> Item | None:
        """Return the item of entry `number`, if it is there."""
        key = keys.log_key(number, self.stripes)
        return await self._rows.asking(lambda: self._database.get(Table.LOG, key, consistent=consistent))

    async def place(self, number: int) -> Place:
        """Return what the log says of entry `number`, which is in it."""
        item = await self.item(number, consistent=True)
        if item is None:
            raise StorageUnavailableError(f"log entry {number} is missing")
        place = entry_item.place_of(item)
        self.learn(place.last, place.number)
        return place

    # ── by position and time ──

    async def number_at(self, position: int) -> int:
        """Return the number of the entry that holds `position`, which is in the log."""
        at = bisect_right(self._known, (position - 1, 1 << 62))
        last, number = self._known[at - 1]
        next_last, next_number = self._known[at] if at < len(self._known) else (0, 0)
        if position == next_last:
            return next_number
        if position == last + 1 or next_number == number + 1:
            return number + 1
        return (await self.place_at(position)).number

    async def ticks_at(self, position: int) -> int:
        """Return the ticks of the event at `position`, which is in the log."""
        ticks = self._ticks.get(position)
        if ticks is None:
            ticks = (await self.place_at(position)).ticks
            self.learn_ticks(position, ticks)
        return ticks

    def learn_ticks(self, position: int, ticks: int) -> None:
        """Remember the ticks of the event at `position`."""
        self._ticks[position] = ticks
        if len(self._ticks) > _KNOWN_PLACES:
            self._ticks.pop(next(iter(self._ticks)))

    async def place_at(self, position: int) -> Place:
        """Return the entry that holds `position`, which is in the log."""
        place = await self.find(position)
        if place is None:
            raise StorageUnavailableError(f"position {position} is not in the log")
        return place

    async def find(self, position: int) -> Place | None:
        """Return the entry that holds `position`; None if the log does not reach so far."""
        at = bisect_right(self._known, (position - 1, 1 << 62))
        last, number = self._known[at - 1]
        low = number + 1
        # An entry has at least one event, so that of a position is at most as many entries away as positions.
        high = self._known[at][1] if at < len(self._known) else number + position - last
        while low <= high:
            middle = (low + high) // 2
            item = await self.item(middle, consistent=True)
            place = None if item is None else entry_item.place_of(item)
            if place is None or position < place.first:
                high = middle - 1
            elif place.last < position:
                low = middle + 1
            else:
                self.learn(place.last, place.number)
                return place
        return None

    async def position_before(self, ticks: int, until: int) -> int:
        """Return the last position up to `until` of lower ticks; 0 if there is none."""
        low, high, found = 1, await self.number_at(until) if until else 0, 0
        while low <= high:
            middle = (low + high) // 2
            place = await self.place(middle)
            if place.ticks < ticks:
                found, low = min(until, place.last), middle + 1
            else:
                high = middle - 1
        return found

    def ending_at(self, position: int) -> int | None:
        """Return the number of the entry that ends with `position`, if that is known."""
        last, number = self._known[bisect_right(self._known, (position, 1 << 62)) - 1]
        return number if last == position else None

    def learn(self, last: int, number: int) -> None:
        """Remember that entry `number` ends with position `last`."""
        if self.ending_at(last) is None:
            insort(self._known, (last, number))
            if len(self._known) > _KNOWN_PLACES:  # every other one: what is left still narrows a search
                self._known = [self._known[0], *self._known[1:-1:2], self._known[-1]]
