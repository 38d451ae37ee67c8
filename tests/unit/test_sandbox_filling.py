"""What the sandbox makes of a JSON schema: it passes pydantic's validation and is the same in every process."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import subprocess
import sys
import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import UUID4, AnyUrl, Base64Bytes, BaseModel, ByteSize, Field, Json, JsonValue, SecretStr, TypeAdapter
from typing_extensions import TypedDict

from llmcache.testing.sandbox.filling import fill

TEXTS = (
    "2 10-ounce boxes frozen chopped spinach, thawed",
    "garlic",
    "",
    "Grüße: 1.5 Löffel - naïve 🥄",
    "\ud800 a lone surrogate and 99999999999999999999",
    "one two three four five six seven 8 9 10 11 12",
)


class Size(Enum):
    SMALL = "small"
    GARLIC = "garlic"
    THREE = 3


class Inner(BaseModel):
    name: str
    size: Literal["small", "large"] | None
    tags: set[str] = Field(min_length=3)


class Node(BaseModel):
    value: int
    children: list[Node]
    after: Node | None = None


class Leaf(BaseModel):
    kind: Literal["leaf"]
    number: int


class Sum(BaseModel):
    left: Sum | Leaf
    right: Sum | Leaf
    others: list[Sum]


class Wide(BaseModel):
    a: Wide | None
    b: Wide | None
    c: Wide | None
    d: list[Wide]
    e: list[Wide]
    f: dict[str, Wide]
    g: dict[str, Wide]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


@dataclasses.dataclass
class Point:
    x: int
    y: list[float]


class Row(TypedDict):
    a: int
    b: str | None


class Constrained(BaseModel):
    age: int = Field(ge=18, lt=20)
    share: float = Field(gt=0, lt=1)
    quarter: float = Field(multiple_of=0.25, gt=100)
    sevens: int = Field(multiple_of=7, lt=-50)
    below: float = Field(lt=-0.5)
    exact: float = Field(ge=2.5, le=2.5)
    code: str = Field(pattern=r"^[A-Z]{3}$")
    postcode: str = Field(pattern=r"^\d{5}$")
    long: str = Field(min_length=40, max_length=45)
    short: str = Field(max_length=3)
    four: list[int] = Field(min_length=4, max_length=4)
    three: set[int] = Field(min_length=3, max_length=3)
    few: set[Annotated[int, Field(ge=1, le=3)]] = Field(min_length=3)
    sizes: set[Size] = Field(min_length=3)
    counts: dict[str, int] = Field(min_length=3, max_length=3)


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int


TYPES: tuple[Any, ...] = (
    *(int, str, float, bool, None, Any, object, bytes, Decimal, SecretStr, ByteSize, JsonValue),
    *(datetime, date, time, timedelta, uuid.UUID, UUID4, AnyUrl, Base64Bytes, Json, Json[Inner]),
    *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Interface),
    *(Inner, Node, Sum, Wide, Point, Row, Constrained, Page[Inner], Size, Pet, Leaf | Sum),
    *(list[Inner], list[Pet], list[list[int]], set[int], frozenset[str], tuple[int, str, float], tuple[int, ...]),
    *(dict[str, Inner], dict[int, str], dict[Size, int], dict[date, int], dict[str, Any]),
    *(Literal["x", 2, None], int | str | None, Decimal | None, Annotated[Decimal, Field(gt=0, le=100)]),
)


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_a_filling_passes_validation(type_: Any):
    adapter = TypeAdapter(type_)
    schema = adapter.json_schema()
    wrapper = {"type": "object", "properties": {"value": schema}, "required": ["value"]}
    if "$defs" in schema:
        wrapper["$defs"] = schema["$defs"]
    for text in TEXTS:
        adapter.validate_json(json.dumps(fill(text, schema)))
        adapter.validate_json(json.dumps(fill(text, wrapper)["value"]))


@given(st.text(max_size=60))
def test_any_text_fills_a_constrained_model(text: str):
    for model in (Constrained, Sum, Wide):
        model.model_validate_json(json.dumps(fill(text, model.model_json_schema())))


def test_words_and_numbers_are_those_of_the_text():
    class Ingredient(BaseModel):
        name: str
        quantity: float
        pieces: int
        size: Literal["tiny", "huge", "10-ounce"]

    text = TEXTS[0]
    filled = Ingredient.model_validate(fill(text, Ingredient.model_json_schema()))
    assert filled.name in text
    assert filled.quantity == 2
    assert filled.pieces == 10


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {
            "$ref": "#/$defs/A",
            "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"]}},
        },
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}, "c": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"$ref": "#/nowhere"},
    ],
)
def test_a_schema_that_never_ends_gets_its_end(schema: dict[str, Any]):
    assert len(json.dumps(fill(TEXTS[0], schema))) < 100_000


def test_all_of_and_lists_of_types_are_obeyed():
    schema = {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 6}, "b": {"type": ["string", "null"]}}, "required": ["b"]},
        ]
    }
    for text in TEXTS:
        filled = fill(text, schema)
        assert 5 <= filled["a"] <= 6
        assert filled["b"] is None or isinstance(filled["b"], str)


def test_the_filling_is_the_same_in_every_process():
    questions = [(text, TypeAdapter(type_).json_schema()) for type_ in TYPES for text in TEXTS]
    here = [fill(text, schema) for text, schema in questions]
    program = (
        "import json, sys; from llmcache.testing.sandbox.filling import fill;"
        "print(json.dumps([fill(text, schema) for text, schema in json.load(sys.stdin)]))"
    )
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(questions),
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(there.stdout) == here


def test_another_text_or_schema_gives_another_filling():
    schemas = [Inner.model_json_schema(), Constrained.model_json_schema()]
    assert len({json.dumps(fill(text, schema)) for text in TEXTS for schema in schemas}) == len(TEXTS) * 2
