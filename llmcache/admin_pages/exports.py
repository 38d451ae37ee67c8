"""Entries as JSON lines: a stream that holds a few hundred rows at a time.

Each line is an object in ASCII, so that no reader can take a character of it for the end of a line.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.views.decorators.debug import sensitive_variables

from llmcache.admin_pages import contents
from llmcache.engine.runtime import Runtime
from llmcache.models import CacheEntry
from llmcache.sharing.lines import facts_of

ROWS_AT_ONCE: Final = 500
BYTES_AT_ONCE: Final = 2**16
MOST_KEYS: Final = 20
"""Keys that the log names."""
MOST_FAILURES: Final = 3
"""Entries in a row of which a tier did not answer; after that none is asked for."""


@dataclass
class Export:
    """What has been written so far."""

    entries: QuerySet[CacheEntry]
    runtime: Runtime | None
    """Where answers and requests are read; None leaves them out."""
    written: int = 0
    revealed: int = 0
    """Entries whose answer was among what was written."""
    keys: list[str] = field(default_factory=list)
    """The first keys of those."""
    _failures: int = 0

    def parts(self) -> Iterator[bytes]:
        """Write the entries, some lines at a time."""
        part: list[bytes] = []
        length = 0
        for line in self._lines():
            part.append(line)
            length += len(line)
            if length >= BYTES_AT_ONCE:
                yield b"".join(part)
                part, length = [], 0
        yield b"".join(part)

    def _lines(self) -> Iterator[bytes]:
        """Write the entries in the order of their ids; those that are deleted meanwhile are not among them."""
        last = 0
        while rows := list(self.entries.order_by("pk").filter(pk__gt=last)[:ROWS_AT_ONCE]):
            for row in rows:
                yield self._line(row)
            last = rows[-1].pk

    @sensitive_variables()
    def _line(self, row: CacheEntry) -> bytes:
        facts = facts_of(row)
        if self.runtime is not None:
            facts |= self._contents(row, self.runtime)
        self.written += 1
        return json.dumps(facts).encode() + b"\n"

    @sensitive_variables()
    def _contents(self, row: CacheEntry, runtime: Runtime) -> dict[str, Any]:
        nothing = {"answer": None, "request": None}
        if row.namespace != runtime.namespace:
            return {**nothing, "answer_state": "other_namespace"}
        if self._failures >= MOST_FAILURES:
            return {**nothing, "answer_state": "not_read"}
        key = contents.key_of(row)
        if key is None:
            return {**nothing, "answer_state": "absent"}
        found = contents.read(runtime, key)
        states = {place.found for place in found.places}
        if found.entry is None:
            unanswered = bool(states & {"late", "down"})
            self._failures = self._failures + 1 if unanswered else 0
            state = "not_read" if unanswered else "damaged" if "damaged" in states else "absent"
            return {**nothing, "answer_state": state}
        self._failures = 0
        self.revealed += 1
        if len(self.keys) < MOST_KEYS:
            self.keys.append(row.key)
        return {
            "answer": found.answer,
            "request": found.request,
            "answer_state": next((state for state in ("fresh", "stale") if state in states), "expired"),
        }


async def as_async(parts: Generator[bytes]) -> AsyncGenerator[bytes]:
    """Give a stream's parts to an event loop one by one; Django would read the whole of it first."""
    following: Any = sync_to_async(next)
    try:
        while (part := await following(parts, None)) is not None:
            yield part
    finally:
        await sync_to_async(parts.close)()
