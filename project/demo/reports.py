"""The numbers of runs, in the same words and units on the terminal and on the home page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from project.demo.amounts import AT_LEAST, NOTHING, duration, percent, pico_money
from project.demo.latencies import Latency, latency
from project.demo.models import DemoRun

_FASTEST_FIRST: Final = ("memory", "redis", "disk")
NO_TIERS: Final = frozenset({"collapsed", "miss", "error"})


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum over runs, some of which may not know their part."""

    total: int | None
    """None where none of them knows it."""
    partial: bool

    def shown(self, write: Callable[[int], str]) -> str:
        """Return it as text: at least so much, where a part is not known."""
        return NOTHING if self.total is None else f"{f'{AT_LEAST} ' if self.partial else ''}{write(self.total)}"


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
    spent: Sum
    """10**-12 US dollars, as the next one."""
    saved: Sum
    saved_unknown: Sum
    in_doubt: Sum
    in_doubt_bound: int | None
    """The most that calls in doubt can have cost, in 10**-12 US dollars; None where that has no bound."""
    unpriced: Sum
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
    in_doubt, unpriced = _sum(run.calls_in_doubt for run in runs), _sum(run.calls_unpriced for run in runs)
    saved_unknown = _sum(run.saved_unknown for run in runs)
    return Figures(
        requests=sum(run.requests for run in runs),
        hits=Counter({name: count for name, count in outcomes.items() if name not in NO_TIERS}),
        collapsed=outcomes["collapsed"],
        misses=outcomes["miss"],
        errors=outcomes["error"],
        unlike_gold=sum(run.unlike_gold for run in runs),
        provider_calls=sum(run.provider_calls for run in runs),
        spent=_sum((run.spent_pico_usd for run in runs), without=(in_doubt, unpriced)),
        saved=_sum((run.saved_pico_usd for run in runs), without=(saved_unknown,)),
        saved_unknown=saved_unknown,
        in_doubt=in_doubt,
        in_doubt_bound=_bound(runs),
        unpriced=unpriced,
        seconds=sum(run.seconds for run in runs),
        latencies={name: each for name, each in found.items() if each is not None},
    )


def _sum(parts: Iterable[int | None], without: Iterable[Sum] = ()) -> Sum:
    """Add what runs know; ``without`` counts calls that are not in any part."""
    told = list(parts)
    known = [part for part in told if part is not None]
    return Sum(sum(known) if known else None, partial=len(known) < len(told) or any(each.total for each in without))


def _bound(runs: Sequence[DemoRun]) -> int | None:
    parts = [run.in_doubt_pico_usd for run in runs if run.calls_in_doubt]
    return None if None in parts else sum(part or 0 for part in parts)


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
        ("spent", [column.spent.shown(pico_money) for column in columns]),
        ("saved", [column.saved.shown(pico_money) for column in columns]),
    ]
    if any(column.saved_unknown.total for column in columns):
        table.append(("hits that saved what is not known", [column.saved_unknown.shown(_count) for column in columns]))
    table += [
        ("calls in doubt", [_in_doubt(column) for column in columns]),
        ("calls unpriced", [column.unpriced.shown(_count) for column in columns]),
        *_latency_rows(columns, "hit", "hit latency"),
        *(row for tier in tiers if len(tiers) > 1 for row in _latency_rows(columns, tier, f"{tier} hit latency")),
        *_latency_rows(columns, "miss", "miss latency"),
        ("seconds", [f"{column.seconds:,.1f}" for column in columns]),
    ]
    return table


def _count(number: int) -> str:
    return f"{number:,}"


def _in_doubt(column: Figures) -> str:
    """Return how many calls may have been charged unknown to us, and the most that they can have cost."""
    shown = column.in_doubt.shown(_count)
    if not column.in_doubt.total:
        return shown
    return (
        f"{shown}, {'of unknown cost' if column.in_doubt_bound is None else f'≤ {pico_money(column.in_doubt_bound)}'}"
    )


def _speed(tier: str) -> tuple[int, str]:
    return (_FASTEST_FIRST.index(tier) if tier in _FASTEST_FIRST else len(_FASTEST_FIRST), tier)


def _latency_rows(columns: Sequence[Figures], name: str, words: str) -> list[tuple[str, list[str]]]:
    found = [column.latencies.get(name) for column in columns]
    return [
        (f"{words}, median", [NOTHING if each is None else duration(each.median_ns, each.exact) for each in found]),
        (f"{words}, p99", [NOTHING if each is None else duration(each.p99_ns, each.exact) for each in found]),
    ]
