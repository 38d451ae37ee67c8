"""Texts as they may be recorded: API keys masked, and rewritten as the user wants it.

Where a text is JSON its strings are cleaned, and the names in its objects: what is written with escapes would not be
seen in it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from llmcache.testing.cassettes import layout
from llmcache.testing.cassettes.errors import CassetteError

if TYPE_CHECKING:
    from llmcache.conf import Settings

Clean = Callable[[str], str]
"""Returns a text as it may be recorded."""

MASK: Final = "[API key]"
_SHORTEST_SECRET: Final = 8
"""Below it a key is one that nobody checks ("none", "x"), and would be found in many an innocent word."""
_NAMED_AS_KEYS: Final = "_API_KEY"
_ESCAPES: Final = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")


def cleaner(settings: Settings, redact: Clean | None) -> Clean:
    """Return what masks the API keys of all providers, and then does what the user wants done."""
    secrets = _secrets(settings, os.environ)

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, MASK)
        return text if redact is None else redact(text)

    return clean


def _secrets(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    told: Iterable[str | None] = (
        *(each.api_key for each in settings.providers.values()),
        *(value for name, value in environment.items() if name.endswith(_NAMED_AS_KEYS)),
    )
    # The longest first: one may begin with another.
    return sorted(
        {each for each in told if each and len(each) >= _SHORTEST_SECRET}, key=lambda each: (-len(each), each)
    )


def mapped(data: Any, change: Clean) -> Any:
    """Return JSON data with each of its strings changed, and each name in its objects."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        told = cast("dict[str, Any]", data)
        made = {change(name): mapped(part, change) for name, part in told.items()}
        if len(made) != len(told):
            raise CassetteError(
                "Two names of one object are the same when they are cleaned, so that the object cannot be recorded. "
                "Have redact replace what has to be replaced in a text by something that tells one from the other."
            )
        return made
    return [mapped(part, change) for part in cast("list[Any]", data)] if isinstance(data, list) else data


def cleaned_text(text: str, clean: Clean) -> str:
    """Return a text cleaned; of one that is JSON the data, and all else of it as it was where that can be made."""
    try:
        data = layout.read(text)
    except (ValueError, RecursionError):
        return _cleaned_words(text, clean)
    made = mapped(data, clean)
    if made == data:
        return text
    found = layout.style_of(text)
    return layout.written(made) if found is None else layout.written(made, found[1])


def _cleaned_words(text: str, clean: Clean) -> str:
    """Return what is no JSON cleaned; it may be JSON that is cut off, or that lies in other words."""
    plain = _ESCAPES.sub(_unescaped, text)
    made = clean(plain)
    return clean(text) if made == plain else made


def _unescaped(found: re.Match[str]) -> str:
    return json.loads(f'"{found[0]}"')
