"""Show the steps of one schedule: ``python -m tests.simulator 17``, or with a mutant's name after it."""

from __future__ import annotations

import sys

from tests.simulator.mutants import MUTANTS
from tests.simulator.port import SimulatedPort
from tests.simulator.world import World


def show(seed: int, mutant: str | None = None) -> int:
    """Print what was done in a schedule, a line a step; return 1 where something was wrong."""
    world = World(seed, SimulatedPort if mutant is None else MUTANTS[mutant])
    problem = world.problem()
    for tick, at, who, says in world.schedule.steps:
        print(f"{tick:5} {at:9.2f}  {who:20} {says}")
    print(problem or "All is well.")
    return int(problem is not None)


if __name__ == "__main__":
    sys.exit(show(int(sys.argv[1]), *sys.argv[2:3]))
