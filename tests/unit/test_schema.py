"""Strict schemas: every result keeps strict mode's rules, or is the generated schema with the reason why not."""

from __future__ import annotations

import copy
import enum
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, TypeAdapter, create_model
from typing_extensions import TypedDict

from llmcache.providers.schema import ResponseSchema, response_format, response_schema

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    DEFAULT = "default"


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Pair(enum.Enum):
    ORIGIN = (0, 0)


class Address(BaseModel):
    """Where somebody lives."""

    street: str
    number: int = Field(ge=1, le=9_999)


class Person(BaseModel):
    surname: str
    born: date | None = None
    address: Address = Field(description="The home address.")
    nicknames: list[str] = []
    color: Color = Color.RED


class Plain(BaseModel):
    zeta: str = Field(description="Comes first.")
    alpha: int | None = None
    home: Address = Field(description="The home address.")
    others: list[Address]
    color: Color
    size: Literal["s", "m"]
    ratio: float = Field(gt=0, multiple_of=0.5)
    code: str = Field(pattern=r"^[A-Z]{3}$")


class Empty(BaseModel):
    pass


class Node(BaseModel):
    label: str
    children: list[Node] = Field(default=[], description="The nodes below.")
    parent: Node | None = Field(default=None, description="The node above.")


class Forest(BaseModel):
    first: Node = Field(description="The first tree.")


class Egg(BaseModel):
    layer: Hen | None = Field(description="Who laid it.")
    cousin: Hen = Field(description="Never ends.")


class Hen(BaseModel):
    egg: Egg = Field(description="What it came from.")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Tree(BaseModel):
    kind: Literal["tree"]


class Box(BaseModel, Generic[T]):
    content: T


class People(RootModel[list[Person]]):
    pass


class Counts(RootModel[dict[str, int]]):
    pass


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class Tagged(BaseModel):
    tags: set[str]


class Report(TypedDict):
    title: str
    pages: NotRequired[int]


@dataclass
class Point:
    x: float
    y: float = 0.0
    marks: list[str] = field(default_factory=list)


Animal = Annotated[Cat | Dog, Field(discriminator="kind")]

# Names that are keywords elsewhere: here they are properties and nothing else.
Keywords = TypedDict(
    "Keywords",
    {
        "default": int,
        "title": str,
        "required": list[str],
        "$ref": str,
        "$defs": Address,
        "properties": Address,
        "additionalProperties": bool,
        "type": Literal["default", "$ref"],
        "enum": Color,
        "items": int,
        "anyOf": str,
        "const": str,
        "uniqueItems": bool,
        "discriminator": str,
    },
)

STRICT: dict[str, tuple[Any, bool]] = {
    "model": (Person, False),
    "model of many kinds": (Plain, False),
    "model without fields": (Empty, False),
    "extra forbidden": (Closed, False),
    "TypedDict": (Report, False),
    "dataclass": (Point, False),
    "generic": (Box[int], False),
    "generic of a model": (Box[list[Person]], False),
    "recursive": (Node, False),
    "holds recursive": (Forest, False),
    "keywords as names": (Keywords, False),
    "list": (list[Person], True),
    "tuple of any length": (tuple[int, ...], True),
    "enum": (Color, True),
    "enum of mixed values": (Mixed, True),
    "literal": (Literal["a", 1, None], True),
    "one literal": (Literal["a"], True),
    "union": (Cat | Dog, True),
    "discriminated union": (Animal, True),
    "list of discriminated union": (list[Animal], True),
    "optional": (Person | None, True),
    "optional recursive": (Node | None, True),
    "int": (int, True),
    "bounded int": (Annotated[int, Field(ge=3, lt=9)], True),
    "none": (None, True),
    "datetime": (datetime, True),
    "timedelta": (timedelta, True),
    "UUID": (UUID, True),
    "RootModel of a list": (People, True),
    "list of bounded length": (Annotated[list[int], Field(min_length=1, max_length=3)], True),
    "tuple of bounded length": (Annotated[tuple[int, ...], Field(min_length=1, max_length=3)], True),
    "nested discriminated unions": (Annotated[Animal | Tree, Field(discriminator="kind")], True),
    "optional discriminated union": (Animal | None, True),
    "optional list": (list[Person] | None, True),
    "optional bounded int": (Annotated[int | None, Field(ge=3)], True),
}

OPEN_REASON = "an open object is not part of strict mode"
FALLBACK: dict[str, tuple[Any, bool, str]] = {
    "dict": (dict[str, int], False, f"$.additionalProperties: {OPEN_REASON}"),
    "bare dict": (dict, False, OPEN_REASON),
    "RootModel of a dict": (Counts, False, f"$.additionalProperties: {OPEN_REASON}"),
    "extra allowed": (Open, False, f"$.additionalProperties: {OPEN_REASON}"),
    "list of extra allowed": (list[Open], True, f"$.$defs.Open.additionalProperties: {OPEN_REASON}"),
    "set in a model": (Tagged, False, "$.properties.tags.uniqueItems: 'uniqueItems' is not part of strict mode"),
    "set": (set[int], True, "$.properties.value.uniqueItems: 'uniqueItems' is not part of strict mode"),
    "frozenset": (frozenset[str], True, "$.properties.value.uniqueItems: 'uniqueItems' is not part of strict mode"),
    "optional set": (set[int] | None, True, "$.properties.value.anyOf[0].uniqueItems: 'uniqueItems' is not part of"),
    "tuple of models": (
        tuple[Cat, Dog | None],
        True,
        "$.properties.value.prefixItems: 'prefixItems' is not part of strict mode",
    ),
    "tuple of nothing": (tuple[()], True, "$.properties.value: an array of anything is not part of strict mode"),
    "tuple": (tuple[int, str], True, "$.properties.value.prefixItems: 'prefixItems' is not part of strict mode"),
    "Any": (Any, True, "$.properties.value: a value of any type is not part of strict mode"),
    "list of Any": (list[Any], True, "$.properties.value.items: a value of any type is not part of strict mode"),
    "bytes": (bytes, True, "$.properties.value.format: the format 'binary' is not part of strict mode"),
    "SecretStr": (SecretStr, True, "$.properties.value.format: the format 'password' is not part of strict mode"),
    "text of bounded length": (
        Annotated[str, Field(min_length=2)],
        True,
        "$.properties.value.minLength: 'minLength' is not part of strict mode",
    ),
    "enum of tuples": (Pair, True, "$.properties.value.enum: a choice of anything but scalars is not"),
    "nested": (
        Box[list[dict[str, int]]],
        False,
        f"$.properties.content.items.additionalProperties: {OPEN_REASON}",
    ),
}


def generated(response_type: Any) -> dict[str, Any]:
    return TypeAdapter(response_type).json_schema()


def made(response_type: Any) -> ResponseSchema:
    return response_schema("Answer", generated(response_type))


def as_generated(schema: dict[str, Any], *, wrapped: bool) -> dict[str, Any]:
    """What a fallback must be: the generated schema, its root resolved, wrapped where it is no object."""
    schema = copy.deepcopy(schema)
    definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
    if "$ref" in schema:
        schema = definitions["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if wrapped:
        schema = {
            "type": "object",
            "properties": {"value": schema},
            "required": ["value"],
            "additionalProperties": False,
        }
    return schema | definitions


# -- An independent reading of strict mode's rules: it shares nothing with the maker.

ALLOWED = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"pattern", "format"},
    "integer": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"},
    "number": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"},
    "boolean": set[str](),
    "null": set[str](),
}
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


def assert_strict(schema: dict[str, Any]) -> None:
    assert schema["type"] == "object"
    definitions = schema.get("$defs", {})
    nodes = [*walk({k: v for k, v in schema.items() if k != "$defs"})]
    for definition in definitions.values():
        nodes += walk(definition)
    for node in nodes:
        assert_strict_node(node, definitions)
    assert sum(len(node.get("properties", ())) for node in nodes) <= 5_000


def walk(schema: Any) -> Iterator[dict[str, Any]]:
    assert isinstance(schema, dict)
    yield schema
    for inner in schema.get("properties", {}).values():
        yield from walk(inner)
    for inner in schema.get("anyOf", ()):
        yield from walk(inner)
    if "items" in schema:
        yield from walk(schema["items"])


def assert_strict_node(node: dict[str, Any], definitions: dict[str, Any]) -> None:
    if "$ref" in node:
        assert node.keys() == {"$ref"}
        assert node["$ref"].removeprefix("#/$defs/") in definitions
        return
    if "anyOf" in node:
        assert node["anyOf"]
        assert node.keys() <= {"anyOf", "title", "description"}
        return
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    assert node.keys() <= {"type", "title", "description", "enum", "const"}.union(*(ALLOWED[name] for name in types))
    if "object" in types:
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
    if "array" in types:
        assert "items" in node
    assert node.get("format", "date") in FORMATS
    assert not re.search(r"\(\?<?[=!]", node.get("pattern", ""))
    assert node.get("enum", ["one"])


# -- An answer as a model bound to the schema could give it.

SAMPLES = {
    "date-time": "2026-11-21T04:00:00Z",
    "date": "2026-11-21",
    "time": "04:00:00",
    "duration": "PT5M",
    "uuid": "6f1d7c1e-7d70-4c3b-9d0c-0e5a3c1b2a10",
}


def answer(schema: dict[str, Any], root: dict[str, Any], depth: int = 0) -> Any:
    if "$ref" in schema:
        return answer(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][-1]
    if "anyOf" in schema:
        return answer(schema["anyOf"][-1 if depth > 8 else 0], root, depth + 1)
    match schema["type"]:
        case "object":
            return {name: answer(inner, root, depth + 1) for name, inner in schema["properties"].items()}
        case "array":
            return [] if depth > 8 else [answer(schema["items"], root, depth + 1)]
        case "string":
            return SAMPLES[schema["format"]] if "format" in schema else "ABC"
        case "integer":
            return schema.get("minimum", 7)
        case "number":
            return 1.5
        case "boolean":
            return True
        case "null":
            return None
        case other:
            raise AssertionError(other)


def read(response_type: Any, result: ResponseSchema, text: str) -> Any:
    """Validate an answer's text as the type; a wrapped one through its wrapper."""
    adapter = TypeAdapter(response_type)
    return adapter.validate_python(json.loads(text)["value"]) if result.wrapped else adapter.validate_json(text)


# -- Types


@pytest.mark.parametrize("case", STRICT)
def test_a_type_that_strict_mode_can_say_goes_strict(case: str) -> None:
    response_type, wrapped = STRICT[case]
    result = made(response_type)
    assert (result.strict, result.wrapped, result.fallback_reason) == (True, wrapped, None)
    assert_strict(result.schema)


@pytest.mark.parametrize("case", STRICT)
def test_an_answer_under_the_strict_schema_validates_as_the_type(case: str) -> None:
    response_type, _ = STRICT[case]
    result = made(response_type)
    text = json.dumps(answer(result.schema, result.schema))
    read(response_type, result, text)


@pytest.mark.parametrize("case", FALLBACK)
def test_a_type_beyond_strict_mode_is_sent_as_generated_with_the_reason(case: str) -> None:
    response_type, wrapped, reason = FALLBACK[case]
    result = made(response_type)
    assert (result.strict, result.wrapped) == (False, wrapped)
    assert reason in (result.fallback_reason or "")
    assert result.schema == as_generated(generated(response_type), wrapped=wrapped)
    assert result.schema["type"] == "object"


def spoil(content: Any) -> None:
    """Empty every object and array within."""
    for inner in list(content.values() if isinstance(content, dict) else content):
        if isinstance(inner, dict | list):
            spoil(inner)
    content.clear()


@pytest.mark.parametrize("case", [*STRICT, *FALLBACK])
def test_the_generated_schema_is_neither_changed_nor_shared(case: str) -> None:
    schema = generated({**STRICT, **FALLBACK}[case][0])
    before = copy.deepcopy(schema)
    result = response_schema("Answer", schema)
    assert schema == before
    spoil(result.schema)
    assert schema == before


@pytest.mark.parametrize("case", [*STRICT, *FALLBACK])
def test_equal_input_gives_the_same_text(case: str) -> None:
    schema = generated({**STRICT, **FALLBACK}[case][0])
    first, second = (response_schema("Answer", copy.deepcopy(schema)) for _ in range(2))
    assert json.dumps(response_format(first)) == json.dumps(response_format(second))
    assert first.fallback_reason == second.fallback_reason


def test_answers_written_by_hand_validate() -> None:
    people = read(
        list[Person],
        made(list[Person]),
        '{"value": [{"surname": "Curie", "born": null, "address": {"street": "Rue Cuvier", "number": 12},'
        ' "nicknames": [], "color": "red"}]}',
    )
    assert people == [Person(surname="Curie", address=Address(street="Rue Cuvier", number=12))]
    assert read(Person | None, made(Person | None), '{"value": null}') is None
    assert read(Animal, made(Animal), '{"value": {"kind": "dog", "name": "Rex"}}') == Dog(name="Rex")
    assert read(Color, made(Color), '{"value": "default"}') is Color.DEFAULT
    assert read(Empty, made(Empty), "{}") == Empty()
    tree = '{"label": "a", "children": [{"label": "b", "children": [], "parent": null}], "parent": null}'
    assert read(Node, made(Node), tree) == Node(label="a", children=[Node(label="b")])
    assert read(dict[str, int], made(dict[str, int]), '{"a": 1}') == {"a": 1}


def test_the_response_format_is_what_the_body_takes() -> None:
    result = response_schema("Box[int]", generated(Box[int]))
    assert response_format(result) == {
        "type": "json_schema",
        "json_schema": {
            "name": "Box_int",
            "strict": True,
            "schema": {
                "properties": {"content": {"title": "Content", "type": "integer"}},
                "required": ["content"],
                "title": "Box[int]",
                "type": "object",
                "additionalProperties": False,
            },
        },
    }


# -- The transformation


def test_properties_keep_the_order_of_the_fields() -> None:
    fields: dict[str, Any] = dict.fromkeys(("zeta", "alpha", "mid", "beta"), (int, 0))
    inner = create_model("Inner", **fields)
    outer = create_model("Outer", **dict.fromkeys(("two", "one"), (inner, ...)))
    schema = made(outer).schema
    assert list(schema["properties"]) == schema["required"] == ["two", "one"]
    strict_inner = schema["$defs"]["Inner"]
    assert list(strict_inner["properties"]) == strict_inner["required"] == ["zeta", "alpha", "mid", "beta"]


def test_defaults_are_taken_out_and_every_property_is_required() -> None:
    schema = made(Person).schema
    assert schema["required"] == ["surname", "born", "address", "nicknames", "color"]
    assert '"default":' not in json.dumps(schema)
    assert schema["$defs"]["Color"]["enum"] == ["red", "default"]


def test_a_described_reference_is_inlined_with_its_own_description() -> None:
    home = made(Person).schema["properties"]["address"]
    assert home["description"] == "The home address."
    assert list(home["properties"]) == home["required"] == ["street", "number"]


def test_a_recursive_root_is_a_copy_of_its_definition_and_keeps_the_references() -> None:
    schema = made(Node).schema
    assert {k: v for k, v in schema.items() if k != "$defs"} == schema["$defs"]["Node"]
    assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert schema["properties"]["children"]["description"] == "The nodes below."


def test_a_reference_into_a_circle_is_inlined_and_those_within_it_lose_their_annotations() -> None:
    schema = made(Forest).schema
    assert schema["properties"]["first"]["description"] == "The first tree."
    assert schema["properties"]["first"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    circle = made(Hen)
    assert_strict(circle.schema)
    assert circle.schema["$defs"]["Egg"]["properties"]["cousin"] == {"$ref": "#/$defs/Hen"}


def test_a_constraint_beside_a_recursive_reference_falls_back() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N", "minProperties": 1}}}
    result = response_schema("N", {"$defs": {"N": node}, "$ref": "#/$defs/N"})
    assert result.fallback_reason == (
        "$.$defs.N.properties.next.minProperties: "
        "'minProperties' beside a recursive reference is not part of strict mode"
    )


def test_a_discriminated_union_becomes_a_plain_one_told_apart_by_its_constants() -> None:
    schema = made(Animal).schema
    assert schema["properties"]["value"] == {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
    assert schema["$defs"]["Dog"]["properties"]["kind"]["const"] == "dog"


def test_an_optional_union_of_unions_is_sent_so() -> None:
    thing = Annotated[Animal | Tree, Field(discriminator="kind")]
    cat, dog, tree = ({"$ref": f"#/$defs/{name}"} for name in ("Cat", "Dog", "Tree"))

    def closed(name: str, /, **properties: str) -> dict[str, Any]:
        told = {
            "kind": {"const": name.lower(), "title": "Kind", "type": "string"},
            **{key: {"title": key.title(), "type": value} for key, value in properties.items()},
        }
        return {
            "properties": told,
            "required": list(told),
            "title": name,
            "type": "object",
            "additionalProperties": False,
        }

    assert made(thing | None).schema == {
        "type": "object",
        "properties": {"value": {"anyOf": [{"anyOf": [cat, dog, tree]}, {"type": "null"}]}},
        "required": ["value"],
        "additionalProperties": False,
        "$defs": {
            "Cat": closed("Cat", lives="integer"),
            "Dog": closed("Dog", name="string"),
            "Tree": closed("Tree"),
        },
    }


def test_a_tuple_and_a_set_are_sent_as_they_were_generated() -> None:
    places = [{"$ref": "#/$defs/Cat"}, {"type": "string"}]
    made_of = {"tuple": made(tuple[Cat, str]), "set": made(set[int])}
    assert {name: schema.schema["properties"]["value"] for name, schema in made_of.items()} == {
        "tuple": {"type": "array", "prefixItems": places, "minItems": 2, "maxItems": 2},
        "set": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    }
    assert {response_format(schema)["json_schema"]["strict"] for schema in made_of.values()} == {False}


def test_names_and_values_that_look_like_keywords_stay() -> None:
    schema = made(Keywords).schema
    assert schema["required"] == list(generated(Keywords)["properties"])
    assert schema["properties"]["type"]["enum"] == ["default", "$ref"]
    assert schema["properties"]["$ref"]["type"] == "string"
    assert schema["properties"]["$defs"] == {"$ref": "#/$defs/Address"}


def test_annotations_that_bind_nothing_are_dropped() -> None:
    text = {
        "type": "string",
        "examples": ["x"],
        "example": "x",
        "deprecated": True,
        "readOnly": True,
        "writeOnly": True,
        "$comment": "for us",
        "default": "x",
        "description": "Kept.",
    }
    result = response_schema("A", {"type": "object", "properties": {"text": text}})
    assert result.schema["properties"]["text"] == {"type": "string", "description": "Kept."}
    assert result.strict


def test_a_lone_all_of_is_merged_and_a_longer_one_falls_back() -> None:
    def schema(*parts: dict[str, Any]) -> dict[str, Any]:
        properties = {"home": {"allOf": list(parts), "description": "Here."}}
        return {"$defs": {"Address": generated(Address)}, "type": "object", "properties": properties}

    one = response_schema("A", schema({"$ref": "#/$defs/Address"}))
    assert one.schema["properties"]["home"]["description"] == "Here."
    assert_strict(one.schema)
    two = response_schema("A", schema({"$ref": "#/$defs/Address"}, {"type": "object"}))
    assert two.fallback_reason == "$.properties.home.allOf: 'allOf' is not part of strict mode"


@pytest.mark.parametrize(
    ("pattern", "strict"),
    [
        (r"^\d+$", True),
        (r"^a\(?=b$", True),
        (r"(?:a|b)(?P<name>c)", True),
        (r"^(?!0)\d+$", False),
        (r"a\\(?=b)", False),
        (r"(?<=a)b", False),
        (r"(?<!a)b", False),
    ],
)
def test_a_pattern_is_kept_unless_it_looks_around(pattern: str, strict: bool) -> None:
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": pattern}}}
    result = response_schema("A", schema)
    assert result.strict is strict
    assert result.schema["properties"]["code"]["pattern"] == pattern


def test_a_decimal_goes_strict_exactly_when_its_pattern_can() -> None:
    # Whether pydantic writes a pattern for Decimal differs from version to version.
    result = made(Decimal)
    assert result.strict is ("(?" not in json.dumps(generated(Decimal)))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object"}, "$.properties.a: an open object"),
        ({"type": "array"}, "$.properties.a: an array of anything"),
        (True, "$.properties.a: a value of any type"),
        ({"enum": []}, "$.properties.a.enum: a choice of anything but scalars"),
        ({"type": "file"}, "$.properties.a.type: the type 'file'"),
        ({"type": "string", "pattern": 5}, "$.properties.a.pattern: 'pattern'"),
        ({"$ref": "#"}, "$.properties.a.$ref: the reference '#'"),
        ({"$ref": "#/$defs/Missing"}, "$.properties.a.$ref: the reference '#/$defs/Missing'"),
        ({"type": "string", "$defs": {}}, "$.properties.a.$defs: '$defs'"),
        ({"type": "string", "not": {"const": "x"}}, "$.properties.a.not: 'not'"),
        ({"anyOf": [{"type": "null"}], "type": "null"}, "$.properties.a.type: 'type' beside 'anyOf'"),
        ({"anyOf": [{"type": "null"}], "oneOf": []}, "$.properties.a.oneOf: 'oneOf' beside 'anyOf'"),
        ({"anyOf": [{"type": "null"}, {}]}, "$.properties.a.anyOf[1]: a value of any type"),
        ({"type": "object", "properties": {}, "additionalProperties": {}}, ".additionalProperties: an open object"),
        ({"type": "object", "properties": {}, "patternProperties": {}}, "$.properties.a.patternProperties"),
        ({"type": "object", "properties": []}, "$.properties.a.properties: 'properties'"),
        ({"type": "string", "minItems": 1}, "$.properties.a.minItems: 'minItems'"),
        ({"anyOf": "x"}, "$.properties.a.anyOf: 'anyOf'"),
        ({"anyOf": []}, "$.properties.a.anyOf: 'anyOf'"),
        ({"description": "Anything."}, "$.properties.a: a value of any type"),
    ],
)
def test_what_strict_mode_cannot_say_is_named_with_its_path(schema: Any, reason: str) -> None:
    whole = {"type": "object", "properties": {"a": schema}, "title": "Whole"}
    result = response_schema("A", whole)
    assert not result.strict
    assert reason in (result.fallback_reason or "")
    assert result.schema == whole


def test_a_closed_object_without_properties_is_empty() -> None:
    result = response_schema("A", {"type": "object", "additionalProperties": False})
    assert result.strict
    assert_strict(result.schema)


# -- Limits


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"inner": schema}}
    return schema


def flat(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {str(number): {"type": "integer"} for number in range(count)}}


def choice(*values: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"enum": list(values)}}}


@pytest.mark.parametrize(
    ("fits", "too_much", "reason"),
    [
        (nested(10), nested(11), "$: nesting of more than 10 levels"),
        (flat(5_000), flat(5_001), "$.properties: a total of more than 5,000 properties"),
        (choice(*"ab" * 500), choice(*"ab" * 500, "c"), "a total of more than 1,000 enum values"),
        (choice("a" * 119_999), choice("a" * 120_000), "a total of more than 120,000 characters"),
        (choice(*["a" * 60] * 250), choice(*["a" * 60] * 251), "an enum of more than 15,000 characters"),
    ],
    ids=["levels", "properties", "enum values", "characters", "long enum"],
)
def test_the_providers_limits(fits: dict[str, Any], too_much: dict[str, Any], reason: str) -> None:
    assert response_schema("A", fits).strict
    result = response_schema("A", too_much)
    assert reason in (result.fallback_reason or "")
    assert result.schema == too_much


def test_levels_are_counted_along_references_and_through_the_wrapper() -> None:
    definitions: dict[str, Any] = {"L8": {"type": "object", "properties": {"text": {"type": "string"}}}}
    for number in range(7, 0, -1):
        inner = {"anyOf": [{"$ref": f"#/$defs/L{number + 1}"}, {"type": "null"}]}
        definitions[f"L{number}"] = {"type": "object", "properties": {"inner": inner}}
    items = {"type": "array", "items": {"$ref": "#/$defs/L1"}}
    assert response_schema("A", {**items, "$defs": definitions}).strict
    deeper = response_schema("A", {"type": "array", "items": items, "$defs": definitions})
    assert deeper.fallback_reason == "$: nesting of more than 10 levels is not part of strict mode"


def test_inlining_that_would_explode_stops_at_the_limit_of_properties() -> None:
    definitions: dict[str, Any] = {"L9": {"type": "object", "properties": {"text": {"type": "string"}}}}
    for number in range(8, 0, -1):
        described = {"$ref": f"#/$defs/L{number + 1}", "description": "Inline me."}
        definitions[f"L{number}"] = {"type": "object", "properties": dict.fromkeys("abcdef", described)}
    result = response_schema("A", {"type": "object", "properties": {"a": {"$ref": "#/$defs/L1"}}, "$defs": definitions})
    assert "a total of more than 5,000 properties" in (result.fallback_reason or "")


# -- Names


@pytest.mark.parametrize(
    ("type_name", "name"),
    [
        ("Ticket", "Ticket"),
        ("G[int]", "G_int"),
        ("dict[str, list[int]]", "dict_str_list_int"),
        ("_Private-1", "_Private-1"),
        ("Größe", "Gr_e"),
        ("答え", "answer"),
        ("", "answer"),
        ("x" * 64, "x" * 64),
    ],
)
def test_a_types_name_is_made_fit(type_name: str, name: str) -> None:
    assert response_schema(type_name, {"type": "integer"}).name == name


def test_names_that_are_too_long_are_cut_and_stay_apart() -> None:
    names = {response_schema("x" * 64 + tail, {"type": "integer"}).name for tail in ("a", "b", "[a]", "\ud800a")}
    assert len(names) == 4
    assert all(re.fullmatch(r"x{55}_[0-9a-f]{8}", name) for name in names)


@given(st.text())
def test_any_text_gives_a_name_the_provider_takes(type_name: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", response_schema(type_name, {"type": "integer"}).name)


# -- Beside OpenAI's SDK


def from_sdk(model: type[BaseModel]) -> dict[str, Any]:
    import openai

    parameters = openai.pydantic_function_tool(model)["function"].get("parameters")
    assert isinstance(parameters, dict)
    return parameters


@pytest.mark.parametrize("model", [Plain, Empty, Closed, Cat, Box[int], Box[Address | None]])
def test_the_sdk_makes_the_same_schema(model: type[BaseModel]) -> None:
    assert made(model).schema == from_sdk(model)


def test_the_sdk_differs_in_the_defaults_it_keeps() -> None:
    theirs = from_sdk(Person)
    assert theirs["properties"]["nicknames"].pop("default") == []
    # A default beside a reference makes the SDK inline the reference; with the default gone ours stands alone.
    assert theirs["properties"].pop("color") == theirs["$defs"]["Color"] | {"default": "red"}
    schema = made(Person).schema
    assert schema["properties"].pop("color") == {"$ref": "#/$defs/Color"}
    assert schema == theirs


def test_the_sdk_differs_in_the_discriminator_it_keeps() -> None:
    theirs = from_sdk(Box[Animal])
    del theirs["properties"]["content"]["discriminator"]
    theirs["properties"]["content"]["anyOf"] = theirs["properties"]["content"].pop("oneOf")
    del theirs["$defs"]["Dog"]["properties"]["kind"]["default"]
    assert made(Box[Animal]).schema == theirs


# -- Any type

SCALARS = [
    int,
    str,
    float,
    bool,
    date,
    datetime,
    UUID,
    Decimal,
    Color,
    Mixed,
    Literal["a", 2],
    Address,
    Node,
    type(None),
]
BEYOND_STRICT = [Any, bytes, SecretStr, set[int], dict[str, int], tuple[int, str], Open, dict, list]


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda item: list[item]),
        inner.map(lambda item: item | None),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        models(inner),
    )


def models(field_types: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(fields: dict[str, tuple[Any, Any, str | None]]) -> type[BaseModel]:
        definitions: dict[str, Any] = {
            name: (field_type, Field(default, description=description))
            for name, (field_type, default, description) in fields.items()
        }
        return create_model("Made", **definitions)

    names = st.sampled_from(["default", "title", "zeta", "alpha", "items", "required", "value"])
    definition = st.tuples(field_types, st.sampled_from([..., None]), st.sampled_from([None, "Described."]))
    return st.dictionaries(names, definition, max_size=4).map(build)


LEAVES = st.one_of(st.sampled_from(SCALARS), st.sampled_from(SCALARS), st.sampled_from(BEYOND_STRICT))
ANY_TYPES = st.recursive(LEAVES, containers, max_leaves=6)
STRICT_TYPES = st.recursive(st.sampled_from(SCALARS), containers, max_leaves=6)


@settings(deadline=None, max_examples=100)
@given(st.one_of(ANY_TYPES, models(ANY_TYPES)))
def test_any_type_goes_strict_by_the_rules_or_is_sent_as_generated(response_type: Any) -> None:
    schema = generated(response_type)
    before = copy.deepcopy(schema)
    result = response_schema("Any", schema)
    assert schema == before
    if result.strict:
        assert result.fallback_reason is None
        assert_strict(result.schema)
    else:
        assert result.fallback_reason
        assert result.schema == as_generated(schema, wrapped=result.wrapped)


@settings(deadline=None, max_examples=60)
@given(st.one_of(STRICT_TYPES, models(STRICT_TYPES)))
def test_any_strict_answer_validates_as_its_type(response_type: Any) -> None:
    result = made(response_type)
    if result.strict:
        read(response_type, result, json.dumps(answer(result.schema, result.schema)))
