"""From outcomes to messages."""

from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.status import to_append_error
from kudurru_server.engine.judge import Outcome
from kudurru_server.errors import KudurruError
from kudurru_server.model import Append, Appended


def to_response(append: Append, outcome: Appended) -> pb.AppendResponse:
    """Return the answer to a recorded append."""
    ticks = f"{outcome.ticks:019d}"
    end = outcome.first + outcome.count
    return pb.AppendResponse(
        sortable_unique_ids=[f"{ticks}{position:011d}" for position in range(outcome.first, end)],
        event_ids=append.ids,
        last_position=end - 1,
        already_committed=outcome.already_committed,
    )


def to_outcome(append: Append | None, outcome: Outcome) -> pb.AppendOutcome:
    """Return an outcome of AppendStream; `append` is None for one that was refused before it got to the engine."""
    if isinstance(outcome, KudurruError) or append is None:
        error = outcome if isinstance(outcome, KudurruError) else KudurruError("INTERNAL", "a fault of the server")
        return pb.AppendOutcome(error=to_append_error(error))
    return pb.AppendOutcome(appended=to_response(append, outcome))
