"""The stores a server can run on: opens the one the settings name, and says how the engine must treat it."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from kudurru_server.cost import spend
from kudurru_server.engine.engine import EngineOptions
from kudurru_server.errors import StorageUnavailableError
from kudurru_server.settings import Settings
from kudurru_server.storage.blobs.interface import Blobs
from kudurru_server.storage.blobs.s3 import open_s3
from kudurru_server.storage.dynamodb import store as dynamodb
from kudurru_server.storage.dynamodb import tables
from kudurru_server.storage.dynamodb.aws import Connection, open_client
from kudurru_server.storage.dynamodb.client import OnCall, open_database
from kudurru_server.storage.dynamodb.clock import ServerClock
from kudurru_server.storage.dynamodb.database import Table
from kudurru_server.storage.dynamodb.event_rows import ITEM_BYTES, largest_row_bytes
from kudurru_server.storage.dynamodb.iam import policy
from kudurru_server.storage.dynamodb.restore import Plan, Restored, open_restore
from kudurru_server.storage.dynamodb.restore_rows import RestoreError
from kudurru_server.storage.dynamodb.retries import DatabaseError, OperatorError
from kudurru_server.storage.dynamodb.store import DynamoOptions
from kudurru_server.storage.dynamodb.tables import TableDescription
from kudurru_server.storage.dynamodb.trim import Trimming
from kudurru_server.storage.interface import LeaderRecord, Storage
from kudurru_server.storage.sqlite import store as sqlite

__all__ = [
    "Plan",
    "RestoreError",
    "Store",
    "create_tables",
    "describe_tables",
    "open_store",
    "policy",
    "restore_tables",
    "verify_tables",
]

_ENTRY_BYTES = 1 << 20  # compressed it mostly fits into one item, and a larger one is written in parts


@dataclass(frozen=True, slots=True)
class Store:
    """An open store."""

    storage: Storage
    engine_options: EngineOptions
    leader_record: LeaderRecord | None
    """Where its nodes agree on a leader; None: there is only one node."""
    where: dict[str, str]
    """Where the events are, for the log."""


@asynccontextmanager
async def open_store(settings: Settings, on_database_call: OnCall) -> AsyncIterator[Store]:
    """Open the store that the settings name; it tells of every call of a database and puts its cost on the bill.

    Raises:
        DataDirectoryError: it cannot be used: taken, not writable, or of another format.
        StorageUnavailableError: it does not answer, or its tables or bucket are not as they must be.
    """
    if settings.storage == "dynamodb":
        async with _open_dynamodb(settings, on_database_call) as store:
            yield store
    else:
        async with sqlite.open_storage(settings.data_dir) as storage:
            options = EngineOptions(
                tail_bytes=settings.tail_bytes,
                pending_bytes=settings.max_pending_bytes,
                unapplied_bytes=settings.max_unapplied_bytes,
            )
            yield Store(storage, options, None, {"data_dir": str(settings.data_dir)})


@asynccontextmanager
async def _open_dynamodb(settings: Settings, on_call: OnCall) -> AsyncIterator[Store]:
    prefix, connection, clock = settings.dynamodb_table_prefix, _connection(settings), ServerClock()
    chance = random.SystemRandom()
    async with AsyncExitStack() as stack:
        with _at_start():
            _check_limits(settings)
            await _prepare_tables(settings)
            database = await stack.enter_async_context(
                open_database(prefix, connection, clock=clock, on_capacity=_on_capacity, on_call=on_call)
            )
            blobs = await stack.enter_async_context(_open_bucket(settings)) if settings.s3_bucket else None
            options = _dynamo_options(settings)
            hours = settings.dynamodb_log_retention_hours
            trimming = None if hours is None else Trimming(hours * 3600, clock.now_ticks)
            opening = dynamodb.open_storage(database, blobs, options, chance=chance, trimming=trimming)
            storage = await stack.enter_async_context(opening)
        engine_options = EngineOptions(
            tail_bytes=settings.tail_bytes,
            pending_bytes=settings.max_pending_bytes,
            unapplied_bytes=settings.max_unapplied_bytes,
            entry_bytes=_ENTRY_BYTES,
            follow_busy_seconds=settings.dynamodb_poll_busy_seconds,
            follow_idle_seconds=settings.dynamodb_poll_idle_seconds,
            apply_delay_seconds=settings.dynamodb_apply_delay_seconds,
            keep_above_bytes=settings.s3_payload_threshold_bytes if settings.s3_bucket else None,
            clock=clock.now_ticks,
        )
        bucket = {"bucket": settings.s3_bucket} if settings.s3_bucket else {}
        yield Store(storage, engine_options, storage.leader_record, {"tables": f"{prefix}*", **bucket})


def _dynamo_options(settings: Settings) -> DynamoOptions:
    return DynamoOptions(
        stripes=settings.dynamodb_stripes,
        write_shard_count=settings.dynamodb_write_shard_count,
        payload_threshold_bytes=settings.s3_payload_threshold_bytes,
        in_transactions=settings.dynamodb_index_writes == "transactions",
        prefer_index=settings.dynamodb_history == "index",
        writes_at_once=settings.dynamodb_writes_at_once,
        lease_seconds=settings.dynamodb_lease_seconds,
        patience_seconds=settings.dynamodb_patience_seconds,
    )


def _on_capacity(_: str, table: Table, read_units: float, write_units: float) -> None:
    spend(table, read_units, write_units)


def _check_limits(settings: Settings) -> None:
    limits = settings.limits()
    inline = replace(limits, data_bytes=min(limits.data_bytes, settings.s3_payload_threshold_bytes))
    size = largest_row_bytes(inline)
    if size > ITEM_BYTES:
        raise OperatorError(
            "LimitsTooHigh",
            f"an event within the limits may take {size} bytes, and an item of DynamoDB holds {ITEM_BYTES}: "
            "lower the payload threshold, or the limits of tags or metadata",
        )


async def _prepare_tables(settings: Settings) -> None:
    async with open_client("dynamodb", _connection(settings)) as client:
        if settings.dynamodb_create_tables:
            await tables.create(client, settings.dynamodb_table_prefix)
        else:
            await tables.verify(client, settings.dynamodb_table_prefix)


@asynccontextmanager
async def _open_bucket(settings: Settings) -> AsyncIterator[Blobs]:
    connection = Connection(
        endpoint_url=settings.s3_endpoint_url,
        concurrency=settings.s3_concurrency,
        connect_timeout_seconds=settings.dynamodb_connect_timeout_seconds,
        read_timeout_seconds=settings.dynamodb_patience_seconds,
    )
    async with open_s3(settings.s3_bucket or "", settings.s3_key_prefix, connection) as blobs:
        await blobs.check()
        yield blobs


def _connection(settings: Settings) -> Connection:
    """Return how to reach DynamoDB."""
    return Connection(
        endpoint_url=settings.dynamodb_endpoint_url,
        concurrency=settings.dynamodb_concurrency,
        connect_timeout_seconds=settings.dynamodb_connect_timeout_seconds,
        read_timeout_seconds=settings.dynamodb_read_timeout_seconds,
    )


async def create_tables(settings: Settings) -> None:
    """Create the tables that are missing.

    Raises:
        StorageUnavailableError: they cannot be created, or others of these names exist.
    """
    with _at_start():
        async with open_client("dynamodb", _connection(settings)) as client:
            await tables.create(client, settings.dynamodb_table_prefix)


async def verify_tables(settings: Settings) -> None:
    """Check that the tables are as they must be.

    Raises:
        StorageUnavailableError: what is missing or differs.
    """
    with _at_start():
        async with open_client("dynamodb", _connection(settings)) as client:
            await tables.verify(client, settings.dynamodb_table_prefix)


async def describe_tables(settings: Settings) -> list[TableDescription]:
    """Return what the service says of the tables.

    Raises:
        StorageUnavailableError: it does not answer.
    """
    with _at_start():
        async with open_client("dynamodb", _connection(settings)) as client:
            return await tables.describe(client, settings.dynamodb_table_prefix)


async def restore_tables(settings: Settings, agree: Callable[[Plan], bool]) -> Restored | None:
    """Make tables that were restored to different points in time one store again, if somebody agrees to the plan.

    Raises:
        RestoreError: they cannot be, or a server is at work on them.
        DataDirectoryError: they hold no store, or one of another format.
        StorageUnavailableError: the log is damaged, something is missing, or there is no answer.
    """
    chance = random.SystemRandom()
    async with AsyncExitStack() as stack:
        with _at_start():
            await verify_tables(settings)
            connection = _connection(settings)
            database = await stack.enter_async_context(open_database(settings.dynamodb_table_prefix, connection))
            blobs = await stack.enter_async_context(_open_bucket(settings)) if settings.s3_bucket else None
            restore = await open_restore(database, blobs, _dynamo_options(settings), chance=chance)
        plan = await restore.plan()
        return await restore.run(plan, chance.randbytes(8).hex()) if agree(plan) else None


@contextmanager
def _at_start() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        text = f"{error.message} ({error.code})"
        raise StorageUnavailableError(f"{text}: {error.detail}" if error.detail else text) from error
