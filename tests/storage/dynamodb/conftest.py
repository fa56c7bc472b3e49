"""A canned service, and the credentials to talk to it."""

from collections.abc import AsyncIterator

import pytest

from tests.storage.dynamodb.canned_service import Service, canned_service


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """Return a service that does what it is told."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    async with canned_service() as running:
        yield running
