"""The demo of Celery: a worker runs a plan of warming, and nothing is left of it."""

import os
from pathlib import Path

from tests.flows.newcomer import manage


def running(var: Path) -> list[bytes]:
    """Return what runs for a folder of the demo's."""
    found: list[bytes] = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, told = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        if int(place.name) != os.getpid() and os.fsencode(var) in words + told:
            found.append(words)
    return found


def test_a_plan_is_run_shown_and_used(var: Path) -> None:
    done = manage(var, "demo_celery", "--texts", "40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The run is done: " in done.stdout
    assert "Then the 40 requests came: 40 hits, 0 misses." in done.stdout
    warmed = next(line.split()[4] for line in done.stdout.splitlines() if line.startswith("The run is done"))
    assert f"provider calls: {warmed}\n" in done.stdout
    assert f"{warmed} warmed, {warmed} hit since; saved" in done.stdout
    # Of root it is said that nobody should be; of errors there are none.
    assert "Traceback" not in (var / "worker.log").read_text()
    assert running(var) == []
