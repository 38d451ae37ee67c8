"""Seeded schedules of calls, invalidations and faults: the first half of them, and what must not pass them."""

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Final

import pytest

from tests.simulator.chunks import CHUNK, SCHEDULES, check, run
from tests.simulator.mutants import MUTANTS

MOST: Final = 4_000
"""Schedules in which a rule that is broken has to be noticed; most are within the first hundred."""


@pytest.mark.parametrize("start", range(0, SCHEDULES // 2, CHUNK))
def test_nothing_goes_wrong_in_the_first_half(start: int) -> None:
    check(range(start, start + CHUNK))


@pytest.mark.parametrize(
    ("mutant", "at_least"),
    [
        ("log-read-late", 10),
        ("flights-by-key", 15),
        ("fast-tier-hides", 15),
        ("looks-once", 2),
        ("never-checks", 50),
        ("keeps-uncommitted", 1),
        ("forgets-humans", 20),
        ("publish-unfenced", 15),
        ("takes-unlooked", 30),
        ("releases-unasked", 1),
        ("forgets-ghosts", 2),
        ("never-renews", 15),
        ("renews-for-ever", 30),
        ("revives-leases", 3),
        ("leaves-dead-leases", 2),
    ],
)
def test_what_breaks_a_rule_is_found_out(mutant: str, at_least: int) -> None:
    found = (seed for seed, _, problem in run(range(MOST), MUTANTS[mutant]) if problem)
    assert len([*islice(found, at_least)]) == at_least


def test_every_mutant_is_tried() -> None:
    (mark,) = test_what_breaks_a_rule_is_found_out.pytestmark
    assert {name for name, _ in mark.args[1]} == set(MUTANTS)


def test_schedules_are_about_what_matters() -> None:
    said = Counter[str]()
    hits = answers = undone = rolled_back = 0
    for _, world, _ in run(range(300)):
        hits, answers = hits + world.oracle.hits, answers + world.oracle.answers
        undone += sum(map(len, world.oracle.undos.values()))
        rolled_back += sum(change.rolled_back for change in world.oracle.invalidations)
        said.update(says for _, _, _, says in world.schedule.steps)
    assert answers > 2_000
    assert hits > 800
    assert undone > 150
    assert rolled_back > 30
    for step in ("waits for a flight", "writes into the tier: lost", "writes into the tier: late", "rolls back"):
        assert said[step] > 5, step
    for fault in ("takes the thread of", "interrupts", "kills the process", "stops the process", "strikes"):
        assert sum(count for says, count in said.items() if says.startswith(fault)) > 10, fault
    for fault in ("lets the store stand still", "flushes the store", "restarts the store"):
        assert said[fault] > 5, fault


def test_schedules_are_about_leases() -> None:
    said = Counter[str]()
    calm = lost = 0
    for _, world, _ in run(range(600)):
        calm += world.is_calm
        lost += sum(holder.lost for holder in world.scripts.holders.values())
        said.update(says for _, _, _, says in world.schedule.steps)
    assert calm > 30
    assert lost > 30
    for state in ("led", "waits", "found", "failed", "alone"):
        assert said[f"goes for the lease: {state}"] > 2, state
    assert said["has not kept it: another has led meanwhile"] > 5
    for late in ("lost", "late", "only now", "nobody is there", "done, and the reply is lost"):
        assert sum(count for says, count in said.items() if says.endswith(f": {late}")) > 10, late


def test_a_seed_is_replayed_with_one_command() -> None:
    name = "log-read-late"
    seed, world, problem = next(found for found in run(range(400), MUTANTS[name]) if found[2])
    command = [sys.executable, "-m", "tests.simulator", str(seed), name]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )
    *steps, told = done.stdout.splitlines()
    assert (done.returncode, told) == (1, problem)
    assert [line.split(maxsplit=2)[0] for line in steps] == [str(tick) for tick, *_ in world.schedule.steps]
    assert all(line.endswith(says) for line, (*_, says) in zip(steps, world.schedule.steps, strict=True))
