"""Tiny limits everywhere, so that a few events are many generations, pages, segments, chunks and parts."""

import logging
from collections.abc import Iterator

import pytest
import structlog

_TINY = {
    "engine.tail.GENERATION_EVENTS": 3,
    "engine.leadership._LOST_PUTS": 1,
    "storage.dynamodb.keys.SEGMENT_ENTRIES": 7,
    "storage.dynamodb.log._AHEAD": 4,
    "storage.dynamodb.log_reader._KNOWN_PLACES": 8,
    "storage.dynamodb.log.PART_BYTES": 300,
    "storage.dynamodb.entry_item.PART_BYTES": 300,
    "storage.dynamodb.entry_item._ENTRY_BYTES": 1_600,
    "storage.dynamodb.event_rows._GET_MANY": 3,
    "storage.dynamodb.event_rows._SMALL_FRAME_BYTES": 200,
    "storage.dynamodb.chunks.TRANSACTION_ITEMS": 5,
    "storage.dynamodb.roll_forward._GROUP_EVENTS": 4,
    "storage.dynamodb.roll_forward._KNOWN_TAGS": 2,
    "storage.dynamodb.roll_forward._BATCH_ITEMS": 3,
    "storage.dynamodb.conditions._PAGE": 2,
    "storage.dynamodb.history._TAG_PAGE": 3,
    "storage.dynamodb.history._INDEX_PAGE": 2,
    "storage.dynamodb.history._ENTRIES": 3,
    "storage.dynamodb.trim._ENTRIES": 3,
    "storage.dynamodb.trim._BYTES": 900,
    "storage.dynamodb.trim.PART_BYTES": 300,
    "storage.dynamodb.trim._BUSY_SECONDS": 0.05,
    "storage.dynamodb.trim._IDLE_SECONDS": 0.2,
}


@pytest.fixture(autouse=True)
def tiny_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _TINY.items():
        monkeypatch.setattr(f"kudurru_server.{name}", value)


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()
