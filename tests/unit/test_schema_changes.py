"""What has changed between two schemas."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from llmcache.schema_history.changes import MAX_CHANGES, MAX_VALUE, changes


def schema(**fields: Any) -> dict[str, Any]:
    return create_model("Ticket", __base__=BaseModel, **fields).model_json_schema()


def found(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["path"], each["change"]) for each in changes(before, after)]


def test_equal_schemas_have_no_changes() -> None:
    assert changes(schema(name=(str, ...)), schema(name=(str, ...))) == []


def test_a_new_field() -> None:
    before, after = schema(name=(str, ...)), schema(name=(str, ...), urgent=(bool, ...))
    assert changes(before, after) == [
        {
            "path": "properties.urgent",
            "change": "added",
            "before": None,
            "after": '{"title": "Urgent", "type": "boolean"}',
        },
        {"path": "required", "change": "changed", "before": '["name"]', "after": '["name", "urgent"]'},
    ]


def test_a_field_that_is_gone_and_one_of_another_type() -> None:
    before, after = schema(name=(str, ...), age=(int, 0)), schema(name=(int, ...))
    assert found(before, after) == [("properties.name.type", "changed"), ("properties.age", "removed")]


def test_values_of_a_literal() -> None:
    before, after = schema(level=(Literal["low", "high"], ...)), schema(level=(Literal["low", "mid", "high"], ...))
    assert changes(before, after) == [
        {
            "path": "properties.level.enum",
            "change": "changed",
            "before": '["low", "high"]',
            "after": '["low", "mid", "high"]',
        }
    ]


def test_order_is_a_change() -> None:
    before, after = schema(a=(str, ""), b=(str, "")), schema(b=(str, ""), a=(str, ""))
    assert changes(before, after) == [{"path": "properties", "change": "reordered", "before": "a, b", "after": "b, a"}]


def test_python_calls_them_equal_and_a_schema_does_not() -> None:
    assert found({"default": 1}, {"default": True}) == [("default", "changed")]
    assert found({"default": 1}, {"default": 1.0}) == [("default", "changed")]


def test_long_values_and_many_changes_are_cut() -> None:
    (change,) = changes({}, {"description": "x" * 10_000})
    assert change["after"] is not None
    assert len(change["after"]) == MAX_VALUE
    assert len(changes({}, {str(number): number for number in range(10_000)})) == MAX_CHANGES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON)
def test_what_differs_has_a_change_and_what_is_equal_has_none(before: Any, after: Any) -> None:
    import json

    assert bool(changes(before, after)) == (json.dumps(before) != json.dumps(after))


@pytest.mark.parametrize("other", [None, [], "text", 3])
def test_other_roots(other: Any) -> None:
    assert found({"type": "object"}, other) == [("", "changed")]


def test_what_is_gone_is_told_in_its_order() -> None:
    names = [f"field_{number}" for number in range(20)]
    before, after = {name: {} for name in names}, dict[str, Any]()
    assert [each["path"] for each in changes(before, after)] == names
