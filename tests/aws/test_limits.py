"""Every limit of DynamoDB and of the store at its edge, on the real DynamoDB Local: what is recorded comes back whole.

DynamoDB Local enforces the sizes of items, transactions and batches as AWS does; but it never throttles, and its
transactions never conflict (see `fault_proxy.py` for those).
"""

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from kudurru._proto import event_store_service_pb2 as pb
from kudurru_server._proto.event_pb2 import Event
from kudurru_server.api.convert import Converter, same_content
from kudurru_server.engine.engine import Engine, EngineOptions, run_engine
from kudurru_server.frame import event_of
from kudurru_server.model import Appended, Entry, Limits, Query
from kudurru_server.storage.blobs.s3 import open_s3
from kudurru_server.storage.dynamodb import body as bodies
from kudurru_server.storage.dynamodb import entry_item, keys, tables
from kudurru_server.storage.dynamodb.aws import open_client
from kudurru_server.storage.dynamodb.body import Body
from kudurru_server.storage.dynamodb.client import open_database
from kudurru_server.storage.dynamodb.database import Database, Item, Key, Question, Table
from kudurru_server.storage.dynamodb.event_rows import ITEM_BYTES, largest_row_bytes
from kudurru_server.storage.dynamodb.retries import RequestError
from kudurru_server.storage.dynamodb.store import DynamoOptions, DynamoStorage, open_storage
from kudurru_server.storage.interface import Check, Span

from tests.aws.backend import DynamoBackend
from tests.aws.clients import s3_client
from tests.aws.components import Component
from tests.builders import NOON, append, entry, event, events_of, now_ticks, query, request, uuid4, uuid7
from tests.e2e.client import Refusal, connect, parsed
from tests.server_process import run_server, run_to_end

_LOG = DynamoOptions(lease_seconds=0.2)
_INDEX = replace(_LOG, prefer_index=True)
_BATCHES = replace(_LOG, in_transactions=False)


@dataclass
class Recorder:
    """A database that takes down how large its batches are."""

    real: Database
    transactions: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    gets: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the rest is the real one's
        return getattr(self.real, name)

    async def transact(self, writes: Sequence[tuple[Table, Item]], token: str) -> None:
        self.transactions.append(len(writes))
        await self.real.transact(writes, token)

    async def write_many(self, writes: Sequence[tuple[Table, Item]]) -> list[tuple[Table, Item]]:
        self.batches.append(len(writes))
        return await self.real.write_many(writes)

    async def get_many(self, table: Table, wanted: Sequence[Key]) -> tuple[list[Item], list[Key]]:
        self.gets.append(len(wanted))
        return await self.real.get_many(table, wanted)


@dataclass
class Store:
    """An open store and what it asks of the database."""

    storage: DynamoStorage
    database: Recorder

    async def record(self, *appends: Sequence[Event], ticks: int | None = None) -> Entry:
        """Put an entry and write its rows."""
        head = await self.storage.head()
        made = entry(head.position + 1, *appends, ticks=max(head.ticks, ticks or now_ticks()))
        assert await self.storage.put(made)
        await self.storage.apply([made])
        return made

    async def log_item(self, number: int) -> Item:
        item = await self.database.get(Table.LOG, keys.log_key(number, 4), consistent=True)
        return cast("Item", item)


@dataclass
class Place:
    """Tables, and perhaps a bucket, of one test."""

    backend: DynamoBackend
    bucket: str | None = None

    @asynccontextmanager
    async def open(self, options: DynamoOptions = _LOG) -> AsyncIterator[Store]:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_client("dynamodb", self.backend.connection))
            await tables.create(client, self.backend.prefix, protect=False)
            database = Recorder(
                await stack.enter_async_context(open_database(self.backend.prefix, self.backend.connection))
            )
            blobs = await stack.enter_async_context(open_s3(self.bucket)) if self.bucket else None
            opened = open_storage(cast("Database", database), blobs, options, chance=random.SystemRandom())
            yield Store(await stack.enter_async_context(opened), database)

    async def check(self, *recorded: Entry) -> None:
        """Read everything by every way on other nodes, and compare."""
        frames = b"".join(b"".join(one.frames) for one in recorded)
        end = recorded[-1].last
        for options in (_LOG, _INDEX):
            async with self.open(options) as store:
                assert await _history(store.storage, Query(), end) == frames
        async with self.open() as store:
            loaded: list[Entry] = []
            while some := await store.storage.entries(loaded[-1].last if loaded else 0):
                loaded += some
            assert b"".join(b"".join(one.frames) for one in loaded) == frames
            events = events_of(frames)
            for tag in sorted({tag for one in events for tag in one.event.tags})[:3]:
                found = events_of(await _history(store.storage, query(((), (tag,))), end))
                assert found == [one for one in events if tag in one.event.tags]
            ids = [one.event.event_id for one in events][:200]
            found_by_id = await store.storage.find(ids, end)
            assert [found_by_id[event_id].frame for event_id in ids] == [
                frame for one in recorded for frame in one.frames
            ][:200]


async def _history(storage: DynamoStorage, asked: Query, end: int) -> bytes:
    frames, reached = b"", 0
    while reached < end:
        batch = await storage.history(asked, Span(reached, end), 1000, 1 << 20)
        frames, reached = frames + batch.frames, batch.reached
    return frames


@pytest.fixture
def place(dynamodb: Component, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in dynamodb.environment.items():
        monkeypatch.setenv(name, value)
    return Place(DynamoBackend(dynamodb))


@pytest.fixture
async def place_with_bucket(place: Place, s3: Component, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    place.bucket = place.backend.prefix.strip("-")
    async with s3_client(s3.environment) as client:
        await client.create_bucket(Bucket=place.bucket)
    return place


def noise(size: int, seed: int = 3) -> bytes:
    """Return bytes that cannot be compressed."""
    return random.Random(seed).randbytes(size)


def tags(count: int, size: int = 8) -> list[str]:
    return [f"t:{number:0{size - 2}}" for number in range(count)]


# ── rows ──


@pytest.mark.parametrize(("events", "untagged", "sizes"), [(50, 0, [100]), (50, 1, [100, 1]), (49, 1, [99])])
async def test_a_hundred_items_are_one_transaction_and_one_more_is_another(
    place: Place, events: int, untagged: int, sizes: list[int]
) -> None:
    async with place.open() as store:
        made = await store.record([event("A", "t") for _ in range(events)] + [event("A") for _ in range(untagged)])
        assert sorted(store.database.transactions, reverse=True) == sizes
    await place.check(made)


async def test_an_event_of_more_than_a_hundred_items_takes_several_transactions(place: Place) -> None:
    async with place.open() as store:
        made = await store.record([event("A", *tags(100)), event("B", *tags(99))])
        assert sorted(store.database.transactions) == [1, 100, 100]
    await place.check(made)


async def test_twenty_five_items_are_one_batch_and_one_more_is_another(place: Place) -> None:
    async with place.open(_BATCHES) as store:
        first = await store.record([event("A", "t") for _ in range(12)] + [event("A")])
        assert sorted(store.database.batches) == [2, 25]  # two rows list the tag
        store.database.batches.clear()
        second = await store.record([event("A", "t") for _ in range(13)])
        assert sorted(store.database.batches) == [1, 25]
    await place.check(first, second)


async def test_a_hundred_keys_are_got_at_once_and_one_more_afterwards(place: Place) -> None:
    async with place.open() as store:
        made = await store.record([event() for _ in range(101)])
        for count, sizes in ((100, [100]), (101, [1, 100])):
            store.database.gets.clear()
            assert len(await store.storage.find([*made.ids[:count], uuid4()][:count], 101)) == count
            assert sorted(store.database.gets)[-len(sizes) :] == sizes


@pytest.mark.parametrize("frame_bytes", [4095, 4096, 4097])
async def test_sixty_four_long_tags_with_a_frame_around_what_their_rows_carry(place: Place, frame_bytes: int) -> None:
    short = event("A", "t", event_id=uuid4(), data=b"")
    bare = len(entry(1, [short]).frames[0])
    data = noise(frame_bytes - bare - 4)  # the lengths take two bytes more each, and so does the field
    at_edge = event("A", "t", event_id=uuid4(), data=data)
    missing = frame_bytes - len(entry(1, [at_edge]).frames[0])
    at_edge.data = noise(len(data) + missing)
    assert len(entry(1, [at_edge]).frames[0]) == frame_bytes
    async with place.open() as store:
        made = await store.record([at_edge, event("B", *tags(64, 256), data=noise(4096))], ticks=NOON)
        rows = await store.database.real.query(Question(Table.TAGS, keys.tag_pk("t"), "0", "~", consistent=True))
        assert ("frame" in rows.items[0]) == (frame_bytes <= 4096)
    await place.check(made)


async def test_rows_of_more_than_four_megabytes_are_cut(place: Place) -> None:
    async with place.open() as store:
        made = await store.record([event("A", data=noise(250_000, seed)) for seed in range(17)])
        assert sorted(store.database.transactions) == [4, 13]
        huge: list[tuple[Table, Item]] = [
            (Table.TAGS, {"pk": f"p{number}", "sk": "s", "frame": noise(390_000)}) for number in range(11)
        ]
        with pytest.raises(RequestError):
            await store.database.real.transact(huge, uuid4())
    await place.check(made)


async def test_an_event_at_all_limits_at_once_has_its_rows(place: Place) -> None:
    limits = replace(Limits(), data_bytes=256 << 10)
    limits = replace(limits, metadata_bytes=limits.metadata_bytes + ITEM_BYTES - largest_row_bytes(limits))
    assert largest_row_bytes(limits) == ITEM_BYTES
    one = event("T" * 256, *tags(64, 256), data=noise(limits.data_bytes))
    one.content_type = "c" * 256
    keys_of_pairs = [f"{number:03}" for number in range(64)]
    room = limits.metadata_bytes - sum(map(len, keys_of_pairs))
    for number, key in enumerate(keys_of_pairs):
        one.metadata[key] = "m" * (room // 64 + (number < room % 64))
    appended = Converter(limits).append(request(one))
    assert appended.size_bytes > 300_000
    async with place.open() as store:
        made = await store.record([one])
    await place.check(made)


def test_limits_that_allow_more_than_an_item_holds_stop_the_start(environment: dict[str, str]) -> None:
    too_much = {**environment, "KUDURRU_S3_PAYLOAD_THRESHOLD_BYTES": "262144", "KUDURRU_MAX_METADATA_BYTES": "262144"}
    ended = run_to_end("serve", "--listen", "127.0.0.1:0", env=too_much)
    assert ended.code == 1
    assert "an item of DynamoDB holds 409600" in ended.stderr


async def test_names_as_long_as_any_setting_allows_are_keys(place: Place) -> None:
    longest = ["x" * 1023 + ":", "y" * 1024, "g:" + "z" * 1022, "ü" * 512]
    async with place.open() as store:
        made = await store.record([event("T" * 1024, *longest)])
        assert sorted(await store.storage.tags(None, None, 10)) == sorted(longest)
    await place.check(made)


# ── entries ──


def _sized(packed_bytes: int) -> list[Event]:
    """Return two events whose entry's body is of exactly so many bytes."""
    events = [event("A", event_id=uuid4(), data=noise(packed_bytes // 2, seed)) for seed in (1, 2)]
    for _ in range(5):
        made = entry(1, events)
        size = len(bodies.pack(Body(made.labels, [event_of(frame) for frame in made.frames], [2], [])))
        if size == packed_bytes:
            return events
        events[1].data = noise(len(events[1].data) + packed_bytes - size, 2)
    raise AssertionError(f"no body of {packed_bytes} bytes")


_FITS = next(size for size in range(400_000, 0, -1) if entry_item.fits(bytes(size), 2))


@pytest.mark.parametrize("packed_bytes", [_FITS - 1, _FITS, _FITS + 1])
async def test_a_body_around_what_an_item_holds_is_written_in_it_or_beside_it(place: Place, packed_bytes: int) -> None:
    async with place.open() as store:
        made = await store.record(_sized(packed_bytes))
        item = await store.log_item(1)
        if packed_bytes <= _FITS:
            assert len(cast("bytes", item["body"])) == packed_bytes
        else:
            assert item["spilled_parts"] == 2
    await place.check(made)


@pytest.mark.parametrize(("packed_bytes", "parts"), [(759_999, 2), (760_000, 2), (760_001, 3)])
async def test_a_large_body_is_cut_into_full_parts(place: Place, packed_bytes: int, parts: int) -> None:
    assert entry_item.PART_BYTES * 2 == 760_000
    async with place.open() as store:
        made = entry(1, _sized(packed_bytes))  # its rows would be too large: only the log is asked
        assert await store.storage.put(made)
        assert (await store.log_item(1))["spilled_parts"] == parts
    async with place.open() as other:
        (found,) = await other.storage.entries(0)
        assert found.frames == made.frames


@pytest.mark.parametrize("data_bytes", [0, 900])
async def test_4096_events_and_four_megabytes_are_one_entry(place: Place, data_bytes: int) -> None:
    async with place.open() as store:
        made = await store.record([event("A", data=noise(data_bytes, seed)) for seed in range(4096)])
    await place.check(made)


async def test_as_many_events_as_an_entry_may_have_fit_beside_their_ids(place: Place) -> None:
    made = entry(1, *([event(event_id=uuid4()) for _ in range(4096)] for _ in range(4)))
    async with place.open() as store:
        assert await store.storage.put(made)
    async with place.open() as other:
        (found,) = await other.storage.entries(0)
        assert (found.frames, found.appends) == (made.frames, made.appends)


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_a_payload_above_the_threshold_lies_in_the_bucket(place_with_bucket: Place, over: int) -> None:
    place = place_with_bucket
    options = replace(_LOG, payload_threshold_bytes=20_000)
    async with place.open(options) as store:
        made = await store.record([event("A", "t", data=noise(20_000 + over)), event("B", "t", data=b"x")])
    async with s3_client(os.environ) as client:
        listed = await client.list_objects_v2(Bucket=place.bucket or "")
    assert listed["KeyCount"] == (over > 0)
    await place.check(made)


# ── pages, ticks and clocks ──


async def test_shards_without_an_event_and_pages_without_a_match_do_not_end_a_read(place: Place) -> None:
    async with place.open() as store:
        one = await store.record([event("A", "t")])
    await place.check(one)  # three of four shards are empty
    async with place.open() as store:
        many = await store.record([event("A", "t", data=bytes(3000)) for _ in range(1200)])
        last = await store.record([event("B", "t")])
        frames = await _history(store.storage, query((("B",), ("t",))), last.last)
        assert events_of(frames)[0].position == last.last == 1202
        (found,) = await store.storage.first_matches([Check(query((("B",), ("t",))), 0)], last.last)
        assert found is not None
        assert found.position == last.last
    await place.check(one, many, last)


async def test_many_entries_of_one_tick_stay_in_order_and_are_found_by_time(place: Place) -> None:
    ticks = now_ticks()
    async with place.open() as store:
        before = await store.record([event("A", "t")], ticks=ticks - 1)
        same = [await store.record([event("A", "t") for _ in range(3)], ticks=ticks) for _ in range(20)]
        after = await store.record([event("A", "t")], ticks=ticks + 1)
        assert {one.ticks for one in same} == {ticks}
        for asked, position in ((ticks - 1, 0), (ticks, 1), (ticks + 1, 61), (ticks + 2, 62)):
            assert await store.storage.position_before(asked, 62) == position
    await place.check(before, *same, after)


@dataclass
class Clock:
    """A clock that is set."""

    ticks: int

    def __call__(self) -> int:
        return self.ticks


async def test_ids_rise_whatever_the_clocks_of_two_nodes_do(place: Place) -> None:
    real = now_ticks()
    year = 365 * 86_400 * 10_000_000
    clocks = Clock(real), Clock(real)
    async with AsyncExitStack() as stack:
        engines: list[Engine] = []
        for clock in clocks:
            storage = (await stack.enter_async_context(place.open())).storage
            options = EngineOptions(follow_busy_seconds=0.005, clock=clock)
            engines.append(await stack.enter_async_context(run_engine(storage, same_content, options)))
        ids: list[tuple[int, int]] = []
        for offset in (0, 10 * year, 0, -year, 20 * year, -year):
            for engine, clock, sign in zip(engines, clocks, (1, -1), strict=True):
                clock.ticks = real + sign * offset
                (outcome,) = await engine.append([append(event("A", event_id=uuid4()))])
                assert isinstance(outcome, Appended)
                ids.append((outcome.ticks, outcome.first))
        assert ids == sorted(set(ids))
        assert ids[-1][0] == real + 20 * year
        assert [first for _, first in ids] == list(range(1, 13))


async def test_an_append_of_four_megabytes_is_taken_through_the_wire_and_a_larger_one_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with run_server(tmp_path, env=environment) as server, connect(server.address) as client:
        parts = [event("A", data=noise(1_048_000, seed)) for seed in range(4)]
        last = event("A", data=noise(1000))
        last.data = noise(len(last.data) + (4 << 20) - sum(one.ByteSize() for one in (*parts, last)))
        whole = request(*parts, last)
        answer = await client.append(pb.AppendRequest.FromString(whole.SerializeToString()))
        assert isinstance(answer, pb.AppendResponse), answer
        last.event_id = uuid7()
        last.data += b"x"
        larger = await client.append(pb.AppendRequest.FromString(request(last, *parts).SerializeToString()))
        assert isinstance(larger, Refusal)
        assert larger.reason == "APPEND_TOO_LARGE"
        frames, _ = await client.read()
        assert [one.event.data for one in parsed(frames)] == [*(one.data for one in parts), noise(len(last.data) - 1)]
