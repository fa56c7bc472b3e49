"""What all tests share: how hypothesis runs, and the real services that stores run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.aws.components import Component, dynamodb_local, seaweedfs

settings.register_profile(
    "kudurru",
    deadline=None,  # an fsync takes as long as it takes
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("kudurru")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs real components, so that the rest can run where there is neither Java nor npm."""
    for item in items:
        if item.path.parent == Path(__file__).parent / "aws":
            item.add_marker(pytest.mark.components)


@pytest.fixture(scope="session")
def dynamodb() -> Iterator[Component]:
    """Return a DynamoDB, started when a test first asks for it; tests that share it use tables of their own."""
    with dynamodb_local() as component:
        yield component


@pytest.fixture(scope="session")
def s3() -> Iterator[Component]:
    """Return an S3, started when a test first asks for it; tests that share it use buckets of their own."""
    with seaweedfs() as component:
        yield component
