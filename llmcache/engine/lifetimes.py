"""How long an answer is good for: fresh until its TTL, and perhaps some time longer, while it is asked for anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.envelope import Entry

FOREVER: Final = float("inf")
_SHARES: Final = 2**32


def fresh_until(call: Call, written_at: float, ttl: float | None) -> float:
    """Return until when an answer is fresh, in seconds of the wall clock.

    Some of the TTL is taken off, more of one key's and less of another's, so that what was written together does not
    expire together. It follows from the key: an answer that is written again gets the same.
    """
    if ttl is None:
        return FOREVER
    return written_at + ttl * (1 - call.jitter * int.from_bytes(call.key[:4], "little") / _SHARES)


def lasting(call: Call, entry: Entry, ttl: float | None) -> Entry:
    """Return an entry that is fresh for this TTL."""
    fresh = fresh_until(call, entry.written_at, ttl)
    return replace(entry, fresh_until=fresh, stale_until=fresh + call.stale_ttl)
