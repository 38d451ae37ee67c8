"""The parts by their names, each whole and brief, and the report of those that are measured."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from chaos.flights import picture
from chaos.flights.budgets import Budget, cap
from chaos.flights.crowds import Commands, Crowd, Forked, Thousands, commands, crowd, forked, thousands
from chaos.flights.leaders import Leaders, killed, stopped
from chaos.flights.lives import Churn, Life, Replay, churn, life, replay
from chaos.flights.nights import Night, killed_workers
from chaos.flights.outages import Outages, freezes, restarts
from chaos.flights.scene import Figure, Grounds

Part = Callable[[Grounds], list[Figure]]

PARTS: Final[dict[str, tuple[Part, Part]]] = {
    "flights-crowd": (
        partial(crowd, size=Crowd()),
        partial(crowd, size=Crowd(places=("redis",), times=1, many=16, processes=2, provider=0.1)),
    ),
    "flights-thousands": (
        partial(thousands, size=Thousands()),
        partial(thousands, size=Thousands(threads=100, tasks=100)),
    ),
    "flights-forked": (
        partial(forked, size=Forked()),
        partial(forked, size=Forked(children=8, provider=1.0, times=1)),
    ),
    "flights-commands": (
        partial(commands, size=Commands()),
        partial(commands, size=Commands(misses=5, provider=1.5, waits=3.5, many=8)),
    ),
    "flights-killed": (
        partial(killed, size=Leaders()),
        partial(killed, size=Leaders(times=1, followers=2)),
    ),
    "flights-stopped": (
        partial(stopped, size=Leaders()),
        partial(stopped, size=Leaders(times=1, followers=2)),
    ),
    "flights-restarts": (
        partial(restarts, size=Outages()),
        partial(restarts, size=Outages(calls=300, kills=3, texts=50, pause=0.03)),
    ),
    "flights-freezes": (
        partial(freezes, size=Outages(texts=200, pause=0.06)),
        partial(freezes, size=Outages(calls=800, freezes=1, texts=50, pause=0.06)),
    ),
    "flights-churn": (
        partial(churn, size=Churn()),
        partial(churn, size=Churn(children=3, loops=10, cancelled=100)),
    ),
    "flights-life": (
        partial(life, size=Life()),
        partial(life, size=Life(rounds=2, hits=400, misses=100, failures=20)),
    ),
    "warming-cap": (
        partial(cap, size=Budget()),
        partial(cap, size=Budget(calls=60, items=120, threads=8, processes=2)),
    ),
    "warming-workers": (
        partial(killed_workers, size=Night()),
        partial(killed_workers, size=Night(texts=300, live=30, kills=1)),
    ),
    "flights-replay": (
        partial(replay, size=Replay()),
        partial(replay, size=Replay(requests=200, processes=2, threads=4)),
    ),
}
"""Of each what it does, and what it does where only whether it works is of interest."""

GROUPS: Final = ("flights", "warming")
"""The first words of their names: each is a name of all that begin with it."""


def named(names: Iterable[str]) -> list[str]:
    """Return the parts that are meant by these names; names of other things are passed over."""
    wanted = set(names)
    return [name for name in PARTS if name in wanted or name.partition("-")[0] in wanted]


def measured(names: Iterable[str], out: Path, *, briefly: bool) -> bool:
    """Measure parts one after the other, print them, and keep a report and a picture; return whether all was kept."""
    kept, all_kept = out / "chaos-flights.json", True
    out.mkdir(parents=True, exist_ok=True)
    # Of parts that were measured at another time, what was found then.
    report: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() and not briefly else {}
    with tempfile.TemporaryDirectory(prefix="llmcache-chaos-") as folder, Grounds.opened(Path(folder)) as grounds:
        for name in names:
            began = time.monotonic()
            figures = PARTS[name][briefly](grounds)
            took = time.monotonic() - began
            print(f"\n{name}, {took:.0f} s", flush=True)
            for figure in figures:
                no = "" if figure.kept else "no, a time of this machine" if figure.is_time else "NO"
                print(f"  {figure.what:<66}{figure.found:<54}{figure.target:<32}{no or 'kept'}", flush=True)
                # A run that is brief says whether it works: its times are about nothing.
                all_kept &= figure.kept or (briefly and figure.is_time)
            report[name] = {"seconds": took, "figures": [asdict(figure) for figure in figures]}
            whole = {each: report[each] for each in PARTS if each in report}
            kept.write_text(json.dumps(whole, indent=1) + "\n")
            (out / "chaos-flights.svg").write_text(picture.drawn(whole))
    print(f"\n{kept}\n{out / 'chaos-flights.svg'}")
    return all_kept
