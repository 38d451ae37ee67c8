"""A content as it is at the call, for calls that are made at once and answered later."""

from __future__ import annotations

from typing import Any, Final, cast

from django.utils.functional import Promise

MAX_PARTS: Final = 1_000
"""Messages and parts of one call, together."""
_DEEPEST: Final = 6
"""More than lists of messages are deep: the rest is refused, and need not be copied."""
_MOST_COPIES: Final = 8 * MAX_PARTS
"""More than a part has in it, for each: what goes beyond that is refused too, such as a list that is in itself."""


def own_content(content: Any) -> Any:
    """Return a content that nobody changes between a call and its awaiting: neither its lists and dicts, nor the
    language of its lazy texts. No file is read.
    """
    return content if isinstance(content, str) else _own(content, 0, [_MOST_COPIES])


def own_text(value: Any) -> Any:
    """Return the text of a lazy one as it is now; anything else as it is."""
    if not isinstance(value, Promise):
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # the project's own, raised where the call is awaited
        return value


def _own(content: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if isinstance(content, str) or depth > _DEEPEST or left[0] < 0:
        return content
    if isinstance(content, (list, tuple)):
        parts = cast("list[Any]", content)[: MAX_PARTS + 1]
        # Lists are not nested: one in another is refused.
        return [each if isinstance(each, (list, tuple)) else _own(each, depth + 1, left) for each in parts]
    if isinstance(content, dict):
        return {name: _own(each, depth + 1, left) for name, each in cast("dict[Any, Any]", content).items()}
    return own_text(content)
