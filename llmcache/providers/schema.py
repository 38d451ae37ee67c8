"""Strict schemas: what a provider's ``response_format`` takes, made from the JSON schema of a response type.

A strict schema binds the provider while it writes; one that is not strict is only advice to the model. A type goes
strict when strict mode can say everything that its schema says. Otherwise the schema is sent as it was generated,
with the reason beside it. Either way properties keep the type's own order: it is the order a model writes in.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

SCHEMA_FORMAT = 1
"""Number of this maker's rules: raised when the schema that is made from the same type changes."""

_Schema: TypeAlias = dict[str, Any]

# What strict mode takes is from OpenAI's guide "Structured model outputs", section "Supported schemas"
# (developers.openai.com/api/docs/guides/structured-outputs; copies of October 2025 and February 2026, looked up
# 2026-11-21). For strings it lists pattern and format alone: that is why minLength and maxLength are not here.
_KEYWORDS: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "$defs"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("pattern", "format"),
    **dict.fromkeys(
        ("integer", "number"), ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum")
    ),
    **dict.fromkeys(("boolean", "null"), ()),
}
_KEYWORDS_OF_ANY_TYPE = ("type", "enum", "const", "title", "description")
_KEYWORDS_OF_UNIONS = ("anyOf", "title", "description")
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
# None of these binds an answer. `discriminator` names a property that the branches' constants already tell apart;
# `default` could never apply where every property is required.
_DROPPED = ("default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment", "discriminator")
# The API answers 400 "regex lookaround is not supported" (github.com/vercel/ai/pull/21037 and
# github.com/pydantic/pydantic-ai/issues/5508); pydantic 2.12 and 2.13 write such a pattern for every Decimal.
_LOOKAROUND = re.compile(r"(?<!\\)(?:\\\\)*\(\?<?[=!]")
_LIMITS = {"properties": 5_000, "characters in names and values": 120_000, "enum values": 1_000}
_LONG_ENUM_VALUES, _LONG_ENUM_CHARACTERS = 250, 15_000
_MAX_LEVELS = 10

_NAME_LENGTH = 64
_OUTSIDE_NAME = re.compile(r"[^a-zA-Z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ResponseSchema:
    """What a provider is told about the shape of its answer."""

    name: str
    """The type's name made fit for the provider: ``[a-zA-Z0-9_-]``, 1 to 64 characters."""
    schema: dict[str, Any]
    """A JSON schema whose root is an object; not to be changed."""
    strict: bool
    """Whether the provider is bound to the schema; else the schema is advice."""
    wrapped: bool
    """The answer is ``{"value": ...}``, because the type itself is no object."""
    fallback_reason: str | None
    """What is no part of strict mode, after its JSON path in `schema`; None when strict."""


def response_schema(type_name: str, json_schema: Mapping[str, Any]) -> ResponseSchema:
    """Return the schema to send for a type, from its name and its JSON schema as pydantic generates it.

    A property that the type lets an answer leave out is required in a strict schema: the model writes it each time.
    Siblings of a reference win over what it refers to. `json_schema` is neither changed nor shared.
    """
    root = _resolve_root(json_schema)
    wrapped = root.get("type") != "object"
    schema, reason = _wrap(root) if wrapped else root, None
    try:
        schema = _StrictMaker(schema).make()
    except _NotStrict as found:
        reason = str(found)
    return ResponseSchema(_fit_name(type_name), schema, strict=reason is None, wrapped=wrapped, fallback_reason=reason)


def response_format(rs: ResponseSchema) -> dict[str, Any]:
    """Return the value of ``response_format`` in the request's body; it shares `rs.schema`."""
    return {"type": "json_schema", "json_schema": {"name": rs.name, "strict": rs.strict, "schema": rs.schema}}


def _fit_name(type_name: str) -> str:
    name = "_".join(part for part in _OUTSIDE_NAME.split(type_name) if part) or "answer"
    if len(name) <= _NAME_LENGTH:
        return name
    # An annotation as written can hold a lone surrogate (`Literal["\ud800"]`), which plain UTF-8 refuses.
    digest = hashlib.sha256(type_name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - 9]}_{digest}"


def _resolve_root(json_schema: Mapping[str, Any]) -> _Schema:
    """Copy a schema; a root that is a reference (a recursive model) becomes what it refers to, beside ``$defs``."""
    root: _Schema = copy.deepcopy(dict(json_schema))
    definitions = root.get("$defs", {})
    for _ in definitions:  # no chain of references is longer
        if (name := _target(root, definitions)) is not None:
            root = {**copy.deepcopy(definitions[name]), **_without("$ref", root)}
    return root


def _wrap(root: _Schema) -> _Schema:
    """Make a root that the provider refuses (anything but an object) the one property of an object."""
    properties = {"value": _without("$defs", root)}
    wrapper = {"type": "object", "properties": properties, "required": ["value"], "additionalProperties": False}
    return {**wrapper, "$defs": root["$defs"]} if "$defs" in root else wrapper


class _NotStrict(Exception):
    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what} is not part of strict mode")


class _StrictMaker:
    """One walk over a schema that makes its strict twin, or raises `_NotStrict` at the first thing that has none.

    The walk knows where schemas are and where names and values are: a property called ``default`` is a property.
    `home` is the definition that the walk is in, None in the root. A reference is recursive when its target leads
    back to its home; only the others are inlined or measured, as among them there is no circle.
    """

    def __init__(self, schema: _Schema) -> None:
        self._schema = schema
        self._definitions: dict[str, Any] = schema.get("$defs", {})
        self._leads_to = {name: self._reachable(name) for name in self._definitions}
        self._levels_of: dict[str, int] = {}
        self._strict_definitions: dict[str, _Schema] = {}
        self._totals: Counter[str] = Counter()

    def make(self) -> _Schema:
        # Measured before anything is inlined, so that inlining has a bottom.
        if self._levels(self._schema, None) > _MAX_LEVELS:
            raise _NotStrict("$", f"nesting of more than {_MAX_LEVELS} levels")
        # Definitions first: what is inlined from them has then passed, under the path where it really stands.
        self._count("characters in names and values", sum(map(len, self._definitions)), "$.$defs")
        for name, definition in self._definitions.items():
            self._strict_definitions[name] = self._node(definition, f"$.$defs.{name}", name)
        return self._node(self._schema, "$", None)

    def _node(self, schema: Any, path: str, home: str | None) -> _Schema:
        merged, home = self._merge(schema, path, home)
        if "anyOf" in merged and "oneOf" in merged:
            raise _NotStrict(f"{path}.oneOf", "'oneOf' beside 'anyOf'")
        made: _Schema = {}
        for keyword in merged:
            if keyword not in _DROPPED:
                content = self._content(keyword, merged[keyword], f"{path}.{keyword}", home)
                made["anyOf" if keyword == "oneOf" else keyword] = content
        return _complete(made, path)

    def _merge(self, schema: Any, path: str, home: str | None) -> tuple[_Schema, str | None]:
        """Take in a lone ``allOf`` or a reference with siblings; return the home of what was taken in too."""
        if not _is_schema(schema):
            raise _NotStrict(path, "a value of any type")
        if _is_list(parts := schema.get("allOf")) and len(parts) == 1 and _is_schema(parts[0]):
            return self._merge({**parts[0], **_without("allOf", schema)}, path, home)
        name = _target(schema, self._definitions)
        siblings = {keyword: schema[keyword] for keyword in schema if keyword not in ("$ref", *_DROPPED)}
        if name is None:
            return schema, home
        if siblings and home not in self._leads_to[name]:
            return self._merge({**self._definitions[name], **siblings}, path, name)
        for keyword in siblings:
            if keyword not in ("title", "description"):
                raise _NotStrict(f"{path}.{keyword}", f"{keyword!r} beside a recursive reference")
        return {"$ref": schema["$ref"]}, home

    def _content(self, keyword: str, content: Any, path: str, home: str | None) -> Any:
        match keyword:
            case "properties" if _is_schema(content):
                self._count("properties", len(content), path)
                self._count("characters in names and values", sum(map(len, content)), path)
                return {name: self._node(content[name], f"{path}.{name}", home) for name in content}
            case "items":
                return self._node(content, path, home)
            case "anyOf" | "oneOf" if _is_list(content) and content:
                return [self._node(branch, f"{path}[{index}]", home) for index, branch in enumerate(content)]
            case "$defs" if path == "$.$defs":
                return self._strict_definitions
            case "enum" if _is_list(content):
                self._count("enum values", len(content), path)
                self._check_values(content, path)
            case "const":
                self._check_values([content], path)
            case _:
                self._check_keyword(keyword, content, path)
        return content

    def _check_keyword(self, keyword: str, content: Any, path: str) -> None:
        match keyword:
            case "$ref":
                # The guide has "#" too, but pydantic never writes it, and wrapping would change what it means.
                fits, what = _target({"$ref": content}, self._definitions) is not None, f"the reference {content!r}"
            case "type":
                fits, what = all(name in [*_KEYWORDS] for name in _types({"type": content})), f"the type {content!r}"
            case "format":
                fits, what = content in _FORMATS, f"the format {content!r}"
            case "pattern" if isinstance(content, str):
                fits, what = _LOOKAROUND.search(content) is None, "a pattern that looks ahead or behind"
            case "additionalProperties":
                fits, what = content is False, "an open object"
            case _:
                fits, what = keyword not in ("properties", "anyOf", "oneOf", "enum", "pattern", "$defs"), repr(keyword)
        if not fits:
            raise _NotStrict(path, what)

    def _check_values(self, values: list[Any], path: str) -> None:
        if not values or any(type(value) not in _SCALARS for value in values):
            raise _NotStrict(path, "a choice of anything but scalars")
        characters = sum(len(value) for value in values if isinstance(value, str))
        if len(values) > _LONG_ENUM_VALUES and characters > _LONG_ENUM_CHARACTERS:
            raise _NotStrict(path, f"an enum of more than {_LONG_ENUM_CHARACTERS:,} characters")
        self._count("characters in names and values", characters, path)

    def _count(self, what: str, amount: int, path: str) -> None:
        self._totals[what] += amount
        if self._totals[what] > _LIMITS[what]:
            raise _NotStrict(path, f"a total of more than {_LIMITS[what]:,} {what}")

    def _levels(self, schema: _Schema, home: str | None) -> int:
        """Count the objects and arrays that lie within each other, along references too unless recursive.

        The guide leaves open what a level is. OpenAI's own checker (openai-java, JsonSchemaValidator) counts arrays too
        but follows no reference; counting too much costs strictness, too little a refused call.
        """
        deepest = max((self._levels(part, home) for part in _parts(schema)), default=0)
        name = _target(schema, self._definitions)
        if name is not None and home not in self._leads_to[name]:
            if name not in self._levels_of:
                self._levels_of[name] = self._levels(self._definitions[name], name)
            deepest = max(deepest, self._levels_of[name])
        return deepest + any(name in ("object", "array") for name in _types(schema))

    def _reachable(self, name: str) -> set[str]:
        reached, waiting = {name}, [self._definitions[name]]
        while waiting:
            target = _target(schema := waiting.pop(), self._definitions)
            waiting += _parts(schema)
            if target is not None and target not in reached:
                reached.add(target)
                waiting.append(self._definitions[target])
        return reached


def _complete(made: _Schema, path: str) -> _Schema:
    """Add what strict mode wants said: a type, closed objects, every property required."""
    if "$ref" in made:
        return made
    if "type" not in made and ("enum" in made or "const" in made):
        # pydantic gives mixed values no type; OpenAI's own checker wants a type, anyOf or $ref in every schema.
        names = list(dict.fromkeys(_SCALARS[type(value)] for value in made.get("enum", [made.get("const")])))
        made["type"] = names[0] if len(names) == 1 else names
    _check_places(made, path)
    if "array" in _types(made) and "items" not in made:
        raise _NotStrict(path, "an array of anything")
    if "object" in _types(made):
        # pydantic writes a model's `properties` even when there are none; an object without is a `dict` (2.10).
        if "properties" not in made and "additionalProperties" not in made:
            raise _NotStrict(path, "an open object")
        properties: _Schema = made.setdefault("properties", {})
        made |= {"required": list(properties), "additionalProperties": False}
    return made


def _check_places(made: _Schema, path: str) -> None:
    beside, allowed = " beside 'anyOf'", _KEYWORDS_OF_UNIONS
    if "anyOf" not in made:
        beside, allowed = "", _KEYWORDS_OF_ANY_TYPE + sum((_KEYWORDS.get(name, ()) for name in _types(made)), ())
    for keyword in made:
        if keyword not in allowed:
            raise _NotStrict(f"{path}.{keyword}", repr(keyword) + beside)
    if "type" not in made and "anyOf" not in made:
        raise _NotStrict(path, "a value of any type")


def _types(schema: _Schema) -> list[Any]:
    named = schema.get("type")
    return named if _is_list(named) else [named]


def _parts(schema: Any) -> Iterator[_Schema]:
    """Yield the schemas that stand directly in a schema, ``$defs`` apart."""
    if _is_schema(schema):
        properties = schema.get("properties")
        candidates = [schema.get("items"), *(properties.values() if _is_schema(properties) else ())]
        for keyword in ("anyOf", "oneOf", "allOf"):
            candidates += branches if _is_list(branches := schema.get(keyword)) else []
        yield from filter(_is_schema, candidates)


def _target(schema: Any, definitions: Mapping[str, Any]) -> str | None:
    """Return the name of the definition that a schema refers to; None when it refers to none that is there."""
    reference = schema.get("$ref") if _is_schema(schema) else None
    if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
        return None
    name = reference.removeprefix("#/$defs/")
    return name if _is_schema(definitions.get(name)) else None


def _without(keyword: str, schema: _Schema) -> _Schema:
    return {key: content for key, content in schema.items() if key != keyword}


def _is_schema(value: Any) -> TypeGuard[_Schema]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
