"""From outcomes to encoded messages; the common answer is written field by field, which costs a third."""

from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.status import to_append_error
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import KudurruError
from kudurru_server.frame import varint
from kudurru_server.model import Append, Appended


def encode_appended(append: Append, outcome: Appended) -> bytes:
    """Return the AppendResponse for a recorded append."""
    end = outcome.first + outcome.count
    one_id = b"\x0a\x1e%019d%%011d" % outcome.ticks  # field 1, 30 bytes
    return b"".join(
        (
            one_id * outcome.count % (*range(outcome.first, end),),
            "\x12$".join(("", *append.ids)).encode(),  # field 2, 36 bytes
            b"\x18" + varint(end - 1),
            b"\x20\x01" if outcome.already_committed else b"",
        )
    )


def encode_outcome(append: Append | None, outcome: Outcome) -> bytes:
    """Return an outcome of AppendStream with the tag and length of field 1 of its message.

    `append` is None for one that was refused before it got to the engine.
    """
    if isinstance(outcome, KudurruError) or append is None:
        error = outcome if isinstance(outcome, KudurruError) else KudurruError("INTERNAL", "a fault of the server")
        body = pb.AppendOutcome(error=to_append_error(error)).SerializeToString()
    else:
        appended = encode_appended(append, outcome)
        body = b"\x0a" + varint(len(appended)) + appended
    return b"\x0a" + varint(len(body)) + body
