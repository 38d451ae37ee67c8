"""What can be said of a type while its answer is being written, and that this follows from the text alone."""

import datetime
import itertools
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, Field, RootModel, field_validator, model_validator
from typing_extensions import TypeAliasType, TypedDict

from llmcache.response_types import response_type
from llmcache.streams.partials import NOTHING, Cuts, Items, partial_value


class Unit(Enum):
    """A choice."""

    GRAM = "g"
    KILO = "kg"


class Part(BaseModel):
    """A model in a model."""

    name: str
    amount: float | None
    unit: Unit
    bought: datetime.date

    @field_validator("name")
    @classmethod
    def is_named(cls, name: str) -> str:
        """Refuse what has not been written yet."""
        assert name, "no name"
        return name.title()


class Whole(BaseModel):
    """A model that cannot be made of a part of its answer."""

    title: str = Field(alias="theTitle", min_length=30)
    size: int = Field(validation_alias=AliasChoices("howBig", "size"))
    parts: list[Part]
    extra: "Extra | None" = None

    @model_validator(mode="after")
    def is_whole(self) -> "Whole":
        """Fail for what is not."""
        assert self.parts, "no parts"
        return self


@dataclass
class Extra:
    """A dataclass in a model."""

    text: str
    tags: list[str]


class Row(TypedDict, total=False):
    """A typed dict."""

    name: str
    when: datetime.date


class Place(NamedTuple):
    """A tuple whose places have names."""

    line: int
    name: str


class Sort(StrEnum):
    """What tells birds apart."""

    OWL = "owl"
    RAPTOR = "raptor"


class Bird(BaseModel):
    """One of a union, told by a field with two constants."""

    sort: Literal[Sort.OWL, Sort.RAPTOR]
    span: str = Field(alias="wing span")


class Fish(BaseModel):
    """Another one."""

    sort: Literal["fish"]
    fins: int


class Either(RootModel[Bird | Fish]):
    """A union with a name of its own."""


Named = TypeAliasType("Named", Annotated[list[str], Field(min_length=9)])
Names = RootModel[list[str]]
ADA = {"name": "Ada L"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def shown(annotation: Any, text: str) -> list[Any]:
    """Return what is to be seen while a text is written, each value once."""
    response, found = response_type(annotation), []
    for beginning in Cuts().feed(text):
        value = partial_value(response, beginning)
        if value is not NOTHING and (not found or found[-1] != value):
            found.append(value)
    return found


def test_a_model_grows_and_what_has_not_arrived_is_none() -> None:
    text = (
        '{"theTitle": "A soup of many little things", "howBig": 12, "parts": ['
        '{"name": "big onion", "amount": 1.5, "unit": "kg", "bought": "2026-01-01"},'
        '{"name": "salt", "amount": null, "unit": "g", "bought": "2026-01-02"}], '
        '"extra": {"text": "well", "tags": ["a"]}}'
    )
    seen = shown(Whole, text)
    assert all(type(each) is Whole for each in seen)
    titles = [each.title for each in seen]
    assert titles[:4] == [None, "", "A ", "A soup "]
    # Not valid yet, and shown all the same: it grows.
    assert "A soup of many little things" in titles
    assert next(each.size for each in seen if each.size is not None) == 12
    parts = [part for each in seen for part in each.parts or [] if part.unit is not None]
    assert (parts[0].name, parts[0].amount, parts[0].unit, parts[0].bought) == ("big onion", 1.5, Unit.KILO, None)
    last = seen[-1]
    # What is whole has been through its type's own validators.
    assert [part.name for part in last.parts] == ["Big Onion", "Salt"]
    assert (last.parts[0].bought, last.extra.text) == (datetime.date(2026, 1, 1), "well")
    assert last.model_fields_set >= {"title", "size", "parts"}
    assert "None" in repr(seen[0])


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        pytest.param(str, '{"value":"Ada and Grace"}', ["", "Ada ", "Ada and ", "Ada and Grace"], id="text"),
        pytest.param(int, '{"value": 12345}', [], id="number"),
        pytest.param(Unit, '{"value": "kg" }', [], id="choice"),
        pytest.param(list[int], '{"value":[1, 2, 30]}', [[], [1], [1, 2]], id="list"),
        pytest.param(list[Unit], '{"value":["g", "kg"] }', [[], [Unit.GRAM]], id="choices"),
        pytest.param(dict[str, int], '{"a": 1, "b": 2, "c": 3} ', [{}, {"a": 1}, {"a": 1, "b": 2}], id="dict"),
        pytest.param(Row, '{"name": "Ada L", "when": "2"}', [{}, {"name": ""}, {"name": "Ada "}, ADA], id="typed dict"),
        pytest.param(Annotated[str, Field(max_length=1)], '{"value":"A b"}', ["", "A ", "A b"], id="constraint"),
        pytest.param(str | None, '{"value":"A b"}', ["", "A ", "A b"], id="optional"),
        pytest.param(int | str, '{"value":"A b"}', [], id="union"),
        pytest.param(Literal["a b", "c"], '{"value":"a b"}', [], id="literal"),
        pytest.param(
            tuple[int, str, Unit | None],
            '{"value":[1, "b c", "kg", 4]}',
            [(None, None, None), (1, "", None), (1, "b ", None), (1, "b c", None), (1, "b c", Unit.KILO)],
            id="tuple",
        ),
        pytest.param(tuple[int, ...], '{"value":[1, 20, 3]}', [(), (1,), (1, 20)], id="open tuple"),
        pytest.param(
            Place, '{"value":[1, "b c"] }', [(None, None), (1, ""), (1, "b "), (1, "b c")], id="named tuple"
        ),
        pytest.param(set[str], '{"value":["a b", "c", "d e"]}', [set(), {"a b"}, {"a b", "c"}], id="set"),
        pytest.param(frozenset[Unit], '{"value":["g", "kg"]}', [frozenset(), frozenset({Unit.GRAM})], id="frozenset"),
        pytest.param(set[Part], '{"value":[{"name": "a", "amount": 1, "unit": "g"}]}', [set()], id="set of models"),
        pytest.param(deque[int], '{"value":[1, 2, 3]}', [deque(), deque([1]), deque([1, 2])], id="deque"),
        pytest.param(Named, '{"value":["A b", "c"]}', [[""], ["A "], ["A b"], ["A b", ""], ["A b", "c"]], id="alias"),
        pytest.param(Names, '{"value":["a b", "c"] }', None, id="root model"),
        pytest.param(Whole, "no JSON at all, but words", [], id="no JSON"),
        pytest.param(Whole, "[1, 2, 3]", [], id="another shape"),
        pytest.param(list[int], '{"value": {"a": 1}, "b": 2}', [], id="no list"),
        pytest.param(list[int], '["value", 1, 2, 3]', [], id="not wrapped"),
    ],
)  # fmt: skip
def test_each_sort_of_type(annotation: Any, text: str, expected: list[Any] | None) -> None:
    seen = shown(annotation, text)
    if expected is None:
        assert [each.root for each in seen] == [[""], ["a "], ["a b"], ["a b", ""], ["a b", "c"]]
        assert all(isinstance(each, RootModel) for each in seen)
    else:
        assert seen == expected


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        pytest.param(Bird | Fish, [Bird], id="two"),
        pytest.param(Annotated[Bird | Fish, Field(discriminator="sort")], [Bird], id="discriminated"),
        pytest.param(Annotated[Bird | Fish, Field(discriminator="sort")] | Row | None, [], id="one without constants"),
        pytest.param(Bird | Fish | None, [Bird], id="optional"),
        pytest.param(Bird | int | list[Bird] | Literal["a"], [Bird], id="one that is an object"),
        pytest.param(Bird | Fish | Any, [], id="anything"),
        pytest.param(Either, [Either], id="root model"),
        pytest.param(list[Bird | Fish] | str, [], id="of a list"),
    ],
)
def test_a_union_grows_as_soon_as_only_one_of_its_types_is_left(annotation: Any, expected: list[Any]) -> None:
    text = '{"sort": "raptor", "wing span": "very wide", "x": 1}'
    schema = response_type(annotation).schema
    seen = shown(annotation, f'{{"value":{text} }}' if schema.wrapped else text)
    assert [*dict.fromkeys(map(type, seen))] == expected
    for each in seen:
        bird = each.root if isinstance(each, Either) else each
        assert type(bird) is Bird
    if expected and annotation != Bird | int | list[Bird] | Literal["a"]:
        # While the constant is being written it may be either.
        assert (getattr(seen[0], "root", seen[0])).sort is Sort.RAPTOR


def test_items_of_a_union_grow_one_by_one() -> None:
    text = '{"value":[{"sort": "fish", "fins": 2}, {"sort": "owl", "wing span": "wi"}, 7]}'
    seen = shown(list[Bird | Fish] | None, text)
    assert [[type(item) for item in each] for each in seen if each][:3] == [[Fish], [Fish], [Fish, Bird]]
    assert (seen[-1][0].fins, seen[-1][1].span) == (2, "wi")


def pieces(text: str, ends: list[int]) -> Iterator[str]:
    """Yield a text in pieces that end there."""
    places = sorted({min(end, len(text)) for end in ends} | {0, len(text)})
    return (text[start:end] for start, end in itertools.pairwise(places))


@given(st.text(max_size=300), st.lists(st.integers(0, 300), max_size=40))
def test_where_a_text_is_cut_does_not_depend_on_its_pieces(text: str, ends: list[int]) -> None:
    whole, parts = Cuts(), Cuts()
    expected = list(whole.feed(text))
    assert [cut for piece in pieces(text, ends) for cut in parts.feed(piece)] == expected
    assert parts.text == text
    assert all(text.startswith(cut) and len(cut) < len(text) for cut in expected)


@settings(deadline=None)
@given(JSON)
def test_no_cut_leaves_a_number_a_word_or_an_escape_half_written(data: Any) -> None:
    for text in (json.dumps([data]), json.dumps([data], ensure_ascii=False)):
        for beginning in Cuts().feed(text):
            value = partial_value(response_type(list[Any]), f'{{"value":{beginning}')
            assert value is NOTHING or _is_beginning(value, [data]), (beginning, value)


def _is_beginning(part: Any, whole: Any) -> bool:
    """Whether a value is what there is of another one so far."""
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(_is_beginning, part, whole))
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _is_beginning(each, whole[name]) for name, each in part.items())
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part)
    return part == whole or part is None


def test_the_beginnings_of_a_long_text_are_together_a_small_multiple_of_it() -> None:
    text = json.dumps({"value": ["some words of it"] * 60_000})
    cuts = [len(cut) for cut in Cuts().feed(text)]
    assert len(text) > 1_000_000
    assert sum(cuts) < 70 * len(text)
    assert len(cuts) < 700
    slow = Cuts()
    assert [len(cut) for at in range(0, len(text), 7) for cut in slow.feed(text[at : at + 7])] == cuts
    # It is put together where it is cut, and not at each of its 170,000 pieces.
    assert len(slow) == len(text)


def test_items_come_as_they_are_whole_and_none_after_one_that_is_not_valid() -> None:
    def found(text: str, item: Any) -> list[Any]:
        items = Items(item)
        return [each for beginning in Cuts().feed(text) for each in items.found(beginning)]

    assert found('{ "value" : [ {"name": "A b", "when": "2026-01-01"} , {"name": "C"}]}', Row) == [
        {"name": "A b", "when": datetime.date(2026, 1, 1)},
        {"name": "C"},
    ]
    assert found('{"value":[1, 23, "x", 4, 5]}', int) == [1, 23]
    assert found('{"value":[1 2, 3, 4]}', int) == [1]
    assert found('{"other":[1, 2, 3]}', int) == []
    assert found("[1, 2, 3]", int) == []
    assert found('{"value":["a", "b", "c"]}', "no type") == []


def test_types_that_python_calls_equal_are_told_apart() -> None:
    assert shown(list[Literal[1]], '{"value":[1, 1, 1]}') == [[], [1], [1, 1]]
    assert shown(list[Literal[True]], '{"value":[true, true, 1]}') == [[], [True], [True, True]]
