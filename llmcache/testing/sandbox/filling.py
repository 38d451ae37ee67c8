"""Values that fit a JSON schema, made of a text: plausible to look at, and the same in every process."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

from llmcache.testing.sandbox.schemas import Schema, resolve, target

_DEEP: Final = 6
"""Levels from which only what is required is made, and of several branches the one that ends soonest."""
_BOTTOM: Final = 60
"""Levels at which even a schema that never ends gets its end."""
_MANY: Final = 400
"""Values after which everything counts as deep, so that a wide recursive schema does not explode."""
_MOST_REFERENCES: Final = 8
"""References that a way out of a recursive schema may lead through."""
_TRIES: Final = 60
"""Values made in search of one that a list or an object does not have yet."""

_WORD: Final = re.compile(r"\w+(?:[-'\u2019]\w+)*")
_NUMBER: Final = re.compile(r"(?<![\w.])[0-9]{1,9}(?:\.[0-9]{1,9})?")
_BOUNDS: Final = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_TYPE_BY_KEYWORD: Final = {
    **dict.fromkeys(("properties", "required", "additionalProperties", "propertyNames", "minProperties"), "object"),
    **dict.fromkeys(("items", "prefixItems", "minItems"), "array"),
    **dict.fromkeys((*_BOUNDS, "multipleOf"), "number"),
}
_FORMATS: Final = {
    "date": "{date}",
    "date-time": "{date}T{time}Z",
    "time": "{time}",
    "duration": "PT{hour}H{minute}M",
    "email": "{label}@example.com",
    "name-email": "{label} <{label}@example.com>",
    "hostname": "{label}.example.com",
    **dict.fromkeys(("uri", "url", "uri-reference", "iri"), "https://example.com/{label}"),
    **dict.fromkeys(("ipv4", "ipvanyaddress"), "192.0.2.{number}"),
    **dict.fromkeys(("ipv4network", "ipvanynetwork"), "192.0.{number}.0/24"),
    **dict.fromkeys(("ipv4interface", "ipvanyinterface"), "192.0.2.{number}/24"),
    "ipv6": "2001:db8::{number}",
    "ipv6network": "2001:db8:{number}::/48",
    "ipv6interface": "2001:db8::{number}/64",
    **dict.fromkeys(("base64", "base64url"), "{base64}"),
    "json-string": '"{label}"',
}


def fill(text: str, schema: Schema) -> Any:
    """Return JSON data that fits the schema, a function of text and schema alone.

    Strings are words of the text and numbers are its numbers as far as the schema lets them. Every keyword of
    pydantic's schemas is obeyed but ``not``; a ``pattern`` is met when a word, a number or a row of equal letters or
    digits meets it. A schema that nothing fits gets something all the same.
    """
    return _Filling(text, schema).value(schema, 0)


class _Filling:
    def __init__(self, text: str, root: Schema) -> None:
        self._root = root
        self._text = text.lower()
        self._words = _WORD.findall(text) or ["sandbox"]
        self._numbers = [Fraction(number) for number in _NUMBER.findall(text)] or [Fraction(len(self._words))]
        seed = f"{text}\0{json.dumps(root)}".encode("utf-8", "surrogatepass")
        self._seed = hashlib.blake2b(seed, digest_size=32).digest()
        self._draws = self._words_used = self._numbers_used = self._values = 0

    def value(self, schema: Any, level: int) -> Any:
        node = resolve(schema, self._root)
        self._values += 1
        if level > _BOTTOM:
            return None
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return self._one_of(node["enum"])
        for keyword in ("anyOf", "oneOf"):
            if node.get(keyword):
                beside = {name: content for name, content in node.items() if name not in (keyword, "$defs")}
                return self.value({"allOf": [self._branch(node[keyword], level), beside]}, level + 1)
        return self._of_type(self._type(node, level), node, level)

    def _of_type(self, name: str, node: Schema, level: int) -> Any:
        if name == "object":
            return self._object(node, level)
        if name == "array":
            return self._array(node, level)
        if name in ("integer", "number"):
            return self._number(node, whole=name == "integer")
        if name == "boolean":
            return self._draw(2) == 1
        return None if name == "null" else self._string(node, level)

    def _type(self, node: Schema, level: int) -> str:
        types = node.get("type")
        if isinstance(types, list) and types:
            return self._branch([{"type": name} for name in types], level)["type"]
        if isinstance(types, str):
            return types
        return next((name for keyword, name in _TYPE_BY_KEYWORD.items() if keyword in node), "string")

    # -- which of several -------------------------------------------------------------------------------------

    def _draw(self, below: int) -> int:
        self._draws += 1
        digest = hashlib.blake2b(self._draws.to_bytes(8), key=self._seed, digest_size=8).digest()
        return int.from_bytes(digest) % below

    def _is_deep(self, level: int) -> bool:
        return level >= _DEEP or self._values > _MANY

    def _one_of(self, values: list[Any]) -> Any:
        if not values:
            return None
        named = [value for value in values if isinstance(value, str) and value and value.lower() in self._text]
        weighted = [*values, *named * (3 * len(values))]
        return weighted[self._draw(len(weighted))]

    def _branch(self, branches: list[Any], level: int) -> Any:
        """Choose a branch: null one time in four, the shortest way out when deep."""
        if self._is_deep(level):
            return min(branches, key=self._height)
        types = [resolve(branch, self._root).get("type") for branch in branches]
        if "null" in types and self._draw(4) == 0:
            return branches[types.index("null")]
        plain = [branch for branch, name in zip(branches, types, strict=True) if name != "null"]
        if "number" in types or any(self._has_pattern(branch) for branch in plain):
            # Beside a number, a string is another way of writing one (Decimal); a word would not be.
            plain = [branch for branch in plain if resolve(branch, self._root).get("type") != "string"] or plain
        return plain[self._draw(len(plain))] if plain else branches[0]

    def _has_pattern(self, branch: Any) -> bool:
        return "pattern" in resolve(branch, self._root)

    def _height(self, schema: Any, passed: tuple[str, ...] = ()) -> float:
        """Return how many levels a value needs at the least; infinite when it leads back to itself."""
        if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
            return 0
        if (name := schema.get("$ref")) is not None:
            if name in passed or len(passed) >= _MOST_REFERENCES:
                return math.inf
            return self._height(target(name, self._root), (*passed, name))
        for keyword, of in (("allOf", max), ("anyOf", min), ("oneOf", min)):
            if schema.get(keyword):
                return of(self._height(part, passed) for part in schema[keyword])
        if schema.get("type") not in ("array", "object") and "properties" not in schema:
            return 0
        within = [*schema.get("prefixItems", ()), schema.get("items")] if schema.get("minItems") else []
        within += [schema.get("properties", {}).get(name) for name in schema.get("required", ())]
        return 1 + max((self._height(part, passed) for part in within), default=0)

    # -- containers -------------------------------------------------------------------------------------------

    def _object(self, node: Schema, level: int) -> dict[str, Any]:
        required, properties = node.get("required", []), node.get("properties", {})
        others = node.get("additionalProperties")
        made = {
            name: self.value(content, level + 1)
            for name, content in properties.items()
            if name in required or not self._is_deep(level)
        }
        made |= {name: self.value(others, level + 1) for name in required if name not in properties}
        if isinstance(others, dict) or node.get("minProperties", 0) > len(made):
            wanted = self._length(len(made), level, node.get("minProperties", 0), node.get("maxProperties"))
            for tried in range(1, 1 + wanted + _TRIES):
                if len(made) >= wanted:
                    break
                # Digits, as no schema says that keys are integers (`dict[int, str]`): they are right for words too.
                name = self.value(node["propertyNames"], level + 1) if "propertyNames" in node else str(tried)
                if isinstance(name, str) and name not in made:
                    made[name] = self.value(others, level + 1)
        return made

    def _length(self, there: int, level: int, least: int, most: int | None) -> int:
        """Return how many parts a container is to have: one or two more than it has, fewer when deep."""
        wanted = 0 if self._is_deep(level) else there + 1 + self._draw(2)
        return max(wanted if most is None else min(wanted, most), least)

    def _array(self, node: Schema, level: int) -> list[Any]:
        made = [self.value(item, level + 1) for item in node.get("prefixItems", ())]
        items = node.get("items", True)
        if items is False or (made and "items" not in node):
            return made
        wanted = self._length(len(made), level, node.get("minItems", 0), node.get("maxItems"))
        for _ in range(wanted + _TRIES):
            if len(made) >= wanted:
                break
            item = self.value(items, level + 1)
            if not node.get("uniqueItems") or item not in made:
                made.append(item)
        return made

    # -- scalars ----------------------------------------------------------------------------------------------

    def _number(self, node: Schema, *, whole: bool) -> int | float:
        """Return the text's next number, moved inside the bounds and onto a multiple where it has to be."""
        bounds = {name: Fraction(str(node[name])) for name in _BOUNDS if node.get(name) is not None}
        low = max((bounds[name] for name in _BOUNDS[:2] if name in bounds), default=None)
        high = min((bounds[name] for name in _BOUNDS[2:] if name in bounds), default=None)
        outside = (bounds.get("exclusiveMinimum"), bounds.get("exclusiveMaximum"))
        step = Fraction(str(node.get("multipleOf") or int(whole)))
        drawn = self._next_number()
        if not step:
            if (low is None or drawn >= low) and (high is None or drawn <= high) and drawn not in outside:
                return float(drawn)
            if low is not None and high is not None:
                return float(low + (high - low) * (1 + int(drawn) % 19) / 20)
            return float(low + drawn + 1 if low is not None else (high or 0) - drawn - 1)
        if whole:
            step = Fraction(step.numerator)  # the integers among the multiples of 0.5 are those of 1
        first = None if low is None else math.floor(low / step) + 1 if low in outside else math.ceil(low / step)
        last = None if high is None else math.ceil(high / step) - 1 if high in outside else math.floor(high / step)
        number = _within(math.floor(drawn / step), first, last) * step
        return int(number) if whole else float(number)

    def _next_number(self) -> Fraction:
        lap, at = divmod(self._numbers_used, len(self._numbers))
        self._numbers_used += 1
        return self._numbers[at] + lap

    def _string(self, node: Schema, level: int) -> str:
        if node.get("contentMediaType") == "application/json":
            return json.dumps(self.value(node.get("contentSchema", {}), level + 1))
        kind = node.get("format", "")
        if kind.startswith("uuid"):
            return self._uuid(kind.removeprefix("uuid") or "4")
        if kind in _FORMATS:
            return self._format(_FORMATS[kind])
        text = self._span()
        return _fit(self._matching(node["pattern"], node) or text if "pattern" in node else text, node)

    def _span(self) -> str:
        """Return the next one to three words; a text that was used up begins again, with a number to each word."""
        lap, at = divmod(self._words_used, len(self._words))
        words = self._words[at : at + 1 + self._draw(3)]
        self._words_used += len(words)
        return " ".join(words) if not lap else f"{' '.join(words)} {lap + 1}"

    def _format(self, template: str) -> str:
        label = re.sub(r"[^a-z0-9]", "", self._words[self._draw(len(self._words))].lower())[:40] or "sandbox"
        year, month, day = 2000 + self._draw(30), 1 + self._draw(12), 1 + self._draw(28)
        hour, minute, second = self._draw(24), self._draw(60), self._draw(60)
        return template.format(
            label=label,
            # Letters and digits alone give neither of the characters in which the two alphabets of base64 differ.
            base64=base64.b64encode(label.encode()).decode(),
            date=f"{year}-{month:02}-{day:02}",
            time=f"{hour:02}:{minute:02}:{second:02}",
            hour=hour,
            minute=minute,
            number=1 + self._draw(254),
        )

    def _matching(self, pattern: str, node: Schema) -> str | None:
        try:
            matches = re.compile(pattern).search
        except re.error:
            return None  # JSON schema's regular expressions are not quite Python's
        return next((one for one in self._candidates() if matches(one) and one == _fit(one, node)), None)

    def _candidates(self) -> Iterator[str]:
        for word in self._words:
            yield from (word, word.upper(), word.lower(), word.capitalize())
        yield from (str(number) for number in self._numbers)
        yield from (letter * length for letter in "aA0" for length in range(33))
        yield from (self._format("{date}"), self._format("#{label}"), "a1", "A1", "AB-123", "1.5", "+15550100")

    def _uuid(self, version: str) -> str:
        digits = f"{self._draw(1 << 64):016x}{self._draw(1 << 64):016x}"
        return f"{digits[:8]}-{digits[8:12]}-{version[:1]}{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _within(index: int, first: int | None, last: int | None) -> int:
    """Return the index, folded into its bounds when it is outside."""
    if (first is None or index >= first) and (last is None or index <= last):
        return index
    if first is not None and last is not None:
        return first + index % max(last - first + 1, 1)
    return first + abs(index) if first is not None else (last or 0) - abs(index)


def _fit(text: str, node: Schema) -> str:
    least, most = node.get("minLength", 0), node.get("maxLength")
    while len(text) < least:
        text = f"{text} {text}" if text else "x"
    return text if most is None or len(text) <= most else text[:most].rstrip().ljust(least, "x")
