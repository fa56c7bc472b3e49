"""Large things in a bucket of SeaweedFS."""

import asyncio
import hashlib
import uuid

import pytest
from kudurru_server.errors import StorageUnavailableError
from kudurru_server.storage.blobs.s3 import S3Blobs, open_s3
from kudurru_server.storage.dynamodb.aws import Connection, call, open_client

from tests.aws.components import Component

IMPATIENT_SECONDS = 0.2


@pytest.fixture(autouse=True)
def _environment(s3: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def bucket(s3: Component) -> str:
    """Return the name of an empty bucket."""
    name = f"b{uuid.uuid4().hex}"
    async with open_client("s3", Connection(s3.endpoint), s3={"addressing_style": "path"}) as client:
        await call(client, "create_bucket", Bucket=name)
    return name


async def overwrite(endpoint: str, bucket: str, key: str, data: bytes) -> None:
    """Write under a key whatever is there."""
    async with open_client("s3", Connection(endpoint), s3={"addressing_style": "path"}) as client:
        await call(client, "put_object", Bucket=bucket, Key=key, Body=data)


@pytest.mark.parametrize("size", [0, 1, 2 << 20])
async def test_what_is_put_is_got(bucket: str, size: int) -> None:
    data = bytes(size)
    key = f"payloads/{hashlib.sha256(data).hexdigest()}"
    async with open_s3(bucket, "store/") as blobs:
        await blobs.check()
        assert await blobs.get(key) is None
        await blobs.put(key, data)
        assert await blobs.get(key) == data
    async with open_s3(bucket) as bare:
        assert await bare.get(f"store/{key}") == data


async def test_what_is_there_stays(bucket: str) -> None:
    async with open_s3(bucket) as blobs:
        await asyncio.gather(*(blobs.put("a", b"first") for _ in range(8)))
        await blobs.put("a", b"second")
        assert await blobs.get("a") == b"first"


async def test_damage_is_found(s3: Component, bucket: str) -> None:
    key = f"payloads/{hashlib.sha256(b'right').hexdigest()}"
    await overwrite(s3.endpoint, bucket, key, b"wrong")
    async with open_s3(bucket, patience_seconds=IMPATIENT_SECONDS) as blobs:
        with pytest.raises(StorageUnavailableError, match=f"{bucket}.*is damaged"):
            await blobs.get(key)


async def test_a_missing_bucket_is_named() -> None:
    async with open_s3("no-such-bucket", patience_seconds=IMPATIENT_SECONDS) as blobs:
        with pytest.raises(StorageUnavailableError, match="the bucket no-such-bucket does not exist"):
            await blobs.check()
        with pytest.raises(StorageUnavailableError, match="no-such-bucket cannot be used"):
            await blobs.get("a")


async def test_wrong_credentials_are_told_from_a_missing_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with open_s3(bucket, patience_seconds=IMPATIENT_SECONDS) as blobs:
        with pytest.raises(StorageUnavailableError, match="denies access"):
            await blobs.check()
        with pytest.raises(StorageUnavailableError, match="SignatureDoesNotMatch"):
            await blobs.get("a")


async def test_nobody_who_listens_is_reported_after_some_patience(bucket: str) -> None:
    nowhere = Connection("http://127.0.0.1:1")
    async with open_s3(bucket, connection=nowhere, patience_seconds=IMPATIENT_SECONDS) as blobs:
        assert isinstance(blobs, S3Blobs)
        with pytest.raises(StorageUnavailableError, match=bucket):
            await blobs.put("a", b"a")
