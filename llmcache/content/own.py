"""A content as it is at the call, for calls that are made at once and answered later."""

from __future__ import annotations

from typing import Any, Final, cast

MAX_PARTS: Final = 1_000
"""Messages and parts of one call, together."""
_DEEPEST: Final = 6
"""More than lists of messages are deep: the rest is refused, and need not be copied."""


def own_content(content: Any, depth: int = 0) -> Any:
    """Return a content whose lists and dicts nobody changes between a call and its awaiting; nothing is read."""
    if isinstance(content, str) or depth > _DEEPEST:
        return content
    if isinstance(content, (list, tuple)):
        return [own_content(each, depth + 1) for each in cast("list[Any]", content)[: MAX_PARTS + 1]]
    if isinstance(content, dict):
        return {name: own_content(each, depth + 1) for name, each in cast("dict[Any, Any]", content).items()}
    return content
