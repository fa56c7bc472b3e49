"""Items keep their values on the way to DynamoDB and back; expressions hold placeholders only."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kudurru_server.storage.dynamodb.database import Absent, Below, Present, Question, Same, Table
from kudurru_server.storage.dynamodb.expressions import (
    Placeholders,
    condition_expression,
    projection_expression,
    range_expression,
    update_expression,
)
from kudurru_server.storage.dynamodb.retries import OperatorError
from kudurru_server.storage.dynamodb.values import Wire, item_from_json, item_from_wire, item_to_wire, to_wire

VALUES = st.one_of(st.text(), st.integers(-(10**37), 10**37), st.binary(), st.lists(st.text()))
ITEMS = st.dictionaries(st.text(min_size=1), VALUES)


def in_json(value: Wire) -> Wire:
    return {"B": base64.b64encode(value["B"]).decode()} if "B" in value else value


@given(ITEMS)
def test_an_item_comes_back_as_it_was(item: dict[str, str | int | bytes | list[str]]) -> None:
    wire = item_to_wire(item)
    assert item_from_wire(wire) == item
    assert item_from_json({name: in_json(value) for name, value in wire.items()}) == item


def test_each_type_has_its_letter() -> None:
    assert to_wire("a") == {"S": "a"}
    assert to_wire(-7) == {"N": "-7"}
    assert to_wire(b"\x00") == {"B": b"\x00"}
    assert to_wire(["a", "b"]) == {"L": [{"S": "a"}, {"S": "b"}]}


@pytest.mark.parametrize(("digits", "number"), [("1E+2", 100), ("7.0", 7), ("-3", -3)])
def test_a_whole_number_is_read_however_it_is_written(digits: str, number: int) -> None:
    assert item_from_json({"n": {"N": digits}}) == {"n": number}


@pytest.mark.parametrize("value", [{"BOOL": True}, {"NULL": True}, {"N": "0.5"}, {"L": [{"N": "1"}]}, {"M": {}}, {}])
def test_a_value_that_the_store_never_writes_is_refused_by_its_name(value: Wire) -> None:
    with pytest.raises(OperatorError, match="attribute odd has the type"):
        item_from_wire({"odd": value})


def test_conditions_become_expressions() -> None:
    use = Placeholders()
    assert condition_expression(Absent(), use) == "attribute_not_exists(#n0)"
    assert condition_expression(Present(), use) == "attribute_exists(#n0)"
    assert condition_expression(Same({"a": 1, "b": None}), use) == "#n1 = :v0 AND attribute_not_exists(#n2)"
    assert condition_expression(Below("a", "x"), use) == "attribute_not_exists(#n1) OR #n1 < :v1"
    assert condition_expression(Same({}), use) == ""
    assert use.arguments() == {
        "ExpressionAttributeNames": {"#n0": "pk", "#n1": "a", "#n2": "b"},
        "ExpressionAttributeValues": {":v0": {"N": "1"}, ":v1": {"S": "x"}},
    }


def test_updates_become_expressions() -> None:
    assert (
        update_expression({"a": 1, "b": b""}, ["c", "d"], Placeholders()) == "SET #n0 = :v0, #n1 = :v1 REMOVE #n2, #n3"
    )
    assert update_expression({}, ["c"], Placeholders()) == "REMOVE #n0"
    assert update_expression({}, [], Placeholders()) == ""


def test_questions_become_expressions() -> None:
    use = Placeholders()
    question = Question(Table.LOG, "p", 1, 2)
    assert range_expression(question, "pk", "n", use) == "#n0 = :v2 AND #n1 BETWEEN :v0 AND :v1"
    assert projection_expression(("n", "body"), use) == "#n1, #n2"


def test_no_placeholders_make_no_arguments() -> None:
    assert Placeholders().arguments() == {}
