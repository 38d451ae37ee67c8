"""JSON text in two ways: of a cassette, to be read by people, and of an answer, exactly as the model wrote it.

Numbers stay the characters they were: an amount of ``12.50`` is no 12.5 to who reviews it, nor to who validates it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

WIDTH: Final = 110
"""Characters in which a container has to fit to stay on one line."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written."""

    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """Data that stay on one line of a file, however long: what a reviewer passes over."""

    data: Any


@dataclass(frozen=True, slots=True)
class _Style:
    """The white space of a JSON text."""

    comma: str
    colon: str
    indent: int | None = None


_STYLES: Final = {
    "compact": _Style(",", ":"),
    "spaced": _Style(", ", ": "),
    "indented": _Style(",", ": ", 2),
    "indented 4": _Style(",", ": ", 4),
}
STYLES: Final = tuple(_STYLES)
"""How an answer can be laid out; the first one is what models do when a schema binds them."""


class DuplicateName(ValueError):
    """An object has one name twice."""


def read(text: str) -> Any:
    """Return JSON data whose numbers are ``Number``. ``ValueError`` or ``RecursionError`` for what is none."""
    return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=Number, object_pairs_hook=_object)


def plain(data: Any) -> Any:
    """Return data of ``read`` with Python's numbers."""
    return json.loads(written(data))


def written(data: Any, style: str = STYLES[0]) -> str:
    """Return JSON data as text in one of ``STYLES``."""
    return _written(data, _STYLES[style], 0, _quoted)


def style_of(text: str) -> tuple[Any, str] | None:
    """Return an answer's data and style, of which its text can be made again to the last character; else None.

    Only objects and arrays: what is neither is shown as text.
    """
    if not text.startswith(("{", "[")):
        return None
    try:
        data = read(text)
        return next(((data, style) for style in STYLES if written(data, style) == text), None)
    except (ValueError, RecursionError):
        return None


def for_people(data: Any) -> str:
    """Return JSON data as a file: what fits on a line is one, and no character hides what it is."""
    return _file(data, 0, 0) + "\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateName(next(name for name in names if names.count(name) > 1))
    return made


def _written(data: Any, style: _Style, level: int, quoted: Callable[[str], str]) -> str:
    if isinstance(data, dict):
        parts = [
            f"{quoted(name)}{style.colon}{_written(part, style, level + 1, quoted)}"
            for name, part in cast("dict[str, Any]", data).items()
        ]
        return _enclosed("{", parts, "}", style, level)
    if isinstance(data, list):
        parts = [_written(part, style, level + 1, quoted) for part in cast("list[Any]", data)]
        return _enclosed("[", parts, "]", style, level)
    return _scalar(data, quoted)


def _enclosed(begin: str, parts: list[str], end: str, style: _Style, level: int) -> str:
    if style.indent is None or not parts:
        return f"{begin}{style.comma.join(parts)}{end}"
    inner, outer = "\n" + " " * style.indent * (level + 1), "\n" + " " * style.indent * level
    return f"{begin}{inner}{f'{style.comma}{inner}'.join(parts)}{outer}{end}"


def _scalar(data: Any, quoted: Callable[[str], str]) -> str:
    if isinstance(data, Line):
        return _written(data.data, _STYLES["spaced"], 0, quoted)
    if isinstance(data, Number):
        return data.text
    return quoted(data) if isinstance(data, str) else json.dumps(data)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _readable(text: str) -> str:
    """Return a string as JSON in which what cannot be seen is escaped: marks that turn the direction of text, say."""
    made = _quoted(text)
    return made if made.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in made)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def _file(data: Any, level: int, before: int) -> str:
    """Return data as lines; ``before`` is how much of the first one is taken."""
    if isinstance(data, Line):
        return _written(data.data, _STYLES["spaced"], 0, _readable)
    line = _written(data, _STYLES["spaced"], 0, _readable)
    # The outermost levels are always laid out: they are what a diff is about.
    if not isinstance(data, dict | list) or not data or (level > 2 and before + len(line) <= WIDTH):
        return line
    inner, outer = "  " * (level + 1), "  " * level
    if isinstance(data, list):
        parts = [inner + _file(part, level + 1, len(inner)) for part in cast("list[Any]", data)]
        return "[\n" + ",\n".join(parts) + f"\n{outer}]"
    parts: list[str] = []
    for name, part in cast("dict[str, Any]", data).items():
        head = f"{inner}{_readable(name)}: "
        parts.append(head + _file(part, level + 1, len(head)))
    return "{\n" + ",\n".join(parts) + f"\n{outer}}}"
