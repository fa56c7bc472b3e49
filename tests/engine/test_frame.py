"""Frames against the generated classes: what is put together by hand is what protobuf would have written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kudurru_server._proto.event_pb2 import Event
from kudurru_server.frame import event_of, make_frames, varint

from tests.builders import NOON, events_of, recorded
from tests.reference import UNIX_EPOCH_TICKS

borders = st.sampled_from(
    [edge + step for bits in (7, 14, 21, 28, 35) for edge in (1 << bits,) for step in (-2, -1, 0)]
)
positions = st.one_of(st.integers(1, 300), borders, st.integers(1, 10**11 - 10))
ticks = st.one_of(
    st.integers(0, 10**19 - 1),
    st.integers(NOON, NOON + 10**8),
    st.sampled_from((UNIX_EPOCH_TICKS - 1, UNIX_EPOCH_TICKS, UNIX_EPOCH_TICKS + 1, NOON + 1, NOON + 10_000_000)),
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    size = draw(st.sampled_from((0, 1, 40, 60, 100, 120, 127, 128, 129, 16_300, 16_383, 16_384, 70_000)))
    return Event(
        event_id="0" * 36,
        event_type=draw(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)),
        tags=draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=2)),
        data=bytes(size),
        metadata=draw(st.dictionaries(st.sampled_from("ab"), st.sampled_from("cd"))),
    )


@given(given_events=st.lists(events(), min_size=1, max_size=3), first=positions, tick=ticks)
def test_a_frame_is_the_recorded_event_as_field_1_of_a_response(
    given_events: list[Event], first: int, tick: int
) -> None:
    frames = make_frames([one.SerializeToString() for one in given_events], first, tick)
    assert events_of(b"".join(frames)) == [
        recorded(one, tick, position) for position, one in enumerate(given_events, first)
    ]
    for one, frame in zip(given_events, frames, strict=True):
        assert len(events_of(frame)) == 1
        assert event_of(frame) == one.SerializeToString() or Event.FromString(event_of(frame)) == one


@pytest.mark.parametrize(("number", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_varints_are_those_of_protobuf(number: int, encoded: bytes) -> None:
    assert varint(number) == encoded
