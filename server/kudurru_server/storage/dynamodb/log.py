"""The commit log: entry n is one item, put where nothing is yet; whoever gets there first decides it.

A put is sent again, byte for byte the same, until its outcome is known: written, or the place is taken. The item that
is there tells by its token whether an earlier attempt of ours won.
"""

import asyncio
import random
from collections.abc import Sequence

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.frame import event_of
from kudurru_server.model import START, Cursor, Entry
from kudurru_server.storage.dynamodb import body as bodies
from kudurru_server.storage.dynamodb import entry_item, keys
from kudurru_server.storage.dynamodb.attributes import bytes_of
from kudurru_server.storage.dynamodb.body import Body
from kudurru_server.storage.dynamodb.database import Absent, Database, Item, Refused, Table, Value
from kudurru_server.storage.dynamodb.entry_item import PART_BYTES, Place
from kudurru_server.storage.dynamodb.event_rows import EventRows
from kudurru_server.storage.dynamodb.layout import Layout
from kudurru_server.storage.dynamodb.log_reader import LogReader
from kudurru_server.storage.dynamodb.payloads import Cut, Payloads, payload_of_event

_AHEAD = 64  # entries asked for together when reading on; a page of each stripe bounds the bytes
_IN_A_ROW = 4  # single reads that found an entry, before more are asked for at once
_FEW = 4  # a query of every stripe is worth more entries than this
_THREAD_BYTES = 256 << 10  # more than this is compressed beside the event loop


class Log:
    """The log, as far as this node has followed it."""

    def __init__(
        self,
        database: Database,
        payloads: Payloads,
        rows: EventRows,
        layout: Layout,
        reader: LogReader,
        *,
        writer: str,
        chance: random.Random,
    ) -> None:
        self._database = database
        self._payloads = payloads
        self._rows = rows
        self._layout = layout
        self.reader = reader
        self._writer = writer
        self._chance = chance
        self._number = 0
        self._token: bytes | None = b""  # None: not known
        self.head = START
        self._found_in_a_row = 0
        self._spilled: tuple[bytes, str] | None = None

    def begin(self, number: int, cursor: Cursor, token: bytes | None = None) -> None:
        """Start behind entry `number`, whose last event is at `cursor`, and whose token is `token` if that is known."""
        self._number, self._token, self.head = number, token if number else b"", cursor
        self.reader.learn(cursor.position, number)

    @property
    def number(self) -> int:
        """The last entry that this node has followed."""
        return self._number

    # ── writing ──

    async def put(self, entry: Entry) -> bool:
        """See `Storage.put`."""
        if entry.first > self.head.position + 1:
            await self.catch_up()
        if entry.first != self.head.position + 1:
            return False
        if self._token is None:
            self._token = (await self.reader.place(self._number)).token
        events = [event_of(frame) for frame in entry.frames]
        cuts = await self._payloads.take_out(events, payload_of_event)
        attributes = await self._pack(entry, events, cuts)
        token = self._chance.randbytes(16)
        place = Place(self._number + 1, entry.first, entry.last, entry.ticks, token, self._token, entry.ids)
        item = entry_item.to_item(entry, place, self.reader.stripes, self._writer, attributes)
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
        number = self.reader.ending_at(after)
        if number is None:
            place = await self.reader.place_at(after)
            number = place.number if place.last == after else place.number - 1
        items: list[Item] = []
        first = await self.reader.item(number + 1, consistent=latest)
        if first is not None:
            is_behind = self._found_in_a_row >= _IN_A_ROW
            items = [first, *(await self.reader.items(number + 2, number + 1 + _AHEAD) if is_behind else [])]
            self._found_in_a_row = 0 if is_behind and len(items) <= _FEW else self._found_in_a_row + 1
        else:
            self._found_in_a_row = 0
        for item in items:
            place = entry_item.place_of(item)
            if place.number == self._number + 1:
                chained = self._token in {None, place.previous_token} and place.first == self.head.position + 1
                if not chained:
                    raise StorageUnavailableError(f"log entry {place.number} does not follow the one before it")
                self._advance(place)
        entries = await self.reader.entries_of(items)
        if entries and entries[0].first <= after:
            entries[0] = entries[0].piece(after + 1 - entries[0].first, len(entries[0].ids))
        return entries

    def _advance(self, place: Place) -> None:
        self._number, self._token, self.head = place.number, place.token, place.cursor
        self.reader.learn(place.last, place.number)

    async def check(self) -> None:
        """Check that the log still is the one this node has followed.

        Raises:
            StorageUnavailableError: it is not, or does not answer.
        """
        number, token = self._number, self._token
        if not number:
            await self._layout.refresh()
            is_same = self._layout.stripes == self.reader.stripes
        else:
            item = await self.reader.item(number, consistent=True)
            is_same = item is not None and item["token"] == (token or item["token"])
        if not is_same:
            raise StorageUnavailableError(
                f"log entry {number} is not the one this server knows: the table of the log was replaced or restored"
            )
