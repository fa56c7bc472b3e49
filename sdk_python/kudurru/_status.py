"""From gRPC statuses, of calls and of single appends, to the error tree. The only place that names status codes."""

from collections.abc import Iterable
from enum import IntEnum

import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from kudurru import _errors as errors
from kudurru._errors import KudurruError, Reason
from kudurru._proto.event_store_service_pb2 import AppendError

_DOMAIN = "kudurru"
_DETAILS_KEY = "grpc-status-details-bin"


class Code(IntEnum):
    """The gRPC status codes that mean something here."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_BY_REASON: dict[Reason, type[KudurruError]] = {
    Reason.CONDITION_FAILED: errors.ConditionFailedError,
    Reason.EVENT_ID_EXISTS: errors.EventIdExistsError,
}
_BY_CODE: dict[int, type[KudurruError]] = {
    Code.CANCELLED: errors.UnavailableError,
    Code.INVALID_ARGUMENT: errors.InvalidRequestError,
    Code.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    Code.NOT_FOUND: errors.NotFoundError,
    Code.RESOURCE_EXHAUSTED: errors.OverloadedError,
    Code.OUT_OF_RANGE: errors.CursorOutOfRangeError,
    Code.UNAVAILABLE: errors.UnavailableError,
}

OUTCOME_UNKNOWN = frozenset(
    {Code.CANCELLED, Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)
"""Answers to an append after which it may have been recorded."""
CALL_REFUSED = frozenset({Code.UNIMPLEMENTED, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED})
"""Ends of a whole AppendStream that say that no server has looked at an append."""


def status_of(error: grpc.aio.AioRpcError) -> AppendError:
    """Return what a call ended with; AppendError is the protocol's own status, with code, message and details."""
    code = int(error.code().value[0])
    for key, value in error.trailing_metadata():
        if key == _DETAILS_KEY:
            try:
                status = Status.FromString(value)
            except DecodeError:
                break
            return AppendError(code=code, message=status.message, details=status.details)
    return AppendError(code=code, message=error.details() or "")


def is_retried(status: AppendError) -> bool:
    """Whether no server has answered: what the client retries by itself.

    INTERNAL without details is how grpc.aio reports a write to a connection that was just lost.
    """
    return status.code == Code.UNAVAILABLE or (status.code == Code.INTERNAL and not status.details)


def is_lost(status: AppendError) -> bool:
    """Whether a stream without a deadline, which nobody here cancelled, ended because the server went away."""
    return is_retried(status) or status.code in {Code.CANCELLED, Code.DEADLINE_EXCEEDED}


def error_of(code: int, message: str, details: Iterable[Any]) -> KudurruError:
    """Return the error for a status."""
    reason, metadata = Reason.UNSPECIFIED, {}
    for detail in details:
        info = ErrorInfo()
        if detail.Is(ErrorInfo.DESCRIPTOR) and detail.Unpack(info) and info.domain == _DOMAIN:
            reason, metadata = Reason(info.reason), dict(info.metadata)
            break
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, errors.ServerError)
    return kind(reason, message or f"status {code}", metadata)


def rpc_error(error: grpc.aio.AioRpcError) -> KudurruError:
    """Return the error for a call that failed."""
    status = status_of(error)
    return error_of(status.code, status.message, status.details)
