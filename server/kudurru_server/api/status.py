"""From errors to statuses: the only place that names a status code."""

import asyncio
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.errors import (
    ConditionFailedError,
    CursorOutOfRangeError,
    EventIdExistsError,
    InvalidRequestError,
    KudurruError,
    NotFoundError,
    NotReachedError,
    OverloadedError,
    StorageFullError,
    UnavailableError,
)

DOMAIN = "kudurru"
OK: str = grpc.StatusCode.OK.name
"""The name of the status of a call that has not failed."""
_CODES: dict[type[KudurruError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    CursorOutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    NotReachedError: grpc.StatusCode.DEADLINE_EXCEEDED,
    ConditionFailedError: grpc.StatusCode.FAILED_PRECONDITION,
    EventIdExistsError: grpc.StatusCode.ALREADY_EXISTS,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StorageFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


def _code(error: KudurruError) -> grpc.StatusCode:
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def _details(error: KudurruError) -> any_pb2.Any:
    details = any_pb2.Any()
    details.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    return details


def to_append_error(error: KudurruError) -> pb.AppendError:
    """Return the error as an outcome of AppendStream."""
    code: int = _code(error).value[0]
    return pb.AppendError(code=code, message=error.message, details=[_details(error)])


def from_append_error(error: pb.AppendError) -> KudurruError:
    """Return the error that another node has made an outcome of."""
    info = error_details_pb2.ErrorInfo()
    for details in error.details:
        details.Unpack(info)
    kind = next((kind for kind, code in _CODES.items() if code.value[0] == error.code), KudurruError)
    found = kind.__new__(kind)
    KudurruError.__init__(found, info.reason, error.message, **info.metadata)
    return found


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], error: KudurruError) -> NoReturn:
    """End the call with the error's status and details."""
    code = _code(error)
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=error.message, details=[_details(error)])
    # An abort puts its trailers in place of those that were set.
    metadata = (*(context.trailing_metadata() or ()), ("grpc-status-details-bin", status.SerializeToString()))
    await context.abort(code, error.message, metadata)


def has_left(context: grpc.aio.ServicerContext[bytes, bytes], failure: BaseException) -> bool:
    """Tell whether a call has failed because its caller has left, or its deadline has passed."""
    return context.done() or isinstance(failure, grpc.aio.InternalError | asyncio.CancelledError)


def outcome_name(context: grpc.aio.ServicerContext[bytes, bytes], failure: BaseException | None) -> str:
    """Return the name of the status that a call ends with: CANCELLED if its caller does not wait for one."""
    if failure is None:
        return OK
    if isinstance(failure, KudurruError):
        return _code(failure).name
    return (grpc.StatusCode.CANCELLED if has_left(context, failure) else grpc.StatusCode.INTERNAL).name
