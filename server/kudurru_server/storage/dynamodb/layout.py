"""What all nodes must agree on, in `META#layout`: written once, by whoever comes first, and read by everyone else."""

from kudurru_server.errors import DataDirectoryError, StorageUnavailableError
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.attributes import number_of, text_of
from kudurru_server.storage.dynamodb.database import Absent, Below, Database, Item, Question, Same, Table
from kudurru_server.storage.dynamodb.event_rows import EventRows

FORMAT = 1
RESTORING = "restoring"
"""An attribute that is there while a restore is under way."""
_ANOTHER = "another restore of this store has begun"
_KEY = keys.meta_key("layout")


class Layout:
    """The layout of a store. Use `agree`."""

    def __init__(self, database: Database, rows: EventRows) -> None:
        self._database = database
        self._rows = rows
        self.stripes = 0
        self.write_shard_count = 0
        """The largest that any node has written with: readers look at so many shards."""
        self.restored = ""
        """Which restore the store comes from: what was written before has other request tokens."""

    async def agree(self, stripes: int, write_shard_count: int) -> None:
        """Read the layout; make it if there is none, and raise the number of shards if it is lower.

        Raises:
            DataDirectoryError: the store has another format, or a restore of it has not come to its end.
            StorageUnavailableError: it does not answer, or holds events of a log that is gone.
        """
        if await self._item() is None and await self._has_events(write_shard_count) and await self._item() is None:
            raise StorageUnavailableError("there are events, but no log: its table was replaced")
        new: Item = {
            "pk": _KEY.pk,
            "n": _KEY.sk,
            "format": FORMAT,
            "stripes": stripes,
            "write_shard_count": write_shard_count,
        }
        refused = await self._rows.asking(lambda: self._database.put(Table.LOG, new, Absent()))
        found = new if refused is None or refused.item is None else refused.item
        _check_format(found)
        if RESTORING in found:
            raise DataDirectoryError("a restore has not come to its end: run `kudurru-server tables restore` again")
        if number_of(found, "write_shard_count") < write_shard_count:
            more: Item = {"write_shard_count": write_shard_count}
            below = Below("write_shard_count", write_shard_count)
            await self._rows.asking(lambda: self._database.update(Table.LOG, _KEY, more, below))
        await self.refresh()

    async def refresh(self) -> None:
        """Read the layout again: another node may have raised the number of shards.

        Raises:
            StorageUnavailableError: there is none, or it does not answer.
        """
        item = await self._item()
        if item is None:
            raise StorageUnavailableError("the log has no layout: its table was replaced")
        _check_format(item)
        self.restored = text_of(item, "restored") if "restored" in item else ""
        self.stripes = number_of(item, "stripes")
        self.write_shard_count = number_of(item, "write_shard_count")

    async def begin_restore(self, name: str) -> None:
        """Keep servers from starting, and give every request token that follows another text."""
        values: Item = {RESTORING: 1, "restored": name}
        before = Same({"restored": self.restored or None})  # so that one that comes late does nothing
        refused = await self._rows.asking(lambda: self._database.update(Table.LOG, _KEY, values, before))
        if refused is not None and (refused.item is None or refused.item.get("restored") != name):
            raise DataDirectoryError(_ANOTHER)
        self.restored = name

    async def end_restore(self) -> None:
        """Let servers start again."""
        mine = Same({"restored": self.restored})
        if await self._rows.asking(lambda: self._database.update(Table.LOG, _KEY, {}, mine, remove=[RESTORING])):
            raise DataDirectoryError(_ANOTHER)

    async def _item(self) -> Item | None:
        return await self._rows.asking(lambda: self._database.get(Table.LOG, _KEY, consistent=True))

    async def _has_events(self, shards: int) -> bool:
        for shard in range(shards):
            pk, low, high = keys.shard_pk(shard), keys.FIRST_CURSOR, keys.LAST_CURSOR
            question = Question(Table.EVENTS, pk, low, high, index=keys.ALL_EVENTS)
            if (await self._rows.page(question, 1)).items:
                return True
        return False


def _check_format(item: Item) -> None:
    known = number_of(item, "format")
    if known != FORMAT:
        raise DataDirectoryError(f"the log has format {known}, which this version does not know")
