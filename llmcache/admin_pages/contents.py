"""The answer and the request of an entry, read from the tiers, and JSON as people read it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.admin_pages import whereabouts
from llmcache.admin_pages.whereabouts import Look, Whereabouts
from llmcache.content.reading import of_kept
from llmcache.engine.runtime import Runtime
from llmcache.envelope import Entry
from llmcache.exceptions import LLMCacheError
from llmcache.models import CacheEntry

KEY_BYTES: Final = 32
MOST_SHOWN: Final = 100_000
"""Characters of an answer or a request that a page shows."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What an entry holds."""

    places: list[Whereabouts]
    entry: Entry | None
    """The fastest tier's, one that has not expired before one that has."""
    request: dict[str, Any] | None
    """None: it was not kept, or is gone."""

    @property
    def answer(self) -> str | None:
        """The provider's own text; None where no tier has the entry."""
        return None if self.entry is None else self.entry.answer.decode(errors="replace")


def key_of(row: CacheEntry) -> bytes | None:
    """Return a row's key as tiers know it; None for one that no entry can have."""
    try:
        key = bytes.fromhex(row.key)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None


@sensitive_variables()
def read(runtime: Runtime, key: bytes) -> Contents:
    """Return what the tiers hold of an entry; nothing is promoted, and no tier can make it fail.

    The request is asked for once the answer is there: both together wait for at most twice ``LOOK_SECONDS``.
    """
    places = whereabouts.find(runtime, key)
    held = [place for place in places if place.entry is not None]
    entry = next((place.entry for place in (*(each for each in held if each.found == "fresh"), *held)), None)
    if entry is None:
        return Contents(places, None, None)
    ask: Callable[[], dict[str, Any] | None] = partial(runtime.tiers.read_request, entry)
    return Contents(places, entry, Look(ask).answer(time.monotonic() + whereabouts.LOOK_SECONDS))


@sensitive_variables()
def has_files(request: dict[str, Any]) -> bool:
    """Return whether digests stand in a request that was kept for the bytes of images or files."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        return False
    try:
        content = of_kept(cast("list[Any]", messages), sys.maxsize)
    except LLMCacheError:
        return False
    return not isinstance(content, str) and content.has_bytes


@dataclass(frozen=True, slots=True)
class Readable:
    """Text to be shown."""

    text: str
    left_out: int = 0
    """Characters that would follow."""


@sensitive_variables()
def readable(value: str | dict[str, Any]) -> Readable:
    """Return JSON indented, its keys in their order; text that is no JSON as it is. Cut when it is very long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    if isinstance(value, str):
        try:
            text = json.dumps(json.loads(value), ensure_ascii=False, indent=2)
        except (ValueError, RecursionError):
            text = value
    # Half of a pair of surrogates can be written in JSON, and on no page.
    text = text.encode(errors="backslashreplace").decode()
    return Readable(text[:MOST_SHOWN], max(len(text) - MOST_SHOWN, 0))
