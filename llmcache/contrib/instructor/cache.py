"""Instructor's cache in the tiers of llmcache.

    client = instructor.from_provider("openai/gpt-5-mini", cache=DjangoCache(), cache_namespace="shop")

Instructor makes the key, asks the provider and counts nothing. What it hands in is a dump of the model and the
provider's completion. A dump does not always load: fields have aliases, are left out, or are changed once more by their
validators. So what is kept, where the completion shows it, is the text that Instructor has read the value from.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, cast

from django.views.decorators.debug import sensitive_variables
from instructor.cache import BaseCache  # pyright: ignore  # finds this package in its place

from llmcache.contrib.instructor.completions import answer_text, model_of, read_object, usage_of
from llmcache.contrib.shelf import Made, Shelf, seconds_of
from llmcache.request import NOT_GIVEN, NotGiven

if TYPE_CHECKING:
    from datetime import timedelta

logger = logging.getLogger("llmcache.call")


class DjangoCache(BaseCache):  # pyright: ignore
    """A cache for Instructor's ``cache=``, sync and async, kept by Django's cache framework.

    ``alias`` of ``CACHES``: where; left out, the tiers of llmcache. ``kind``: what settings, ``stats`` and
    ``invalidate`` call these answers. ``ttl``: seconds, a timedelta or None for no expiry, for calls without
    ``cache_ttl=``; left out, that of the kind. ``tenant``, ``tags``: as of ``llmcache.extract``. ``provider``: an alias
    of ``LLMCACHE["PROVIDERS"]`` whose prices these calls have; without it, what a hit saves is not known.
    """

    def __init__(
        self,
        alias: str | None = None,
        *,
        kind: str = "instructor",
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        tags: list[str] | tuple[str, ...] | set[str] | frozenset[str] = (),
        provider: str | None = None,
    ) -> None:
        self._shelf = Shelf("instructor", alias=alias, kind=kind, ttl=ttl, tenant=tenant, tags=tags, provider=provider)
        self._told = False

    @sensitive_variables()
    def get(self, key: str) -> str | None:
        """Return what Instructor has stored; None where there is nothing that may be served."""
        return self._shelf.get(key.encode(), _read)

    @sensitive_variables()
    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep what Instructor stores. ``ttl``: seconds; None is the cache's own time, 0 is not at all."""
        made = _made(value)
        if made is not None:
            self._shelf.put(key.encode(), made, seconds_of(ttl))
        elif not self._told:
            self._told = True
            logger.warning("What Instructor stores is a %s and no JSON object: it is not kept.", type(value).__name__)

    def clear(self) -> None:
        """Make all answers of this kind void, and touch nothing else. It writes a row; undo it in the admin."""
        self._shelf.clear()

    async def aclear(self) -> None:
        """Do as ``clear``, awaited."""
        await self._shelf.aclear()


def _read(kept: bytes) -> str:
    return kept.decode(errors="surrogatepass")


@sensitive_variables()
def _made(value: object) -> Made | None:
    stored = read_object(value)
    if stored is None:
        return None
    completion = read_object(stored.get("raw")) or {}
    text = answer_text(completion)
    written = cast("str", value) if read_object(text) is None else json.dumps({**stored, "model": text})
    return Made(written.encode(errors="surrogatepass"), model_of(completion), usage_of(completion))
