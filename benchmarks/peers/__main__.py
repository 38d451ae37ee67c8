"""Run the race and write what it found: ``python -m benchmarks.peers``. Ratios are of one run, times of a machine."""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import environments, figures, racing
from benchmarks.peers.roster import ENTRANTS, ENVIRONMENTS, OURS, PLOT, Entrant

DOCS = environments.ROOT / "docs"
RESULTS = Path(__file__).parent / "results.json"
FULL_ROUNDS = 15


def main() -> int:
    """Run, print, write; return the exit status: 1 when one of ours could not run."""
    options = _options()
    pythons, missing = environments.Pythons(), list[dict[str, str]]()
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") and not options.any_core else None
    racers: list[racing.Racer] = []
    with racing.place(core) as place:
        try:
            for entrant in _chosen(options.only):
                try:
                    racers.append(_ready(entrant, pythons, place, options.turn_ms))
                    _tell(f"ready: {entrant.group}, {entrant.title}")
                except (racing.FailedError, environments.NotInstalledError) as error:
                    _tell(f"not run: {entrant.group}, {entrant.title}: {error}")
                    missing.append({**_named(entrant), "reason": str(error)})
            racing.race(racers, place.provider, options.rounds, _tell)
            results = _results(racers, missing, options.rounds, _redis_version(place.redis_port), core is not None)
        finally:
            for racer in racers:
                racer.worker.stop()
    print("\n".join(figures.text(results)))
    if not options.no_files:
        _write(results, pythons)
    return 1 if any(not each["environment"] for each in missing) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Time a hit beside other caches.")
    parser.add_argument("--rounds", type=int, default=FULL_ROUNDS, help="turns of each (%(default)s)")
    parser.add_argument("--turn-ms", type=float, default=100.0, help="about how long a turn takes (%(default)s)")
    parser.add_argument("--only", default="", help="only entrants with this in their name or group; floors always run")
    parser.add_argument("--any-core", action="store_true", help="do not keep workers and Redis on one core")
    parser.add_argument("--no-files", action="store_true", help="print the table, write neither data, plot nor page")
    return parser.parse_args()


def _chosen(only: str) -> list[Entrant]:
    chosen = [entrant for entrant in ENTRANTS if only in entrant.name or only in entrant.group]
    groups = {entrant.group for entrant in chosen}
    return [entrant for entrant in ENTRANTS if entrant in chosen or (entrant.floor and entrant.group in groups)]


def _ready(entrant: Entrant, pythons: environments.Pythons, place: racing.Place, turn_ms: float) -> racing.Racer:
    packages = ENVIRONMENTS[entrant.environment] if entrant.environment else OURS
    return racing.ready(entrant, packages, pythons.of(entrant.environment, packages), place, turn_ms)


def _named(entrant: Entrant) -> dict[str, str]:
    return {
        "name": entrant.name,
        "title": entrant.title,
        "group": entrant.group,
        "environment": entrant.environment,
    }


def _results(
    racers: list[racing.Racer], missing: list[dict[str, str]], rounds: int, redis: str, pinned: bool
) -> figures.Results:
    times = {racer.entrant.name: racer.times for racer in racers}
    rows = [
        {
            **_named(racer.entrant),
            "floor": racer.entrant.floor,
            "shared": racer.shared,
            "first_requests": racer.first_requests,
            "hit_requests": racer.hit_requests,
            "hits": racer.hits,
            "commands": racer.commands,
            **figures.figures(times, racer.entrant),
        }
        for racer in racers
    ]
    return {
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": rounds,
        "short": rounds < FULL_ROUNDS,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system(), "pinned": pinned},
        "redis": redis,
        "versions": {racer.entrant.environment: racer.versions for racer in racers},
        "rows": rows,
        "missing": missing,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _redis_version(port: int) -> str:
    import redis

    with redis.Redis(port=port) as client:
        told: Any = client.info("server")
    return str(told["redis_version"])


def _write(results: figures.Results, pythons: environments.Pythons) -> None:
    page = DOCS / "performance.md"
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    page.write_text(figures.put_into(page.read_text(), results))
    try:
        python = pythons.of("plot", PLOT)
    except environments.NotInstalledError as error:
        _tell(f"no plot: {error}")
        return
    subprocess.run(
        [str(python), "-m", "benchmarks.peers.plot", str(RESULTS), str(DOCS / "images")],
        cwd=environments.ROOT,
        check=True,
    )
    _tell(f"written: {RESULTS}, {page} and the plot")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
