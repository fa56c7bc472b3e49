"""What the store of large things makes of the answers that a test's S3 seldom gives."""

import base64
import hashlib

import pytest
from kudurru_server.errors import StorageUnavailableError
from kudurru_server.storage.blobs.s3 import open_s3
from kudurru_server.storage.dynamodb.aws import Connection

from tests.storage.dynamodb.canned_service import Canned, Service

FINE = Canned(b"")
IMPATIENT_SECONDS = 0.05


def refusal(code: str, status: int) -> Canned:
    """Return an error as S3 gives it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>text</Message></Error>"
    return Canned(text.encode(), status, {"Content-Type": "application/xml"})


async def put(service: Service, patience_seconds: float = 10.0) -> None:
    async with open_s3("b", connection=Connection(service.endpoint), patience_seconds=patience_seconds) as blobs:
        await blobs.put("k", b"data")


async def test_a_put_is_conditional_and_carries_its_checksum(service: Service) -> None:
    service.will(FINE)
    await put(service)
    (headers,) = service.headers
    assert headers["If-None-Match"] == "*"
    assert headers["x-amz-checksum-sha256"] == base64.b64encode(hashlib.sha256(b"data").digest()).decode()


async def test_what_is_there_already_is_fine(service: Service) -> None:
    service.will(refusal("PreconditionFailed", 412))
    await put(service)
    assert len(service.headers) == 1


@pytest.mark.parametrize(
    "passing",
    [
        refusal("ConditionalRequestConflict", 409),
        refusal("SlowDown", 503),
        refusal("InternalError", 500),
        refusal("BadDigest", 400),
        Canned(b"", 502),
        Canned(drops=True),
    ],
)
async def test_what_passes_is_tried_again(service: Service, passing: Canned) -> None:
    service.will(passing, FINE)
    await put(service)
    assert len(service.headers) == 2


async def test_what_does_not_pass_names_the_bucket_and_the_reason(service: Service) -> None:
    service.will(refusal("SlowDown", 503))
    with pytest.raises(StorageUnavailableError, match=r"the bucket b cannot be used: PutObject .*\(SlowDown\)"):
        await put(service, IMPATIENT_SECONDS)
    service.will(refusal("AccessDenied", 403))
    with pytest.raises(StorageUnavailableError, match=r"the bucket b cannot be used: PutObject .*\(AccessDenied\)"):
        await put(service)


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "does not exist"), (403, "denies access"), (301, "another region")]
)
async def test_a_check_says_what_is_wrong_with_the_bucket(service: Service, status: int, reason: str) -> None:
    service.will(Canned(b"", status, {"x-amz-bucket-region": "us-east-1"}))
    async with open_s3("b", connection=Connection(service.endpoint)) as blobs:
        with pytest.raises(StorageUnavailableError, match=f"the bucket b .*{reason}"):
            await blobs.check()


async def test_what_is_damaged_on_its_way_is_read_again(service: Service) -> None:
    key = f"payloads/{hashlib.sha256(b'right').hexdigest()}"
    service.will(Canned(b"wrong"), Canned(b"right"))
    async with open_s3("b", connection=Connection(service.endpoint)) as blobs:
        assert await blobs.get(key) == b"right"


async def test_a_missing_region_says_which_bucket_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(StorageUnavailableError, match="the bucket b cannot be used"):
        async with open_s3("b", connection=Connection("nonsense")) as blobs:
            await blobs.check()
