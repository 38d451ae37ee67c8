"""The forms of response types that calls of this process were made with, for the ledger to know them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmcache.response_types import ResponseType

MAX_SCHEMAS: Final = 1_000
"""Forms that are kept; types that are made anew for each call must not fill the memory."""


@dataclass(slots=True)
class Seen:
    """One form of a response type and when calls were made with it, in seconds since the epoch."""

    response_type: str
    fingerprint: str
    schema: str
    """JSON, its keys in the order in which they are sent."""
    first: float
    last: float


class Schemas:
    """The forms seen by one runtime; noting takes no lock."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], Seen] = {}

    def note(self, response: ResponseType, at: float) -> None:
        """Note that a call was made with this form."""
        found = self._seen.get((response.name, response.fingerprint))
        if found is not None:
            found.last = at
        elif len(self._seen) < MAX_SCHEMAS:
            schema = json.dumps(response.schema.schema, ensure_ascii=False)
            made = Seen(response.name, response.fingerprint, schema, at, at)
            # One step for all threads.
            self._seen.setdefault((response.name, response.fingerprint), made)

    def seen(self) -> list[Seen]:
        """Return all forms, the oldest first."""
        return sorted(self._seen.copy().values(), key=lambda each: each.first)
