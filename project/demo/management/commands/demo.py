"""``manage.py demo``: a log of real requests through ``llmcache.extract``, and what came of it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from io import TextIOWrapper
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from llmcache.engine import process
from project.demo import amounts, data, reports
from project.demo.data import Request
from project.demo.database import require_tables
from project.demo.models import DemoRun
from project.demo.options import between
from project.demo.providers import Provider, openai_api, sandbox, wanted
from project.demo.redis_server import entries_in_redis
from project.demo.replay import Replayed
from project.demo.runs import run_log
from project.demo.screens import Screen, screen

_SHOWN_IDS = 10
_NEXT = """\
What next:
  make serve                   the dashboard of all this at http://127.0.0.1:8000/llm/, and a page to try a line
  make demo                    once more: the answers are kept, and nobody is asked
  TENANTS=separate make demo   no tenant is given what another has paid for
  README.md                    "From nothing to the first hit", in your own project
  rm -r var                    forget it all and begin anew"""


class Command(BaseCommand):
    """Runs the log, shows the table and keeps the numbers as a ``DemoRun``."""

    help = (
        "Run a log of real requests through llmcache.extract() against a sandbox provider on loopback, and show hits, "
        "provider calls, latencies, and what was spent and saved. "
        "TENANTS=separate gives each tenant a name space of its own. "
        "LLMCACHE_DEMO_PROVIDER=openai with OPENAI_API_KEY asks OpenAI's API instead, for money."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the demo's own options."""
        parser.add_argument(
            "--requests",
            type=between(1, data.ALL_REQUESTS),
            default=data.ALL_REQUESTS,
            metavar="N",
            help=f"make only the first N requests of the log (default: all {data.ALL_REQUESTS:,})",
        )
        parser.add_argument(
            "--threads", type=between(1, 64), default=8, metavar="N", help="how many calls run at a time (default: 8)"
        )
        parser.add_argument(
            "--latency-ms",
            type=between(0, 60_000),
            default=0,
            metavar="MS",
            help="how long the sandbox waits with each answer (default: 0)",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask before calling OpenAI's API for money")

    def handle(self, *, requests: int, threads: int, latency_ms: int, yes: bool, **options: Any) -> None:
        """Run the log and show what came of it."""
        _let_output_be_written()
        show = screen(self.stdout, color=not options["no_color"])
        mode = _mode()
        try:
            require_tables()
            log = data.read_log(requests)
            with entries_in_redis(show.line), self._provider(show, log, mode, latency_ms, yes) as provider:
                show.line(f"{len(log):,} requests in {threads} threads; {mode.label}.")
                with show.progress(len(log)) as update:
                    run, came = run_log(log, threads=threads, mode=mode, provider=provider, on_progress=update)
                failure = _failure(came, log, provider)
                self._show_table(show, run)
                show.line(f"provider calls: {run.provider_calls}")
                if provider.name == DemoRun.Provider.OPENAI:
                    show.line("That is how often nothing was found. Retries come on top; the journal has them all.")
                if failure is not None:
                    raise failure
                show.line(_about_gold(came))
                if run.simulated_from is not None and run.simulated_until is not None:
                    show.line(_about_time(run.simulated_from, run.simulated_until))
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None
        show.line()
        show.line(_NEXT)

    def _show_table(self, show: Screen, run: DemoRun) -> None:
        rows = reports.rows([reports.figures([run]), reports.figures(list(DemoRun.objects.all()))])
        who, whose = DemoRun.Provider(run.provider).label, DemoRun.Mode(run.mode).label
        tiers = " over ".join(process.current().tiers.names)
        title = f"{who}, {run.threads} threads; {whose}; entries in {tiers}"
        show.table(title, ("this run", "all runs"), rows)
        if any(cell.startswith(amounts.ABOUT) for _, cells in rows for cell in cells):
            show.line(f"{amounts.ABOUT} is within 5 %: only this run's latencies are known one by one.")
        if any(cell.startswith(amounts.AT_LEAST) for _, cells in rows for cell in cells):
            show.line(f"{amounts.AT_LEAST} is at least so much: of a part it is not known.")
        if run.spent_pico_usd is None:
            show.line(
                "What it cost is not known: not all calls could be brought into the ledger. The journal has them."
            )

    @contextlib.contextmanager
    def _provider(
        self, show: Screen, log: list[Request], mode: DemoRun.Mode, latency_ms: int, yes: bool
    ) -> Iterator[Provider]:
        if wanted() == DemoRun.Provider.OPENAI:
            if latency_ms:
                raise CommandError("--latency-ms is for the sandbox; OpenAI's API takes the time it takes.")
            provider = openai_api()
            self._agree_to_pay(show, log, mode, provider, yes)
            yield provider
            return
        with sandbox(settings.VAR / "sandbox", latency_ms) as provider:
            show.line(
                f"The sandbox provider listens at {provider.base_url}. It is no model: "
                "it answers known texts with their gold labels."
            )
            yield provider

    def _agree_to_pay(
        self, show: Screen, log: list[Request], mode: DemoRun.Mode, provider: Provider, yes: bool
    ) -> None:
        calls = data.distinct(log, separate_tenants=mode == DemoRun.Mode.SEPARATE)
        show.line(
            f"REAL CALLS FOR REAL MONEY: up to {calls:,} calls of {settings.LLMCACHE['MODEL']} at {provider.base_url}, "
            "and what is tried again."
        )
        if yes:
            return
        if not (sys.stdin.isatty() and self.stdout.isatty()):
            raise CommandError("Nobody is there to agree to this. Pass --yes.")
        with contextlib.suppress(EOFError):
            if input("Type 'yes' to go on: ").strip().lower() == "yes":
                return
        raise CommandError("Nothing was sent.")


def _let_output_be_written() -> None:
    """Make a terminal or pipe whose encoding has no µ show another sign instead of failing."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _mode() -> DemoRun.Mode:
    given = os.environ.get("TENANTS") or "shared"
    if given not in DemoRun.Mode.values:
        raise CommandError(f"TENANTS is {given!r}. It takes 'shared' (the default) or 'separate'.")
    return DemoRun.Mode(given)


def _failure(came: Replayed, log: list[Request], provider: Provider) -> CommandError | None:
    """Return what ends the command with another status than 0."""
    if came.interrupted:
        return CommandError(f"Interrupted after {came.requests:,} of {len(log):,} requests.", returncode=130)
    if came.errors:
        return CommandError(
            f"{len(came.errors):,} calls failed, and the run ended after {came.requests:,} of {len(log):,} requests. "
            f"The first: {came.errors[0]}"
        )
    if came.unlike_gold and provider.name == DemoRun.Provider.SANDBOX:
        return CommandError(
            f"{len(came.unlike_gold):,} values differ from their text's gold, which the sandbox answers: "
            f"{', '.join(list(dict.fromkeys(came.unlike_gold))[:_SHOWN_IDS])}."
        )
    return None


def _about_gold(came: Replayed) -> str:
    if not came.unlike_gold:
        return f"All {came.requests:,} values are equal to their text's gold, in every field."
    equal = came.requests - len(came.unlike_gold)
    return f"{equal:,} of {came.requests:,} values are what people read in the text, in every field."


def _about_time(began: datetime, ended: datetime) -> str:
    """Say what time the run was recorded at."""
    return (
        f"The time is simulated: recorded as {began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} UTC, so that a dashboard "
        "has days to show. Latencies are real."
    )
