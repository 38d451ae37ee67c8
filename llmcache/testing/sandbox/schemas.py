"""JSON schemas as far as the sandbox has to understand them: references, ``allOf``, and whether a value may fit."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Schema: TypeAlias = dict[str, Any]

_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_TIGHTEST: Final = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minItems", "minLength", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxItems", "maxLength", "maxProperties"), min),
}
_MOST_HOPS: Final = 32


def target(reference: str, root: Schema) -> Any:
    """Return what a reference like ``#/$defs/Node`` points to in `root`; ``{}`` when there is nothing."""
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found


def resolve(schema: Any, root: Schema, hops: int = 0) -> Schema:
    """Return the schema with its reference and its ``allOf`` taken in; what is below stays as it is."""
    if not isinstance(schema, dict):
        return {}  # `true`, that is anything
    parts = [target(schema["$ref"], root)] if "$ref" in schema else []
    parts += schema.get("allOf", [])
    if not parts or hops > _MOST_HOPS:
        return schema
    merged = {keyword: content for keyword, content in schema.items() if keyword not in ("$ref", "allOf")}
    for part in parts:
        merged = _both(resolve(part, root, hops + 1), merged)
    return merged


def _both(one: Schema, other: Schema) -> Schema:
    made = {**one, **other}
    for keyword in [keyword for keyword in one if keyword in other]:
        left, right = one[keyword], other[keyword]
        if keyword == "properties":
            made[keyword] = {**left, **right, **{n: {"allOf": [left[n], right[n]]} for n in left if n in right}}
        elif keyword == "required":
            made[keyword] = list(dict.fromkeys([*left, *right]))
        elif keyword == "enum":
            made[keyword] = [value for value in left if value in right]
        elif keyword in _TIGHTEST:
            made[keyword] = _TIGHTEST[keyword](left, right)
    return made


def accepts(schema: Any, value: Any, root: Schema) -> bool:
    """Say whether a value may be meant for a schema: by its type, its required properties and its allowed values.

    What lies inside the value is not looked at.
    """
    node = resolve(schema, root)
    branches = node.get("anyOf") or node.get("oneOf")
    if branches and not any(accepts(branch, value, root) for branch in branches):
        return False
    if ("const" in node and value != node["const"]) or ("enum" in node and value not in node["enum"]):
        return False
    if isinstance(value, dict) and not value.keys() >= set(node.get("required", ())):
        return False
    types = node.get("type", [])
    return not types or any(_is(value, name) for name in ([types] if isinstance(types, str) else types))


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, float) and name == "integer":
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, ()))


def wrapped(schema: Any, root: Schema) -> Any | None:
    """Return the schema inside an object whose only property is ``value``; None for every other schema."""
    properties = resolve(schema, root).get("properties")
    return properties["value"] if isinstance(properties, dict) and list(properties) == ["value"] else None
