"""What has changed between two JSON schemas, place by place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Literal, TypedDict, cast

MAX_CHANGES: Final = 200
MAX_VALUE: Final = 200
"""Characters of a value that is shown; a whole new branch would fill the page."""

_MISSING: Final = object()


class Change(TypedDict):
    """One place at which two schemas differ."""

    path: str
    """Dotted, from the root: ``properties.priority.type``. Empty for the root itself."""
    change: Literal["added", "removed", "changed", "reordered"]
    before: str | None
    """As JSON, cut; None where it was added."""
    after: str | None


def changes(before: Any, after: Any) -> list[Change]:
    """Return what differs, in the order of the new schema; at most ``MAX_CHANGES``.

    The order of an object's keys counts: it is the order in which a model writes.
    """
    found: list[Change] = []
    for change in _differences("", before, after):
        if len(found) == MAX_CHANGES:
            break
        found.append(change)
    return found


def _differences(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _of_objects(path, cast("dict[str, Any]", before), cast("dict[str, Any]", after))
    elif isinstance(before, list) and isinstance(after, list):
        yield from _of_lists(path, cast("list[Any]", before), cast("list[Any]", after))
    elif _shown(before) != _shown(after):
        yield _change(path, before, after)


def _of_objects(path: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    for name in after:
        yield from _place(f"{path}.{name}" if path else name, before.get(name, _MISSING), after[name])
    for name in [name for name in before if name not in after]:
        yield _change(f"{path}.{name}" if path else name, before[name], _MISSING)
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        yield {"path": path, "change": "reordered", "before": _cut(", ".join(before)), "after": _cut(", ".join(after))}


def _of_lists(path: str, before: list[Any], after: list[Any]) -> Iterator[Change]:
    if not any(isinstance(each, dict | list) for each in (*before, *after)):
        # Names, as in `enum` and `required`: what came and went says more than place by place.
        old, new = [_shown(each) for each in before], [_shown(each) for each in after]
        if sorted(old) == sorted(new) and old != new:
            yield {"path": path, "change": "reordered", "before": _cut(", ".join(old)), "after": _cut(", ".join(new))}
        elif old != new:
            yield _change(path, before, after)
        return
    for place in range(max(len(before), len(after))):
        old = before[place] if place < len(before) else _MISSING
        new = after[place] if place < len(after) else _MISSING
        yield from _place(f"{path}[{place}]", old, new)


def _place(path: str, before: Any, after: Any) -> Iterator[Change]:
    if before is _MISSING or after is _MISSING:
        yield _change(path, before, after)
    else:
        yield from _differences(path, before, after)


def _change(path: str, before: Any, after: Any) -> Change:
    change = "added" if before is _MISSING else "removed" if after is _MISSING else "changed"
    return {
        "path": path,
        "change": change,
        "before": None if before is _MISSING else _cut(_shown(before)),
        "after": None if after is _MISSING else _cut(_shown(after)),
    }


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
