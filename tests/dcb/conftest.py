"""What all examples share: a past of their own, and a time limit."""

from pathlib import Path

import pytest

from tests.dcb.scenario import Given

_LIMIT_SECONDS = 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound every test here."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(_LIMIT_SECONDS))


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """Begin a scenario on an empty store."""
    return Given(tmp_path)
