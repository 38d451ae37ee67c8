"""A run from its first request to its row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime

from django.utils import timezone

from project.demo import ledger, reports
from project.demo.data import Request
from project.demo.latencies import measured
from project.demo.models import DemoRun
from project.demo.providers import Provider
from project.demo.replay import Replayed, replay
from project.demo.simulation import SimulatedTime, span_until


def run_log(
    log: list[Request], *, threads: int, mode: DemoRun.Mode, provider: Provider, on_progress: Callable[[int], object]
) -> tuple[DemoRun, Replayed]:
    """Run the log, keep its numbers, and return the row and all that came of the requests.

    Against the sandbox its time is made up. What OpenAI charges for is recorded when it happens.
    """
    before, began = ledger.sums(), timezone.now()
    time = _simulated_time(log, began) if provider.name == DemoRun.Provider.SANDBOX else None
    with nullcontext() if time is None else time.in_force():
        came = replay(
            log,
            threads=threads,
            separate_tenants=mode == DemoRun.Mode.SEPARATE,
            on_request=_nothing if time is None else time.take,
            on_progress=on_progress,
        )
        after = ledger.sums()
    run = _row(came, began)
    if time is not None:
        run.simulated_from, run.simulated_until = _utc(time.began), _utc(time.now)
    run.threads, run.mode, run.provider = threads, mode, provider.name
    run.provider_calls = provider.calls(came.outcomes["miss"])
    run.complete = came.requests == len(log)
    ledger.note(run, before, after)
    run.save()
    return run, came


def _simulated_time(log: list[Request], now: datetime) -> SimulatedTime:
    since = ledger.last_moment()
    return SimulatedTime(log, span_until(now.timestamp(), None if since is None else since.timestamp()))


def _nothing(_: Request) -> None:
    """Let the real clock go on by itself."""


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


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
