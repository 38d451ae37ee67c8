"""A budget that many processes and threads draw from at once: never more than there is, and nearly all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from chaos.flights.scene import Figure, Grounds, counted
from llmcache.testing.sandbox import faults

_UNUSED: Final = 10
"""Calls that may be left over."""
_FAILS_EVERY: Final = 9


@dataclass(frozen=True)
class Budget:
    """How many calls there are, and who draws from them."""

    databases: tuple[Literal["sqlite", "postgresql"], ...] = ("postgresql", "sqlite")
    calls: int = 1_000
    items: int = 1_500
    threads: int = 64
    processes: int = 4
    provider: float = 0.02


def cap(grounds: Grounds, size: Budget) -> list[Figure]:
    """Let processes work at one run whose texts are more than its calls; some calls fail, and are made again."""
    figures: list[Figure] = []
    for database in size.databases:
        kinds = {"person": {"type": "chaos.flights.crew.Person"}}
        with grounds.scene("disk", database=database, KINDS=kinds, MAX_RETRIES=1) as scene:
            hands = scene.hands(size.processes)
            before = scene.sandbox.received
            scene.sandbox.latency = size.provider
            scene.sandbox.fail(faults.server_error(503), every=_FAILS_EVERY)
            run = hands[0].do("prepare", count=size.items, calls=size.calls)
            for hand in hands:
                hand.tell("warm", run=run, threads=size.threads)
            ends = [hand.hear() for hand in hands]
            made = scene.sandbox.received - before
            name = f"{size.calls:,} calls for {size.processes} times {size.threads} threads, {database}"
            enough = size.calls - _UNUSED < made <= size.calls
            figures += [
                counted(name, f"{made:,}", f"{size.calls - _UNUSED:,} < n ≤ {size.calls:,}", kept=enough),
                counted(f"told by the run, {database}", max(end["calls"] for end in ends), made),
                counted(f"how it ended, {database}", *({end["state"] for end in ends}, {"exhausted"})),
            ]
    return figures
