"""Tiny generations, so that the border between history and tail is crossed constantly."""

from pathlib import Path

import pytest

GENERATION = 3


@pytest.fixture(autouse=True)
def tiny_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kudurru_server.engine.tail.GENERATION_EVENTS", GENERATION)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"
