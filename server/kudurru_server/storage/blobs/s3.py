"""Large things in a bucket of S3. Keys are content-addressed, so a thing is written once and never changes."""

import base64
import hashlib
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from aiobotocore.client import AioBaseClient
from botocore.exceptions import ClientError

from kudurru_server.errors import StorageUnavailableError
from kudurru_server.storage.dynamodb.aws import Connection, Gate, call, code_of, http_status, open_client
from kudurru_server.storage.dynamodb.retries import DatabaseError, OutcomeUnknownError, Pauses, patiently

PATIENCE_SECONDS = 10.0
_SHA256 = re.compile(r"(?:.*/)?([0-9a-f]{64})")
_PRECONDITION_FAILED = 412
_DENIED, _NOT_FOUND, _MOVED = 403, 404, 301
_T = TypeVar("_T")


class S3Blobs:
    """A `Blobs` in a bucket, under keys that start with `prefix`."""

    def __init__(
        self,
        client: AioBaseClient,
        bucket: str,
        prefix: str,
        connection: Connection,
        *,
        pauses: Pauses | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._gate = Gate(connection)
        self._pauses = pauses or Pauses(random.Random())  # noqa: S311 - jitter is no secret
        self._patience_seconds = patience_seconds

    async def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, durably. What is there already was the same, and stays."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()

        async def attempt() -> None:
            async with self._gate.attempt("PutObject", self._bucket):
                try:
                    await call(
                        self._client,
                        "put_object",
                        Bucket=self._bucket,
                        Key=f"{self._prefix}{key}",
                        Body=data,
                        IfNoneMatch="*",
                        ChecksumSHA256=checksum,
                    )
                except ClientError as error:
                    if http_status(error) != _PRECONDITION_FAILED:
                        raise

        await self._patiently(attempt)

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None. It is checked if the key ends in a SHA-256."""
        digest = _SHA256.fullmatch(key)

        async def attempt() -> bytes | None:
            async with self._gate.attempt("GetObject", self._bucket):
                try:
                    answer = await call(self._client, "get_object", Bucket=self._bucket, Key=f"{self._prefix}{key}")
                except ClientError as error:
                    if code_of(error) == "NoSuchKey":
                        return None
                    raise
                async with answer["Body"] as body:
                    data: bytes = await body.read()
            if digest and hashlib.sha256(data).hexdigest() != digest[1]:
                raise OutcomeUnknownError("DamagedAnswer", f"the object {key} is damaged")
            return data

        return await self._patiently(attempt)

    async def check(self) -> None:
        """Check that the bucket is there and may be used.

        Raises:
            StorageUnavailableError: why not.
        """

        async def attempt() -> str | None:
            async with self._gate.attempt("HeadBucket", self._bucket):
                try:
                    await call(self._client, "head_bucket", Bucket=self._bucket)
                except ClientError as error:
                    reason = _REASONS.get(http_status(error))
                    if reason is None:
                        raise
                    return reason
            return None

        reason = await self._patiently(attempt)
        if reason is not None:
            raise StorageUnavailableError(f"the bucket {self._bucket} {reason}")

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await patiently(attempt, self._pauses, self._patience_seconds)
        except DatabaseError as error:
            raise StorageUnavailableError(
                f"the bucket {self._bucket} cannot be used: {error.message} ({error.code})"
            ) from error


_REASONS = {
    _NOT_FOUND: "does not exist",
    _DENIED: "denies access: the policy or the credentials are wrong, or it belongs to somebody else",
    _MOVED: "is in another region",
}


@asynccontextmanager
async def open_s3(
    bucket: str,
    prefix: str = "",
    connection: Connection | None = None,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> AsyncIterator[S3Blobs]:
    """Yield the store in a bucket; credentials come from the standard chain.

    Raises:
        StorageUnavailableError: the region is missing, or the endpoint is not a URL.
    """
    connection = connection or Connection(read_timeout_seconds=10.0)
    elsewhere = connection.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # A server that is not AWS seldom has a name for each bucket.
    style = {"addressing_style": "path"} if elsewhere else None
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(open_client("s3", connection, s3=style))
        except DatabaseError as error:
            raise StorageUnavailableError(f"the bucket {bucket} cannot be used: {error}") from error
        yield S3Blobs(client, bucket, prefix, connection, patience_seconds=patience_seconds)
