"""Entries under secrets that only read: what a rotation of ``KEY_SECRETS`` must not make users pay for again.

The id, the key and the MAC are another's, so an entry is found by its older key and written anew under the first
secret, with the time it has left. That is one read more for each tier and older secret, on a miss alone: a hit under
the first secret costs what it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmcache.clock import Clock
from llmcache.engine.log_copy import Judge
from llmcache.envelope import Entry
from llmcache.sealing import Seal
from llmcache.tiers.stack import Found, TierStack


class OlderEntries:
    """The byte tiers of one stack, read under secrets that no longer write."""

    def __init__(self, tiers: TierStack, seals: tuple[Seal, ...], namespace: str, clock: Clock) -> None:
        self._tiers = tiers
        # Each tier as a stack of its own: what is found is not to be written into the faster ones under an old name.
        self._stacks = [
            [TierStack(None, (tier,), namespace, clock, seal=seal) for tier in tiers.below] for seal in seals
        ]

    def find(self, key: bytes, older_keys: tuple[bytes, ...], max_age: float, judges: Sequence[Judge]) -> Found | None:
        """Return the entry that lies under one of the older keys, in their order, and keep it under ``key``.

        ``judges``: of the older keys, who tells which entries are void. Raises nothing for a store: what cannot be read
        is not there.
        """
        for stacks, older_key, judge in zip(self._stacks, older_keys, judges, strict=True):
            for stack in stacks:
                found = stack.read(older_key, max_age, judge)
                if found is not None:
                    return Found(self._renewed(found.entry, key, stacks), found.tier)
        return None

    def _renewed(self, older: Entry, key: bytes, stacks: list[TierStack]) -> Entry:
        entry = replace(older, key=key)
        for stack in stacks:
            beside = stack.read_beside(older)
            if beside is not None:
                self._tiers.write(entry, *beside)
                return entry
        self._tiers.write(entry, b"")
        return entry
