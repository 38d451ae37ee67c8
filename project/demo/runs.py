"""A run from its first request to its row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from django.utils import timezone

from project.demo import ledger, reports
from project.demo.data import Request
from project.demo.latencies import measured
from project.demo.models import DemoRun
from project.demo.providers import Provider
from project.demo.replay import Replayed, replay


def run_log(
    log: list[Request], *, threads: int, mode: DemoRun.Mode, provider: Provider, on_progress: Callable[[int], object]
) -> tuple[DemoRun, Replayed]:
    """Run the log, keep its numbers, and return the row and all that came of the requests."""
    before, began = ledger.sums(), timezone.now()
    came = replay(log, threads=threads, separate_tenants=mode == DemoRun.Mode.SEPARATE, on_progress=on_progress)
    run = _row(came, began)
    run.threads, run.mode, run.provider = threads, mode, provider.name
    run.provider_calls = provider.calls(came.outcomes["miss"])
    run.complete = came.requests == len(log)
    ledger.note(run, before, ledger.sums())
    run.save()
    return run, came


def _row(came: Replayed, began: datetime) -> DemoRun:
    samples = dict(came.latencies_ns)
    hits = [sample for outcome in samples if outcome not in reports.NO_TIERS for sample in samples[outcome]]
    if hits:
        samples["hit"] = hits
    return DemoRun(
        started_at=began,
        seconds=came.seconds,
        requests=came.requests,
        outcomes=dict(came.outcomes),
        unlike_gold=len(came.unlike_gold),
        latencies={outcome: measured(nanoseconds) for outcome, nanoseconds in samples.items()},
    )
