"""Connections to AWS: one attempt a call, time-outs of our own, and every failure as one of `retries.py`."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError

from kudurru_server.storage.dynamodb.retries import (
    DatabaseError,
    OperatorError,
    OutcomeUnknownError,
    ThrottledError,
    meaning,
)

USER_AGENT = "kudurru-server"
_KEEPALIVE_SECONDS = 30.0
_PIECE_BYTES = 512 << 10
_NO_ANSWER = (
    HTTPClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    NoConnectionError,
    MetadataRetrievalError,
    CredentialRetrievalError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a service; what is None comes from the environment, like the credentials."""

    endpoint_url: str | None = None
    region: str | None = None
    concurrency: int = 64
    """How many calls may be under way."""
    connect_timeout_seconds: float = 1.0
    read_timeout_seconds: float = 2.0

    @property
    def attempt_seconds(self) -> float:
        """How long an attempt may take with everything: names, credentials, and bytes that come one by one."""
        return 2 * (self.connect_timeout_seconds + self.read_timeout_seconds)


@asynccontextmanager
async def open_client(
    service: str, connection: Connection, s3: dict[str, str] | None = None
) -> AsyncIterator[AioBaseClient]:
    """Yield a client of a service.

    Raises:
        OperatorError: the region is missing, or the endpoint is not a URL.
    """
    config = AioConfig(
        retries={"mode": "standard", "total_max_attempts": 1},
        parameter_validation=False,
        connect_timeout=connection.connect_timeout_seconds,
        read_timeout=connection.read_timeout_seconds,
        max_pool_connections=connection.concurrency,
        connector_args={"keepalive_timeout": _KEEPALIVE_SECONDS},
        user_agent=USER_AGENT,
        s3=s3,
    )
    async with AsyncExitStack() as stack:
        with translated("open", service):
            try:
                client: AioBaseClient = await stack.enter_async_context(
                    get_session().create_client(
                        service, region_name=connection.region, endpoint_url=connection.endpoint_url, config=config
                    )
                )
            except ValueError as error:
                raise OperatorError("InvalidEndpoint", f"the endpoint of {service} is not a URL") from error
        client.meta.events.register("before-send", _in_pieces)
        yield client


def _in_pieces(request: AWSPreparedRequest, **_: object) -> None:
    """Let a large body be sent in pieces: aiohttp warns that it holds up the event loop otherwise."""
    if isinstance(request.body, bytes) and len(request.body) > _PIECE_BYTES:
        request.body = BytesIO(request.body)


async def call(client: AioBaseClient, method: str, **request: object) -> dict[str, Any]:
    """Return the answer to one call of a client's method."""
    answer: dict[str, Any] = await getattr(client, method)(**request)
    return answer


class Gate:
    """Lets as many calls pass as there are connections, first come, first served.

    Without it, a freed connection goes back to the task that just used it, and others starve.
    """

    def __init__(self, connection: Connection) -> None:
        self._seconds = connection.attempt_seconds
        self._places = asyncio.Semaphore(connection.concurrency)

    @asynccontextmanager
    async def attempt(self, operation: str, target: str) -> AsyncIterator[None]:
        """Hold a place and a time limit for one attempt.

        Raises:
            DatabaseError: what the attempt raised, translated.
        """
        async with self._places:
            with translated(operation, target):
                async with asyncio.timeout(self._seconds):
                    yield


@contextmanager
def translated(operation: str, target: str) -> Iterator[None]:
    """Raise failures of AWS as `DatabaseError`s, whose messages never hold what was written."""
    try:
        yield
    except ClientError as error:
        raise failure(error, operation, target) from error
    except _NO_ANSWER as error:
        raise OutcomeUnknownError(type(error).__name__, f"no answer to {operation} on {target}") from error
    except BotoCoreError as error:
        raise OperatorError(type(error).__name__, f"{operation} on {target}: {error}") from error


def failure(error: ClientError, operation: str, target: str) -> DatabaseError:
    """Return what an error answer means."""
    response = error.response
    code = code_of(error)
    status = http_status(error)
    reasons = [str(reason.get("Code", "None")) for reason in response.get("CancellationReasons", [])]
    kind = meaning(code, status, reasons)
    message = f"{operation} on {target} failed with HTTP {status}"
    guilty = sorted({reason for reason in reasons if reason != "None"})
    if guilty:
        message += f" for {', '.join(guilty)}"
    # The texts of other errors may quote values.
    tells = kind in (OperatorError, ThrottledError) and not reasons
    return kind(code, message, response.get("Error", {}).get("Message", "") if tells else "")


def code_of(error: ClientError) -> str:
    """Return the code of an error answer."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def http_status(error: ClientError) -> int:
    """Return the HTTP status of an error answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
