"""The values: what they keep, compare and refuse."""

import copy
import inspect
import pickle
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import kudurru
import pytest
from kudurru import Condition, Event, KudurruError, Query, QueryItem, Reason, cursor_at, recorded
from kudurru import _ids as ids
from kudurru._proto import error_reason_pb2


def test_event_ids_are_version_7_uuids_of_now() -> None:
    event_id = uuid.UUID(Event("A").event_id)
    assert event_id.version == 7
    assert event_id.variant == uuid.RFC_4122
    assert abs((event_id.int >> 80) / 1000 - time.time()) < 5


def test_event_ids_rise_within_a_process() -> None:
    made = [ids.new_event_id() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_event_ids_follow_a_clock_that_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(seconds: int) -> str:
        monkeypatch.setattr("kudurru._ids.time.time_ns", lambda: seconds * 10**9)
        return ids.new_event_id()

    wrong, soon_after, corrected = at(4_000_000_000), at(3_999_999_995), at(2_000_000_000)
    assert soon_after > wrong > corrected


def test_events_are_equal_if_they_say_the_same() -> None:
    assert Event.json("A", {"b": 1}, tags=["c"]) == Event.json("A", {"b": 1}, tags=["c"])
    assert Event("A") != Event("B")
    assert len({Event("A"), Event("A"), Event("A", metadata={"k": "v"})}) == 2


def test_json_data_is_compact_and_says_so() -> None:
    event = Event.json("A", {"name": "Ä"})
    assert event.data == '{"name":"Ä"}'.encode()
    assert event.content_type == "application/json"


@pytest.mark.parametrize(
    "mistaken", [lambda: Event("A", tags="course:c1"), lambda: Query.of(types="A"), lambda: Query.of(tags="c:1")]
)
def test_one_string_is_not_a_list_of_strings(mistaken: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="not one string"):
        mistaken()


def test_queries_combine() -> None:
    assert Query.of(types=["A"]) | Query.of(tags=["b"]) == Query((QueryItem(("A",)), QueryItem((), ("b",))))
    assert Query.all() | Query.of(types=["A"]) == Query.of(types=["A"]) | Query.all() == Query.all()


def test_a_query_that_came_out_empty_does_not_mean_every_event() -> None:
    with pytest.raises(ValueError, match=r"Query\.all"):
        Query.of(types=[])


def test_a_time_becomes_a_cursor() -> None:
    assert cursor_at(datetime(1970, 1, 1, tzinfo=UTC)) == "0621355968000000000" + "0" * 11
    assert cursor_at(datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)) == "0639028224000000010" + "0" * 11
    with pytest.raises(ValueError, match="time zone"):
        cursor_at(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


def test_recorded_events_can_be_made_for_tests() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    first, second = recorded(Event("A", b"1", tags=["t"]), Event.json("B", [2]), after=6, at=moment)
    assert (first.position, second.position) == (7, 8)
    assert cursor_at(moment) < first.sortable_unique_id < second.sortable_unique_id
    assert first.recorded_at == moment
    assert (first.event_type, first.data, first.tags) == ("A", b"1", ("t",))
    assert second.json() == [2]
    assert "'A'" in repr(first)


def test_recorded_events_are_values() -> None:
    (event,) = recorded(Event("A", b"1"))
    assert copy.copy(event) == pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - our own
    assert len({event, copy.copy(event)}) == 1
    assert event != "something else"


def test_values_survive_pickling() -> None:
    event = Event("A", metadata={"k": "v"})
    condition = Condition(Query.of(types=["A"]))
    error = kudurru.ConditionFailedError(Reason.CONDITION_FAILED, "a message", {"position": "7"})
    for value in (event, condition):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), again.reason, again.position) == (kudurru.ConditionFailedError, error.reason, 7)


def test_reasons_are_those_of_the_protocol() -> None:
    names = [name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()]  # noqa: SIM118
    assert [reason.value for reason in Reason] == names


def test_errors_say_their_reason() -> None:
    assert str(KudurruError(Reason.OVERLOADED, "too much")) == "OVERLOADED: too much"
    assert str(KudurruError(Reason.UNSPECIFIED, "refused")) == "refused"


def test_no_type_of_grpc_or_protobuf_is_public() -> None:
    for name in kudurru.__all__:
        module = inspect.getmodule(getattr(kudurru, name))
        assert module is not None
        assert module.__name__.startswith("kudurru.")


def test_a_repeated_tag_is_named_when_the_event_is_made() -> None:
    with pytest.raises(ValueError, match="'name:ada' is given twice"):
        Event("NameChanged", tags=["name:ada", "name:ada"])


def test_a_recorded_event_gives_back_the_event_it_records() -> None:
    event = Event.json("CourseDefined", {"seats": 1}, tags=["course:c1"], metadata={"by": "me"})
    (record,) = recorded(event)
    assert record.event == event
    assert record.event.event_id == event.event_id


def test_any_joins_computed_queries_and_refuses_none() -> None:
    queries = [Query.of(tags=[f"product:{number}"]) for number in range(3)]
    assert Query.any(queries) == queries[0] | queries[1] | queries[2]
    with pytest.raises(ValueError, match="nothing to match"):
        Query.any([])
