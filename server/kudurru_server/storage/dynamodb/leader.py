"""The record of the leader, `META#leader`: written on the condition that nobody has written it since."""

from dataclasses import replace

from kudurru_server.model import Leader
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.database import Absent, Database, Item, Same, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows

_KEY = keys.meta_key("leader")


class DynamoLeaderRecord:
    """A `LeaderRecord` in the log's table."""

    def __init__(self, database: Database, rows: EventRows) -> None:
        self._database = database
        self._rows = rows

    async def look(self) -> Leader | None:
        """See `LeaderRecord`."""
        item = await self._rows.asking(lambda: self._database.get(Table.LOG, _KEY, consistent=False))
        return None if item is None else _leader_of(item)

    async def write(self, leader: Leader, seen: Leader | None) -> Leader:
        """See `LeaderRecord`."""
        new = replace(leader, beat=1 if seen is None else seen.beat + 1)
        item: Item = {"pk": _KEY.pk, "n": _KEY.sk, "name": new.name, "address": new.address, "beat": new.beat}
        condition = Absent() if seen is None else Same({"name": seen.name, "beat": seen.beat})
        refused = await self._rows.asking(lambda: self._database.put(Table.LOG, item, condition))
        return new if refused is None or refused.item is None else _leader_of(refused.item)


def _leader_of(item: Item) -> Leader:
    return Leader(text_of(item, "name"), text_of(item, "address"), number_of(item, "beat"))
