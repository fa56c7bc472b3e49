"""What every call has in common: parsing its request, being observed, and the translation of whatever it raises.

Handlers work on bytes: a stream passes stored bytes on, so only requests are ever parsed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from kudurru_server.api.observe import ObservedMethod
from kudurru_server.api.status import abort, has_left
from kudurru_server.errors import InvalidRequestError, KudurruError

Context = grpc.aio.ServicerContext[bytes, bytes]
_Request = TypeVar("_Request", bound=Message)
_logger = structlog.get_logger()


def parse(kind: type[_Request], data: bytes) -> _Request:
    """Parse a request.

    Raises:
        InvalidRequestError: the bytes are not a message of this kind, or a string in it is not UTF-8.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequestError(
            "FIELD_INVALID", f"the request is not a valid {kind.DESCRIPTOR.name}", field="request"
        ) from None


async def _failed(context: Context, error: Exception, method: str) -> None:
    if isinstance(error, KudurruError):
        await abort(context, error)
    if has_left(context, error):
        return  # what was written to the caller failed for that
    _logger.error("call_failed", method=method, exc_info=error)
    await abort(context, KudurruError("INTERNAL", "a fault of the server; its log says more"))


def unary(
    method: ObservedMethod, kind: type[_Request], call: Callable[[_Request, Context], Awaitable[bytes]]
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """Make a handler that answers once."""

    async def handle(data: bytes, context: Context) -> bytes | None:
        try:
            with method.call(context):
                return await call(parse(kind, data), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the border: nothing else may leave
            await _failed(context, error, method.name)
            return None

    return grpc.unary_unary_rpc_method_handler(handle)


def server_stream(
    method: ObservedMethod, kind: type[_Request], call: Callable[[_Request, Context], Awaitable[None]]
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """Make a handler that writes many answers to its context."""

    async def handle(data: bytes, context: Context) -> None:
        try:
            with method.call(context):
                await call(parse(kind, data), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the border
            await _failed(context, error, method.name)

    return grpc.unary_stream_rpc_method_handler(handle)


def both_streams(
    method: ObservedMethod, call: Callable[[AsyncIterator[bytes], Context], Awaitable[None]]
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """Make a handler that reads many requests and writes many answers."""

    async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            with method.call(context):
                await call(requests, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the border
            await _failed(context, error, method.name)

    return grpc.stream_stream_rpc_method_handler(handle)
