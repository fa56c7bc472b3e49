"""What is encoded by hand means what protobuf would have written."""

import uuid

from hypothesis import given
from hypothesis import strategies as st
from kudurru_server._proto import event_store_service_pb2 as pb
from kudurru_server.api.outcome import encode_appended, encode_outcome
from kudurru_server.errors import ConditionFailedError
from kudurru_server.model import MAX_POSITION, MAX_TICKS, Append, Appended, Cursor

_appended = st.builds(
    Appended,
    first=st.integers(1, MAX_POSITION - 300),
    count=st.integers(1, 300),
    ticks=st.integers(0, MAX_TICKS),
    already_committed=st.booleans(),
)


def _append(count: int) -> Append:
    ids = [str(uuid.UUID(int=number)) for number in range(count)]
    return Append(ids, [], [], (), 0, ids[0], 0, 0)


def _message(append: Append, outcome: Appended) -> pb.AppendResponse:
    positions = range(outcome.first, outcome.first + outcome.count)
    return pb.AppendResponse(
        sortable_unique_ids=[str(Cursor(outcome.ticks, position)) for position in positions],
        event_ids=append.ids,
        last_position=positions[-1],
        already_committed=outcome.already_committed,
    )


@given(_appended)
def test_an_answer_is_the_message_protobuf_writes(outcome: Appended) -> None:
    append = _append(outcome.count)
    assert encode_appended(append, outcome) == _message(append, outcome).SerializeToString()


@given(st.lists(_appended, max_size=5))
def test_outcomes_joined_are_a_message_of_the_stream(outcomes: list[Appended]) -> None:
    refusal = ConditionFailedError("CONDITION_FAILED", "condition 0 fails", condition_index=0)
    appends = [_append(outcome.count) for outcome in outcomes]
    encoded = [encode_outcome(append, outcome) for append, outcome in zip(appends, outcomes, strict=True)]
    message = pb.AppendStreamResponse.FromString(b"".join([*encoded, encode_outcome(_append(1), refusal)]))
    assert [one.appended for one in message.outcomes[:-1]] == list(map(_message, appends, outcomes))
    assert message.outcomes[-1].error.message == refusal.message
