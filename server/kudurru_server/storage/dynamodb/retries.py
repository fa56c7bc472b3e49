"""What each AWS error means, in one table, and how the store tries again.

DatabaseError
├── OutcomeUnknownError     no answer, or one that does not tell: a write may or may not take effect
├── ThrottledError          nothing was done; the table or partition has no capacity at the moment
├── ConflictError           nothing was done; another transaction is at one of the items
├── OperatorError           nothing was done; somebody must change a policy, credentials, a table or a bucket
└── RequestError            nothing was done; the request itself is wrong: a fault of ours
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")


class DatabaseError(Exception):
    """DynamoDB or S3 did not do what it was asked to."""

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(f"{code}: {message}: {detail}" if detail else f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        """What the service says; it may name roles and accounts, so it is for operators and not for callers."""


class OutcomeUnknownError(DatabaseError):
    """A write may or may not take effect, now or later."""


class ThrottledError(DatabaseError):
    """Nothing was done for lack of capacity."""


class ConflictError(DatabaseError):
    """Nothing was done, because another transaction is at one of the items."""


class OperatorError(DatabaseError):
    """Nothing was done, and nothing will be until somebody changes something."""


class RequestError(DatabaseError):
    """Nothing was done, because the request is wrong."""


MEANINGS: dict[str, type[DatabaseError]] = {
    # Reasons inside a TransactionCanceledException; without any, trying again is right.
    "TransactionCanceledException": ConflictError,
    "TransactionConflict": ConflictError,
    "ProvisionedThroughputExceeded": ThrottledError,
    "ThrottlingError": ThrottledError,
    "ItemCollectionSizeLimitExceeded": RequestError,
    "ValidationError": RequestError,
    "DuplicateItem": RequestError,
    "AccessDenied": OperatorError,  # S3's word as well
    # A condition is never part of a transaction, and elsewhere it is an outcome, read before this table is.
    "ConditionalCheckFailed": RequestError,
    "ConditionalCheckFailedException": RequestError,
    # DynamoDB
    "TransactionConflictException": ConflictError,
    "ReplicatedWriteConflictException": ConflictError,
    "TransactionInProgressException": OutcomeUnknownError,
    "IdempotentParameterMismatchException": RequestError,
    "ProvisionedThroughputExceededException": ThrottledError,
    "ThrottlingException": ThrottledError,
    "Throttling": ThrottledError,
    "RequestLimitExceeded": ThrottledError,
    "LimitExceededException": ThrottledError,
    "TooManyRequestsException": ThrottledError,
    "InternalServerError": OutcomeUnknownError,
    "InternalFailure": OutcomeUnknownError,
    "ServiceUnavailable": OutcomeUnknownError,
    "ServiceUnavailableException": OutcomeUnknownError,
    "ItemCollectionSizeLimitExceededException": RequestError,
    "ValidationException": RequestError,
    "SerializationException": RequestError,
    "UnknownOperationException": RequestError,
    "ResourceNotFoundException": OperatorError,
    "ResourceInUseException": OperatorError,
    "TableNotFoundException": OperatorError,
    # Credentials, clocks and policies
    "AccessDeniedException": OperatorError,
    "ExpiredToken": OperatorError,
    "ExpiredTokenException": OperatorError,
    "UnrecognizedClientException": OperatorError,
    "InvalidClientTokenId": OperatorError,
    "InvalidAccessKeyId": OperatorError,
    "InvalidSignatureException": OperatorError,
    "SignatureDoesNotMatch": OperatorError,
    "IncompleteSignature": OperatorError,
    "IncompleteSignatureException": OperatorError,
    "MissingAuthenticationToken": OperatorError,
    "MissingAuthenticationTokenException": OperatorError,
    "RequestTimeTooSkewed": OperatorError,
    "RequestExpired": OperatorError,
    "OptInRequired": OperatorError,
    # S3
    "NoSuchBucket": OperatorError,
    "PermanentRedirect": OperatorError,
    "AuthorizationHeaderMalformed": OperatorError,
    "ConditionalRequestConflict": ConflictError,
    "OperationAborted": ConflictError,
    "SlowDown": ThrottledError,
    "InternalError": OutcomeUnknownError,
    "RequestTimeout": OutcomeUnknownError,
    "BadDigest": OutcomeUnknownError,  # damaged on its way
    "XAmzContentSHA256Mismatch": OutcomeUnknownError,
}
"""What a code of DynamoDB or S3, or a reason of a cancelled transaction, means."""

_GRAVEST_FIRST: tuple[type[DatabaseError], ...] = (
    RequestError,
    OperatorError,
    OutcomeUnknownError,
    ThrottledError,
    ConflictError,
)
_TOO_MANY_REQUESTS = 429
_REFUSALS = frozenset({301, 302, 303, 307, 308, 401, 403, 404})
_FIRST_SERVER_ERROR = 500


def meaning(code: str, http_status: int, cancellation_codes: Sequence[str] = ()) -> type[DatabaseError]:
    """Return what an error answer means.

    Args:
        code: the error's code.
        http_status: tells about codes that are not in the table.
        cancellation_codes: the reasons of a cancelled transaction, one an item, "None" for the innocent ones; the
            gravest decides, since a transaction that also has that reason cannot succeed by trying again.
    """
    reasons = {MEANINGS.get(reason, RequestError) for reason in cancellation_codes if reason != "None"}
    for kind in _GRAVEST_FIRST:
        if kind in reasons:
            return kind
    known = MEANINGS.get(code)
    if known is not None:
        return known
    if http_status >= _FIRST_SERVER_ERROR:
        return OutcomeUnknownError
    if http_status == _TOO_MANY_REQUESTS:
        return ThrottledError
    return OperatorError if http_status in _REFUSALS or code.startswith("KMS") else RequestError


_FIRST_PAUSE_SECONDS = 0.025
_LONGEST_PAUSE_SECONDS = 2.0


class Pauses:
    """How long to wait before each next attempt: growing, with full jitter, so that nodes do not march in step."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def before(self, attempt: int) -> None:
        """Wait before attempt number `attempt`, counted from 1 for the first repetition."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 10))
        await asyncio.sleep(self._chance.uniform(0, longest))


async def patiently(call: Callable[[], Awaitable[_T]], pauses: Pauses, seconds: float) -> _T:
    """Return what `call` returns, trying again for about `seconds` while that may help.

    Raises:
        DatabaseError: the last failure; a write may take effect later.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    attempt = 0
    while True:
        try:
            return await call()
        except (OutcomeUnknownError, ThrottledError, ConflictError):
            if loop.time() >= end:
                raise
        attempt += 1
        await pauses.before(attempt)
