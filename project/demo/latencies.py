"""Medians and 99th percentiles: exact while a run's samples are there, from buckets for several runs together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

BUCKETS_PER_DOUBLING: Final = 8
"""A bucket is 2^(1/8) wide, so that its middle is within 4.5 % of what is in it."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long calls of one sort took, in nanoseconds."""

    median_ns: float
    p99_ns: float
    exact: bool
    """Whether it is of the samples themselves, not of buckets."""


def measured(samples_ns: Sequence[int]) -> dict[str, Any]:
    """Return what a run keeps of its samples, as JSON: exact ``median_ns`` and ``p99_ns``, and ``buckets``."""
    ordered = sorted(samples_ns)
    buckets = Counter(_bucket(sample) for sample in ordered)
    return {
        "median_ns": ordered[_rank(0.5, len(ordered))],
        "p99_ns": ordered[_rank(0.99, len(ordered))],
        "buckets": {str(bucket): count for bucket, count in sorted(buckets.items())},
    }


def latency(kept: Iterable[Mapping[str, Any]]) -> Latency | None:
    """Return the latency of one run or of several together, from what ``measured`` has returned for each."""
    runs = list(kept)
    if not runs:
        return None
    if len(runs) == 1:
        return Latency(runs[0]["median_ns"], runs[0]["p99_ns"], exact=True)
    buckets: Counter[int] = Counter()
    for run in runs:
        buckets.update({int(bucket): count for bucket, count in run["buckets"].items()})
    return Latency(_quantile(0.5, buckets), _quantile(0.99, buckets), exact=False)


def _bucket(nanoseconds: int) -> int:
    return math.floor(math.log2(max(nanoseconds, 1)) * BUCKETS_PER_DOUBLING)


def _rank(share: float, count: int) -> int:
    """Nearest rank, counted from zero."""
    return max(math.ceil(share * count), 1) - 1


def _quantile(share: float, buckets: Mapping[int, int]) -> float:
    rank = _rank(share, sum(buckets.values()))
    passed = 0
    for bucket in sorted(buckets):
        passed += buckets[bucket]
        if passed > rank:
            return 2 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING)
    raise ValueError("there is no quantile of nothing")
