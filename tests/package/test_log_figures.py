"""The benchmark of the invalidation log works, on SQLite and on PostgreSQL."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_figures_of_the_log_can_be_had() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "log"],
        cwd=ROOT,
        env={**os.environ, "LLMCACHE_BENCH_BRIEFLY": "1", "DJANGO_SETTINGS_MODULE": "benchmarks.settings"},
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(" statements each") == 2
    polled = re.findall(r"over (\w+).* ([\d.]+) commands of tiers and +([\d.]+) statements", done.stdout)
    assert [where for where, _, _ in polled] == ["Redis", "Redis", "the", "the"]
    for where, commands, statements in polled:
        assert (float(commands) > 0) == (where == "Redis")
        assert float(statements) > 0
