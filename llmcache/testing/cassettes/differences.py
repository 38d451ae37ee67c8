"""In what a request differs from the nearest one that a cassette has.

It is shown to who runs the test, whose texts these are: the places, and of texts a few words around the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, Final, cast

from llmcache.testing.cassettes.interactions import Interaction

_SHOWN: Final = 5
_BEFORE: Final = 16
_AROUND: Final = 48
"""Characters of a text that are shown, from ``_BEFORE`` the first one that differs."""
_COMPARED: Final = 2_000
_LOOKED_AT: Final = 200
_MISSING: Final = object()


def told(request: dict[str, Any], recorded: Sequence[Interaction]) -> str:
    """Return lines that say in what a request differs from the nearest one; '' where there is none."""
    nearest = min(
        ((_distance(request, each.request), number) for number, each in enumerate(recorded[:_LOOKED_AT], 1)),
        default=None,
    )
    if nearest is None:
        return ""
    number = nearest[1]
    found = list(_differences(recorded[number - 1].request, request, ""))
    lines = [f"  {place}: {_shown(was, sent)}" for place, was, sent in islice(found, _SHOWN)]
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN} more")
    return "\n".join([f"The nearest recorded request is interaction {number}; it differs in", *lines])


def _distance(request: dict[str, Any], recorded: dict[str, Any]) -> float:
    """Return how far two requests are apart: one for each place, and less where texts are alike."""
    return sum(
        1 - 0.5 * _likeness(was, sent) for _, was, sent in islice(_differences(recorded, request, ""), _LOOKED_AT)
    )


def _likeness(was: Any, sent: Any) -> float:
    if not isinstance(was, str) or not isinstance(sent, str):
        return 0.0
    return SequenceMatcher(None, was[:_COMPARED], sent[:_COMPARED], autojunk=False).quick_ratio()


def _differences(was: Any, sent: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(sent, dict):
        old, new = cast("dict[str, Any]", was), cast("dict[str, Any]", sent)
        for name in dict.fromkeys((*old, *new)):
            inner = f"{place}.{name}" if place else name
            yield from _differences(old.get(name, _MISSING), new.get(name, _MISSING), inner)
    elif isinstance(was, list) and isinstance(sent, list):
        first, second = cast("list[Any]", was), cast("list[Any]", sent)
        for index in range(max(len(first), len(second))):
            one = first[index] if index < len(first) else _MISSING
            yield from _differences(one, second[index] if index < len(second) else _MISSING, f"{place}[{index}]")
    elif not _is_same(was, sent):
        yield place, was, sent


def _is_same(was: Any, sent: Any) -> bool:
    # For Python, 1 and True and 1.0 are one.
    return type(was) is type(sent) and was == sent


def _shown(was: Any, sent: Any) -> str:
    if was is _MISSING:
        return f"is sent ({_value(sent, 0)}) and was not recorded"
    if sent is _MISSING:
        return f"was recorded ({_value(was, 0)}) and is not sent"
    start = 0
    if isinstance(was, str) and isinstance(sent, str):
        pairs = enumerate(zip(was, sent, strict=False))
        first = next((index for index, (one, other) in pairs if one != other), min(len(was), len(sent)))
        start = max(first - _BEFORE, 0)
    return f"recorded {_value(was, start)}, sent {_value(sent, start)}"


def _value(value: Any, start: int) -> str:
    if not isinstance(value, str):
        value = value if isinstance(value, int | float | None) else f"({type(value).__name__})"
        return str(value)
    part = value[start : start + _AROUND]
    return f"{'…' if start else ''}{part!r}{'…' if start + _AROUND < len(value) else ''}"
