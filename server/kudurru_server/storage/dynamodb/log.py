"""The commit log: entry n is one item, put where nothing is yet; whoever gets there first decides it.

A put is sent again, byte for byte the same, until its outcome is known: written, or the place is taken. The item that
is there tells by its token whether an earlier attempt of ours won.
"""

import asyncio
import random
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.frame import event_of
from kudurru_server.model import START, Cursor, Entry
from kudurru_server.storage.dynamodb import body as bodies
from kudurru_server.storage.dynamodb import entry_item, keys
from kudurru_server.storage.dynamodb.attributes import bytes_of, number_of, text_of
from kudurru_server.storage.dynamodb.body import Body
from kudurru_server.storage.dynamodb.database import Absent, Database, Item, Question, Refused, Table, Value
from kudurru_server.storage.dynamodb.entry_item import PART_BYTES, Place
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.layout import Layout
from kudurru_server.storage.dynamodb.payloads import Cut, Payloads, payload_of_event

_AHEAD = 64  # entries asked for together when reading on; a page of each stripe bounds the bytes
_KNOWN_PLACES = 4096
_THREAD_BYTES = 256 << 10  # more than this is compressed beside the event loop


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How the log is read and written."""

    stripes: int
    writer: str


class Log:
    """The log, as far as this node has followed it."""

    def __init__(
        self,
        database: Database,
        payloads: Payloads,
        rows: EventRows,
        layout: Layout,
        options: LogOptions,
        *,
        chance: random.Random,
    ) -> None:
        self._database = database
        self._payloads = payloads
        self._rows = rows
        self._layout = layout
        self._options = options
        self._chance = chance
        self._number = 0
        self._token: bytes | None = b""  # None: not known
        self.head = START
        self._reading_on = False
        self._known: list[tuple[int, int]] = [(0, 0)]  # last position and number of entries, ascending
        self._ticks: dict[int, int] = {}
        self._spilled: tuple[bytes, str] | None = None

    def begin(self, number: int, cursor: Cursor, token: bytes | None = None) -> None:
        """Start behind entry `number`, whose last event is at `cursor`, and whose token is `token` if that is known."""
        self._number, self._token, self.head = number, token if number else b"", cursor
        self._learn(cursor.position, number)

    @property
    def number(self) -> int:
        """The last entry that this node has followed."""
        return self._number

    @property
    def stripes(self) -> int:
        """How many partitions neighbouring entries are spread over."""
        return self._options.stripes

    # ── writing ──

    async def put(self, entry: Entry) -> bool:
        """See `Storage.put`."""
        if entry.first > self.head.position + 1:
            await self.catch_up()
        if entry.first != self.head.position + 1:
            return False
        if self._token is None:
            self._token = (await self.place(self._number)).token
        events = [event_of(frame) for frame in entry.frames]
        cuts = await self._payloads.take_out(events, payload_of_event)
        attributes = await self._pack(entry, events, cuts)
        token = self._chance.randbytes(16)
        place = Place(self._number + 1, entry.first, entry.last, entry.ticks, token, self._token, entry.ids)
        item = entry_item.to_item(entry, place, self._options.stripes, self._options.writer, attributes)
        refused = await self._rows.asking(lambda: self._database.put(Table.LOG, item, Absent()))
        if not self._is_ours(refused, token):
            return False
        self._advance(place)
        return True

    @staticmethod
    def _is_ours(refused: Refused | None, token: bytes) -> bool:
        return refused is None or (refused.item is not None and refused.item.get("token") == token)

    async def _pack(self, entry: Entry, events: list[bytes], cuts: Sequence[Cut]) -> dict[str, Value]:
        body = Body(entry.labels, events, [count for _, count in entry.appends], cuts)
        if sum(map(len, events)) > _THREAD_BYTES:
            packed = await asyncio.get_running_loop().run_in_executor(None, bodies.pack, body)
        else:
            packed = bodies.pack(body)
        if entry_item.fits(packed, len(entry.ids)):
            return entry_item.body_attributes(packed, None)
        attributes = entry_item.body_attributes(packed, "")
        checksum = attributes["checksum"]
        if self._spilled is None or self._spilled[0] != checksum:  # a put that was lost does not spill again
            name = self._chance.randbytes(16).hex()
            await self._spill(name, packed)
            self._spilled = bytes_of(attributes, "checksum"), name
        return {**attributes, "spilled_to": self._spilled[1]}

    async def _spill(self, name: str, packed: bytes) -> None:
        parts = [packed[start : start + PART_BYTES] for start in range(0, len(packed), PART_BYTES)]
        items: list[Item] = [
            {"pk": keys.spill_key(name, number).pk, "n": number, "body": part} for number, part in enumerate(parts)
        ]
        await asyncio.gather(*(self._patiently_put(item) for item in items))

    async def _patiently_put(self, item: Item) -> None:
        await self._rows.asking(lambda: self._database.put(Table.LOG, item))

    # ── following ──

    async def catch_up(self) -> None:
        """Follow the log to its end."""
        while await self.entries(self.head.position, latest=True):
            pass

    async def entries(self, after: int, *, latest: bool) -> list[Entry]:
        """See `Storage.entries`."""
        number = self._ending_at(after)
        if number is None:
            place = await self.place_at(after)
            number = place.number if place.last == after else place.number - 1
        items: list[Item] = []
        first = await self._get(number + 1, consistent=latest)
        if first is not None:
            items = [first, *(await self.items(number + 2, number + 1 + _AHEAD) if self._reading_on else [])]
        self._reading_on = first is not None
        for item in items:
            place = entry_item.place_of(item)
            if place.number == self._number + 1:
                chained = self._token in {None, place.previous_token} and place.first == self.head.position + 1
                if not chained:
                    raise StorageUnavailableError(f"log entry {place.number} does not follow the one before it")
                self._advance(place)
        entries = await self.entries_of(items)
        if entries and entries[0].first <= after:
            entries[0] = entries[0].piece(after + 1 - entries[0].first, len(entries[0].ids))
        return entries

    def _advance(self, place: Place) -> None:
        self._number, self._token, self.head = place.number, place.token, place.cursor
        self._learn(place.last, place.number)

    # ── reading ──

    async def items(self, low: int, high: int) -> list[Item]:
        """Return the items of entries from `low` on, at most up to `high`, without a gap; perhaps none."""
        high = min(high, (low // keys.SEGMENT_ENTRIES + 1) * keys.SEGMENT_ENTRIES - 1)
        if low > high:
            return []
        firsts = range(low, min(high, low + self._options.stripes - 1) + 1)  # one number on each stripe
        pages = await asyncio.gather(*(self._page(number, high) for number in firsts))
        found = {number_of(item, "n"): item for item in chain.from_iterable(pages)}
        end = low
        while end in found:
            end += 1
        items = [found[number] for number in range(low, end)]
        for item in items:  # who reads on from here need not search
            self._learn(number_of(item, "first_position") + number_of(item, "event_count") - 1, number_of(item, "n"))
        return items

    async def _page(self, low: int, high: int) -> list[Item]:
        question = Question(Table.LOG, keys.log_pk(low, self._options.stripes), low, high)
        page = await self._rows.asking(lambda: self._database.query(question))
        return page.items

    async def entries_of(self, items: Sequence[Item]) -> list[Entry]:
        """Return the entries of items, in their order."""
        return list(await asyncio.gather(*map(self.entry, items)))

    async def entry_at(self, number: int) -> Entry:
        """Return entry `number`, which is in the log."""
        item = await self._get(number, consistent=True)
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

    async def _get(self, number: int, *, consistent: bool) -> Item | None:
        key = keys.log_key(number, self._options.stripes)
        return await self._rows.asking(lambda: self._database.get(Table.LOG, key, consistent=consistent))

    async def check(self) -> None:
        """Check that the log still is the one this node has followed.

        Raises:
            StorageUnavailableError: it is not, or does not answer.
        """
        number, token = self._number, self._token
        if not number:
            await self._layout.refresh()
            is_same = self._layout.stripes == self._options.stripes
        else:
            item = await self._get(number, consistent=True)
            is_same = item is not None and item["token"] == (token or item["token"])
        if not is_same:
            raise StorageUnavailableError(
                f"log entry {number} is not the one this server knows: the table of the log was replaced or restored"
            )

    async def place(self, number: int) -> Place:
        """Return what the log says of entry `number`, which is in it."""
        item = await self._get(number, consistent=True)
        if item is None:
            raise StorageUnavailableError(f"log entry {number} is missing")
        place = entry_item.place_of(item)
        self._learn(place.last, place.number)
        return place

    # ── finding ──

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
            item = await self._get(middle, consistent=True)
            place = None if item is None else entry_item.place_of(item)
            if place is None or position < place.first:
                high = middle - 1
            elif place.last < position:
                low = middle + 1
            else:
                self._learn(place.last, place.number)
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

    def _ending_at(self, position: int) -> int | None:
        """Return the number of the entry that ends with `position`, if that is known."""
        last, number = self._known[bisect_right(self._known, (position, 1 << 62)) - 1]
        return number if last == position else None

    def _learn(self, last: int, number: int) -> None:
        if self._ending_at(last) is None:
            insort(self._known, (last, number))
            if len(self._known) > _KNOWN_PLACES:  # every other one: what is left still narrows a search
                self._known = [self._known[0], *self._known[1:-1:2], self._known[-1]]
