"""The benchmark of a hit's steps meets real hits, and its steps add up to them."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_steps_of_a_hit_add_up_to_the_whole() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "steps"],
        cwd=ROOT,
        env={**os.environ, "LLMCACHE_BENCH_BRIEFLY": "1", "DJANGO_SETTINGS_MODULE": "benchmarks.settings"},
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    tables = done.stdout.split("Where the time of a hit goes: ")[1:]
    assert [table.split(" ")[0] for table in tables] == ["memory", "disk", "Redis"]
    for table in tables:
        rows = [[float(taken) for taken in re.findall(r"(-?\d+\.\d+) µs", line)] for line in table.splitlines()]
        *steps, whole = [row for row in rows if row]
        assert len(steps) > 5
        for column, taken in enumerate(whole):
            assert taken > 0
            assert abs(sum(row[column] for row in steps) - taken) < 0.01 * len(rows)
