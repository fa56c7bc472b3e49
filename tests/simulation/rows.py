"""Checks the tables themselves.

While they are written: that the log only grows, that the watermark is true, and that only bodies are trimmed, of
entries that have their rows. In the end: that the derived rows are
exactly those of the recorded events.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kudurru_server.model import group_of
from kudurru_server.storage.dynamodb import keys
from kudurru_server.storage.dynamodb.database import Item, Key, Table
from kudurru_server.storage.dynamodb.entry_item import BODY_ATTRIBUTES, Place, place_of

from tests.reference import Recorded
from tests.simulation.fake_tables import Effect, FakeTables


@dataclass(eq=False)
class RowsWatch:
    """Looks at every effect."""

    tables: FakeTables
    problems: list[str] = field(default_factory=list)
    trimmed: set[int] = field(default_factory=set)
    """Entries that have lost their bodies."""
    _places: dict[int, Place] = field(default_factory=dict)
    _applied: tuple[int, int] = (0, 0)

    def begin(self, places: Sequence[Place]) -> None:
        """Know a log all of which has rows."""
        self._places = {place.number: place for place in places}
        self._applied = (places[-1].number, places[-1].last) if places else (0, 0)

    def see(self, effect: Effect) -> None:
        """Judge what has just been written."""
        if effect.key == keys.meta_key("applied"):
            self._see_watermark(effect)
        elif effect.key.pk.startswith("LOG#"):
            self._see_entry(effect)

    def _see_entry(self, effect: Effect) -> None:
        if effect.before is not None or effect.after is None:
            self._see_trim(effect)
            return
        place = place_of(effect.after)
        before = self._places.get(place.number - 1)
        if place.number != len(self._places) + 1:
            self._report(effect, f"log entry {place.number} stands behind {len(self._places)}")
        elif before is not None and (place.first != before.last + 1 or place.ticks < before.ticks):
            self._report(effect, f"log entry {place.number} does not follow: {before} {place}")
        self._places[place.number] = place

    def _see_trim(self, effect: Effect) -> None:
        number = effect.key.sk
        assert isinstance(number, int)
        kept = {name: value for name, value in (effect.before or {}).items() if name not in BODY_ATTRIBUTES}
        if effect.after != kept:
            self._report(effect, f"log entry {number} is written over or deleted")
            return
        floor = self.tables.item(Table.LOG, keys.meta_key("floor")) or {}
        if number > int(str(floor.get("entry_number", 0))):
            self._report(effect, f"log entry {number} is trimmed above the floor {floor}")
        if number > self._applied[0] or self._missing(self._places[number]):
            self._report(effect, f"log entry {number} is trimmed before it has its rows")
        self.trimmed.add(number)

    def _see_watermark(self, effect: Effect) -> None:
        old = self._applied
        item = effect.after or {}
        new = item.get("entry_number", 0), item.get("position", 0)
        assert isinstance(new[0], int)
        assert isinstance(new[1], int)
        if new[0] < old[0] or new[1] < old[1]:
            self._report(effect, f"the watermark moves back from {old} to {new}")
        place = self._places.get(new[0])
        if new[0] and (place is None or place.last != new[1]):
            self._report(effect, f"the watermark {new} is not the end of an entry")
        for number in range(old[0] + 1, new[0] + 1):
            missing = self._missing(self._places[number]) if number in self._places else "the entry"
            if missing:
                self._report(effect, f"the watermark moves over entry {number} without {missing}")
        self._applied = max(old[0], new[0]), max(old[1], new[1])

    def _missing(self, place: Place) -> str:
        """Return a row that is not there for an entry; "" if all are."""
        for position, event_id in enumerate(place.ids, place.first):
            row = self.tables.item(Table.EVENTS, keys.event_key(event_id))
            if row is None or row["position"] != position:
                return f"the row of event {event_id}"
            cursor, event_type = str(row["sortable_unique_id"]), str(row["event_type"])
            tags = row["tags"]
            assert isinstance(tags, list)
            for tag in tags:
                wanted = [Key(f"TAG#{tag}", f"{cursor}#{event_id}"), *keys.listing_keys(tag)]
                for key in wanted:
                    if self.tables.item(Table.TAGS, key) is None:
                        return f"the row {key}"
            of_type = self.tables.item(Table.TAGS, Key(f"TYPE#{event_type}", "LAST"))
            if of_type is None or int(str(of_type["position"])) < position:
                return f"the row of type {event_type}"
        return ""

    def _report(self, effect: Effect, problem: str) -> None:
        self.problems.append(f"{effect.at:.3f} {effect.node}: {problem}")


def check_rows(tables: FakeTables, frames: Mapping[bytes, Recorded]) -> list[str]:
    """Return in what the derived rows are not those of what is recorded, when all is applied."""
    recorded = list(frames.values())
    frame_of = {_id(one): frame for frame, one in frames.items()}
    problems: list[str] = []
    events = tables.everything(Table.EVENTS)
    rows = {key: item for key, item in tables.everything(Table.TAGS).items() if key.pk.startswith("TAG#")}
    _compare(problems, "event rows", events.keys(), {Key(f"EVENT#{_id(one)}", f"EVENT#{_id(one)}") for one in recorded})
    wanted = {Key(f"TAG#{tag}", f"{one.cursor}#{_id(one)}"): one for one in recorded for tag in one.fact.tags}
    _compare(problems, "tag rows", rows.keys(), wanted.keys())
    by_id = {_id(one): one for one in recorded}
    for item in (*events.values(), *rows.values()):
        one = by_id.get(str(item["event_id"]))
        if one is not None:
            problems += [
                f"row of {_id(one)}: {name} is {item[name]!r}" for name in _wrong(item, one, frame_of[_id(one)])
            ]
    shards = tables.indexed()
    _compare(problems, "index entries", shards.keys(), {one.cursor for one in recorded})
    problems += [f"{cursor} is in the index in {found}" for cursor, found in shards.items() if len(found) != 1]
    names = {key for key in tables.everything(Table.TAGS) if key.pk == "GROUPS" or key.pk.startswith("GROUP#")}
    tags = {tag for one in recorded for tag in one.fact.tags}
    listed = {Key(f"GROUP#{group_of(tag)}", tag) for tag in tags} | {Key("GROUPS", f"#{group_of(tag)}") for tag in tags}
    _compare(problems, "names of tags", names, listed)
    types = {key.pk: item["position"] for key, item in tables.everything(Table.TAGS).items() if key.sk == "LAST"}
    last = {f"TYPE#{one.fact.event_type}": one.position for one in recorded}
    if types != last:
        problems.append(f"types are {types}, not {last}")
    return problems


def _id(one: Recorded) -> str:
    return one.fact.event_id


def _wrong(item: Item, one: Recorded, frame: bytes) -> list[str]:
    values: Item = {
        "sortable_unique_id": one.cursor,
        "position": one.position,
        "event_type": one.fact.event_type,
        "tags": sorted(one.fact.tags),
    }
    if "frame" in item and "payload_sha256" not in item:
        values["frame"] = frame
    return [name for name, value in values.items() if item[name] != value]


def _compare(problems: list[str], what: str, found: Iterable[object], wanted: Iterable[object]) -> None:
    have, want = set(found), set(wanted)
    if have != want:
        problems.append(f"{what}: {list(want - have)[:3]} are missing, {list(have - want)[:3]} are too many")
