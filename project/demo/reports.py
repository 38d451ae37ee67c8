"""The numbers of runs, in the same words and units on the terminal and on the home page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from project.demo.amounts import NOTHING, duration, percent
from project.demo.latencies import Latency, latency
from project.demo.models import DemoRun

_FASTEST_FIRST: Final = ("memory", "disk")
NO_TIERS: Final = frozenset({"collapsed", "miss", "error"})


@dataclass(frozen=True)
class Figures:
    """The numbers of one run, or of several together."""

    requests: int
    hits: Counter[str]
    """By tier."""
    collapsed: int
    misses: int
    errors: int
    unlike_gold: int
    provider_calls: int
    seconds: float
    latencies: dict[str, Latency]
    """By tier, and as ``hit``, ``collapsed`` and ``miss``."""

    @property
    def hit_rate(self) -> float | None:
        """The share of answered calls that needed no provider call of their own; None when there were none."""
        answered = self.hits.total() + self.collapsed
        return answered / (answered + self.misses) if answered + self.misses else None


def figures(runs: Sequence[DemoRun]) -> Figures:
    """Return the numbers of runs taken together."""
    outcomes: Counter[str] = Counter()
    for run in runs:
        outcomes.update(run.outcomes)
    sorts = {name for run in runs for name in run.latencies}
    found = {name: latency(run.latencies[name] for run in runs if name in run.latencies) for name in sorts}
    return Figures(
        requests=sum(run.requests for run in runs),
        hits=Counter({name: count for name, count in outcomes.items() if name not in NO_TIERS}),
        collapsed=outcomes["collapsed"],
        misses=outcomes["miss"],
        errors=outcomes["error"],
        unlike_gold=sum(run.unlike_gold for run in runs),
        provider_calls=sum(run.provider_calls for run in runs),
        seconds=sum(run.seconds for run in runs),
        latencies={name: each for name, each in found.items() if each is not None},
    )


def rows(columns: Sequence[Figures]) -> list[tuple[str, list[str]]]:
    """Return the table's rows: a label, and a cell for each column."""
    tiers = sorted({tier for column in columns for tier in column.hits}, key=_speed)
    table = [("requests", [f"{column.requests:,}" for column in columns])]
    table += [(f"hits: {tier}", [f"{column.hits[tier]:,}" for column in columns]) for tier in tiers]
    table += [
        ("collapsed", [f"{column.collapsed:,}" for column in columns]),
        ("misses", [f"{column.misses:,}" for column in columns]),
    ]
    if any(column.errors for column in columns):
        table.append(("errors", [f"{column.errors:,}" for column in columns]))
    if any(column.unlike_gold for column in columns):
        table.append(("values unlike gold", [f"{column.unlike_gold:,}" for column in columns]))
    table += [
        ("hit rate", [percent(column.hit_rate) for column in columns]),
        ("provider calls", [f"{column.provider_calls:,}" for column in columns]),
        *_latency_rows(columns, "hit", "hit latency"),
        *(row for tier in tiers if len(tiers) > 1 for row in _latency_rows(columns, tier, f"{tier} hit latency")),
        *_latency_rows(columns, "miss", "miss latency"),
        ("seconds", [f"{column.seconds:,.1f}" for column in columns]),
    ]
    return table


def _speed(tier: str) -> tuple[int, str]:
    return (_FASTEST_FIRST.index(tier) if tier in _FASTEST_FIRST else len(_FASTEST_FIRST), tier)


def _latency_rows(columns: Sequence[Figures], name: str, words: str) -> list[tuple[str, list[str]]]:
    found = [column.latencies.get(name) for column in columns]
    return [
        (f"{words}, median", [NOTHING if each is None else duration(each.median_ns, each.exact) for each in found]),
        (f"{words}, p99", [NOTHING if each is None else duration(each.p99_ns, each.exact) for each in found]),
    ]
