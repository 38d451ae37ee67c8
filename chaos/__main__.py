"""Measure and print: ``python -m chaos``, or some of it: ``python -m chaos redis strict --seed 7``, ``… flights``.

Times belong to this machine and moment; what is promised does not. Exit status 1 when it was not kept.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from chaos import drawing
from chaos.arms import ARMS, BRIEF, Place, Size
from chaos.flights import parts as flights

PROJECTS = "projects"
VAR = Path(__file__).parents[1] / "var"


def main() -> None:
    """Measure, print, and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parts = [*ARMS, PROJECTS]
    known = [*parts, *flights.GROUPS, *flights.PARTS]
    parser.add_argument("parts", nargs="*", metavar="part", help=f"which: {', '.join(known)} (default: all)")
    parser.add_argument("--briefly", action="store_true", help="whether it works, and no figures")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of what is drawn at random")
    parser.add_argument("--out", type=Path, default=VAR, help="where the report and the picture go (default: var)")
    told = parser.parse_args()
    if unknown := {*told.parts} - {*known}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    size = BRIEF if told.briefly else Size()
    # The provider is of this process, and asks Django for nothing; its modules want settings all the same.
    settings.configure(INSTALLED_APPS=["llmcache"], DATABASES={})
    django.setup()
    names, kept = told.parts or known, True
    print(f"seed {told.seed}; CPython {platform.python_version()}, {os.cpu_count()} cores\n", flush=True)
    if stale := [name for name in names if name in parts]:
        kept &= _staleness(stale, parts, size, told)
    if flown := flights.named(names):
        kept &= flights.measured(flown, told.out, briefly=told.briefly)
    sys.exit(0 if kept else 1)


def _staleness(names: list[str], parts: list[str], size: Size, told: argparse.Namespace) -> bool:
    """Measure how stale reads are, and keep a report and a picture; return whether what is promised was kept."""
    with tempfile.TemporaryDirectory(prefix="llmcache-chaos-") as folder, Place(Path(folder)) as place:
        report = measured(place, names, size, told.seed)
    kept = told.out / "chaos.json"
    told.out.mkdir(parents=True, exist_ok=True)
    # Of parts that were measured at another time, what was found then.
    older = json.loads(kept.read_text()) if kept.exists() and not told.briefly else {}
    whole = {name: found for name in parts if (found := report.get(name, older.get(name))) is not None}
    kept.write_text(json.dumps(whole, indent=1) + "\n")
    (told.out / "chaos.svg").write_text(drawing.drawn(whole))
    print(f"\n{kept}\n{told.out / 'chaos.svg'}")
    return all(found["kept"] for found in report.values())


def measured(place: Place, parts: list[str], size: Size, seed: int) -> dict[str, Any]:
    """Measure parts one after the other, and print a line of each."""
    report: dict[str, Any] = {}
    arms = [part for part in parts if part in ARMS]
    if arms:
        print(f"{'':<36}{'invalidations':>14}{'reads':>9}{'stale':>8}{'worst':>10}{'promised':>10}", flush=True)
    for name in arms:
        arm, found = ARMS[name], place.measure(name, size, seed)
        bound = arm.bound(size)
        # The control is to be stale: else nobody would know that stale reads are found at all.
        holds = found.stale > 0 if bound is None else found.most <= bound
        report[name] = {
            "title": arm.title,
            "readers": size.readers,
            "seed": seed,
            "recheck": arm.recheck(size),
            "invalidations": len(found.worst),
            "reads": found.reads,
            "served": found.served,
            "stale": found.stale,
            "worst": found.most,
            "bound": bound,
            "kept": holds,
            "each": sorted(round(each, 4) for each in found.worst),
        }
        promised = "-" if bound is None else f"{bound:.1f} s"
        print(
            f"{arm.title:<36}{len(found.worst):>14,}{found.reads:>9,}{found.stale:>8,}{found.most:>8.3f} s"
            f"{promised:>10}{'' if holds else '   NOT KEPT'}",
            flush=True,
        )
    if PROJECTS in parts:
        found = place.two_projects(size)
        lost = sum(found[where]["miss"] for where in ("from memory", "from Redis"))
        held = found["asked"]["miss"]
        report[PROJECTS] = {**found, "lost": lost, "kept": lost == 0 and held == size.entries}
        print(
            f"two projects on one Redis: one has invalidated everything {size.wipes} times and asked anew "
            f"{found['wiped']['misses']} times; of {held} entries the other has lost {lost}",
            flush=True,
        )
    return report


if __name__ == "__main__":
    main()
