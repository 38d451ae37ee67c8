"""Where processes that share a Redis leave the state of the invalidation log for each other.

One of them asks the database, and the others find what it has found. It lies there for one ``RECHECK`` at most, so that
a process that was killed before it could take it away delays nobody for longer.
"""

from __future__ import annotations

from llmcache import keys
from llmcache.engine.log_copy import State
from llmcache.tiers.redis_tier import RedisTier


class RedisBoard:
    """The board of one name space in one Redis."""

    def __init__(self, tier: RedisTier, namespace: str) -> None:
        self._tier = tier
        self._name = keys.board_key(namespace)

    def get(self) -> State | None:
        """Return what lies there; None when nothing does, or the place cannot be reached."""
        data = self._tier.get(self._name)
        if data is None:
            return None
        try:
            rows, active, highest = map(int, data.decode("ascii").split(" "))
        except ValueError:
            return None
        return State(rows, active, highest)

    def offer(self, state: State, seconds: float) -> None:
        """Leave a state, unless there is one."""
        self._tier.add(self._name, " ".join(map(str, state)).encode(), seconds)

    def drop(self) -> None:
        """Take away what lies there."""
        self._tier.delete(self._name)
