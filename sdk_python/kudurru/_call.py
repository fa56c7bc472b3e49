"""Calls with one answer that may be made twice: UNAVAILABLE is tried again until the time is up."""

import asyncio
from typing import TypeVar

import grpc.aio

from kudurru._backoff import Backoff
from kudurru._errors import Reason, UnavailableError
from kudurru._status import is_retried, rpc_error, status_of

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

FIRST_RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 1.0


async def call(
    method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request, timeout_seconds: float
) -> _Response:
    """Make the call until there is an answer.

    Raises:
        KudurruError: The last attempt's error; there was no time for another one if it is an UnavailableError.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
    while True:
        try:
            return await method(request, timeout=deadline - loop.time())
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise closed_error() from None
        except grpc.aio.AioRpcError as error:
            delay = backoff.next_seconds()
            if not is_retried(status_of(error)) or loop.time() + delay >= deadline:
                raise rpc_error(error) from error
        await asyncio.sleep(delay)


def task_is_cancelled() -> bool:
    """Within `except CancelledError`: whether it is the task that is cancelled, not only the call, by closing it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def closed_error() -> UnavailableError:
    """Return the error of a call that the store's end has cut off."""
    return UnavailableError(Reason.UNSPECIFIED, "the store is closed")
