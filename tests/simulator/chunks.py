"""Schedules in chunks, and what is said of those that fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tests.simulator.port import CallPort, SimulatedPort
from tests.simulator.world import World

SCHEDULES: Final = 10_000
CHUNK: Final = 500


def run(seeds: Iterable[int], make_port: CallPort = SimulatedPort) -> Iterator[tuple[int, World, str | None]]:
    """Run the schedules of these seeds; yield each with what was wrong in it."""
    for seed in seeds:
        world = World(seed, make_port)
        yield seed, world, world.problem()


def check(seeds: Iterable[int]) -> None:
    """Run schedules. Fails with each one's seed, and the command that shows its steps."""
    wrong = [f"{problem}\n    python -m tests.simulator {seed}" for seed, _, problem in run(seeds) if problem]
    assert not wrong, "\n".join([f"{len(wrong)} schedules:", *wrong])
