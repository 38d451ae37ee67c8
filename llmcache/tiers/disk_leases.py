"""Leases in a disk tier's file, as rows beside the entries: for the processes of one machine, by its own clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llmcache.engine.leases import ANY, HEAD_BYTES, TOKEN_BYTES, Lease, Reply, Turn
from llmcache.tiers.disk import DiskTier, Step

_FAILED: Final = b"!"
"""Begins what lies in a lease's place when its holder's call has failed: the token and how it failed come after it."""


class DiskLeases:
    """The leases in one disk tier."""

    def __init__(self, tier: DiskTier) -> None:
        self.tier = tier

    def take(self, turn: Turn, seconds: float, instead_of: bytes) -> Reply:
        """Take a lease, unless there is an entry, or another's lease."""
        names = turn.names
        # Nearly every attempt of who waits ends with these two, which write nothing.
        found = self._found(turn)
        if found is not None:
            return found
        holder = self.tier.get(names.lease) or b""
        if _is_held(holder) and holder not in (turn.token, instead_of):
            return Reply("waits", head=self._head(names.entry), holder=holder)

        def take(step: Step) -> Reply:
            now = step.get(names.lease) or b""
            if _is_held(now) and now not in (turn.token, instead_of):
                return Reply("waits", head=(step.get(names.entry) or b"")[:HEAD_BYTES], holder=now)
            if turn.holder and not _is_held(now) and now[1 : TOKEN_BYTES + 1] == turn.holder:
                return Reply("failed", now[TOKEN_BYTES + 1 :])
            value = step.get(names.entry) or b""
            if value and turn.refused not in (ANY, value[:HEAD_BYTES]):
                return Reply("found", value)
            step.set(names.lease, turn.token, seconds)
            return Reply("led", head=value[:HEAD_BYTES])

        return self.tier.in_one_step(take)

    def publish(self, lease: Lease, entry: bytes, more: bytes, ttl_seconds: float | None) -> bool:
        """Keep both parts of an entry and end the lease, where it allows that."""
        names = lease.names

        def publish(step: Step) -> bool:
            holder = step.get(names.lease) or b""
            if _is_held(holder) and holder != lease.token:
                return False
            kept = lease.head in (ANY, (step.get(names.entry) or b"")[:HEAD_BYTES])
            if kept:
                step.set(names.more, more, ttl_seconds)
                step.set(names.entry, entry, ttl_seconds)
            if holder == lease.token:
                step.delete(names.lease)
            return kept

        return self.tier.in_one_step(publish)

    def renew(self, leases: Sequence[Lease], seconds: float) -> None:
        """Let leases live for so long from now."""

        def renew(step: Step) -> None:
            for lease in leases:
                if (step.get(lease.names.lease) or lease.token) == lease.token:
                    step.set(lease.names.lease, lease.token, seconds)

        self.tier.in_one_step(renew)

    def release(self, lease: Lease, outcome: bytes, seconds: float) -> None:
        """End a lease that is still held, and leave in its place how the call has failed."""
        name = lease.names.lease

        def release(step: Step) -> None:
            if step.get(name) != lease.token:
                return
            if outcome:
                step.set(name, _FAILED + lease.token + outcome, seconds)
            else:
                step.delete(name)

        self.tier.in_one_step(release)

    def close(self) -> None:
        """Do nothing: the tier has what is open."""

    def _found(self, turn: Turn) -> Reply | None:
        if turn.refused == ANY:
            return None
        value = self.tier.get(turn.names.entry) or b""
        return Reply("found", value) if value and value[:HEAD_BYTES] != turn.refused else None

    def _head(self, name: str) -> bytes:
        return (self.tier.get(name) or b"")[:HEAD_BYTES]


def _is_held(lies: Any) -> bool:
    """Return whether what lies in a lease's place is a token: nothing does, or how a call has failed, otherwise."""
    return len(lies) == TOKEN_BYTES
