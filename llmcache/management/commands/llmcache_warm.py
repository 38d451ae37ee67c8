"""``manage.py llmcache_warm``: ask for texts ahead of their use, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from decimal import Decimal
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from django.db.models import Count

from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.flushing import flush
from llmcache.management import warm_arguments
from llmcache.management.output import Progress as Shown
from llmcache.management.output import SpokenCommand, failed, interrupted, stopped_by_signals, unusable
from llmcache.models import WarmingItem, WarmingPlan, WarmingRun
from llmcache.warming import estimates, plans, runs
from llmcache.warming.runs import Progress
from llmcache.warming.work import require_no_transaction, work

LEFT: Final = 3
"""Exit status where items are left: the budget has ended the run, or somebody has paused or cancelled it."""

_MADE_BY: Final = "llmcache_warm"
_ENDED: Final = {"pause": "paused", "cancel": "cancelled"}
_MOST_LISTED: Final = 20
_MOST_TOLD: Final = 20
"""Lines that cannot be used of which each is told."""
_LOOK_SECONDS: Final = 0.5
"""How often it is read how far a run is."""


class Command(SpokenCommand):
    """Prepares a run and works at it, goes on with one, or only says what it would ask."""

    help = (
        "Ask for texts ahead of their use, so that who needs their answers finds them. What is there already is not "
        "asked. Ctrl-C lets calls under way end, and says how to go on. Exit status: 0 when all is done; 1 when some "
        "texts could not be read or asked, or something stands in the way; 2 when the arguments cannot be used, and "
        "nothing was done; 3 when items are left, for the budget has ended the run, or somebody has paused or "
        "cancelled it; 130 by Ctrl-C."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add where texts come from, what is asked, and within which bounds."""
        warm_arguments.add_arguments(parser)

    def work(self, **options: Any) -> None:
        """Do what the arguments say."""
        source = warm_arguments.source_of(options)
        if source == "list":
            self._list()
        elif source in _ENDED:
            self._end(source, options[source])
        elif source == "resume":
            self._resume(options)
        elif source == "plan":
            self._plan(options)
        else:
            self._texts(source, options)

    def note(self, line: str) -> None:
        """Print a line that is no result; where nobody reads it any more, texts are asked for all the same."""
        with suppress(BrokenPipeError):
            super().note(line)

    # -- texts

    def _texts(self, source: str, options: dict[str, Any]) -> None:
        asked, bounds = warm_arguments.asked_of(options), warm_arguments.bounds_of(options)
        refused = _Refused(self.note, go_on=options["on_error"] == "go-on")
        with warm_arguments.texts_of(source, options, refused) as texts:
            if options["dry_run"]:
                self._estimate(estimates.estimate(texts, **asked), refused.count)
                refused.end()
                return
            require_no_transaction()
            run = runs.prepare(texts, **asked, **bounds, made_by=_MADE_BY)
        self._prepared(run)
        self._work(run.uid, options["concurrency"], refused.count)
        refused.end()

    def _plan(self, options: dict[str, Any]) -> None:
        now = process.current()
        now.require_database()
        found = WarmingPlan.objects.using(now.settings.database)
        plan = found.filter(name=options["plan"]).first()
        if plan is None:
            names = list(found.order_by("name").values_list("name", flat=True)[:_MOST_LISTED])
            raise unusable(f"There is no plan {options['plan']!r}. There are: {', '.join(names) or 'none'}.")
        if options["dry_run"]:
            self._estimate(plans.run_plan(plan, dry_run=True), 0)
            return
        require_no_transaction()
        run = plans.run_plan(plan, made_by=_MADE_BY)
        self._prepared(run)
        self._work(run.uid, options["concurrency"])

    def _estimate(self, found: estimates.WarmingEstimate, refused: int) -> None:
        if self.json:
            self.say_json({**asdict(found), "refused": refused})
            return
        self.say(
            f"{found.items:,} items: {found.duplicates:,} duplicates, {found.live:,} live already, "
            f"{found.to_ask:,} to ask."
        )
        if found.to_ask:
            self.say(f"Estimated cost: {_about(found.usd)} ({found.basis}).")
        self.say("Nothing was asked, and nothing was written.")

    def _prepared(self, run: WarmingRun) -> None:
        cost = f" Estimated cost: {_about(run.estimate_usd)} ({run.estimate_basis})." if run.estimate_basis else ""
        self.note(f"Run {run.uid}: {run.items_count:,} items, {run.duplicates:,} duplicates.{cost}")

    # -- runs

    def _resume(self, options: dict[str, Any]) -> None:
        uid = options["resume"]
        if not runs.resume(uid, max_usd=options["max_usd"], max_calls=options["max_calls"]):
            found = runs.progress(uid)
            raise failed(f"The run {found.uid} is {found.state}: there is nothing to go on with.")
        self._work(uid, options["concurrency"])

    def _work(self, uid: str, concurrency: int | None, refused: int = 0) -> None:
        """Work at a run until it ends or somebody wants that; say what came of it."""
        with stopped_by_signals() as stop, self.progress("Warming", runs.progress(uid).items) as shown:
            look = _Look(uid, shown)
            try:
                found = work(uid, concurrency=concurrency, should_stop=lambda: look() or stop())
            except KeyboardInterrupt:
                stop.asked, found = True, runs.progress(uid)
            look.show(found)
        if flush():
            # Now the ledger also tells of calls that are in doubt.
            found = runs.progress(uid)
        if self.json:
            self.say_json({**asdict(found), "refused": refused})
        else:
            self.say(_outcome(found))
        if stop.asked and found.state == WarmingRun.State.RUNNING:
            raise interrupted(f"Stopped, and {found.to_ask:,} items are left. {_go_on(found)}")
        _require_done(found)

    def _end(self, how: str, uid: str) -> None:
        done = {"pause": runs.pause, "cancel": runs.cancel}[how](uid)
        found = runs.progress(uid)
        if not done:
            raise failed(f"The run {found.uid} is {found.state}: it cannot be {_ENDED[how]}.")
        if self.json:
            self.say_json(asdict(found))
            return
        self.say(f"The run {found.uid} is {_ENDED[how]}. {found.to_ask:,} items are left.")
        if how == "pause":
            self.say(_go_on(found))

    def _list(self) -> None:
        now = process.current()
        now.require_database()
        found = WarmingRun.objects.using(now.settings.database).filter(namespace=now.namespace)
        told = [(run, runs.progress(run.uid)) for run in found.order_by("-pk")[:_MOST_LISTED]]
        if self.json:
            self.say_json([{"made_at": run.made_at, "kind": run.kind, **asdict(each)} for run, each in told])
            return
        headings = ("run", "made at", "kind", "state", "items", "to ask", "warmed", "failed", "calls", "cost")
        self.say_table(headings, [_row(run, each) for run, each in told])


class _Look:
    """Shows how far a run is, as often as that is worth a look at the database."""

    def __init__(self, uid: str, shown: Shown) -> None:
        self._uid = uid
        self._shown = shown
        self._next = 0.0

    def __call__(self) -> bool:
        """Look where it is time to; False, for it is no reason to stop."""
        if time.monotonic() >= self._next:
            self.show(runs.progress(self._uid))
            self._next = time.monotonic() + _LOOK_SECONDS
        return False

    def show(self, found: Progress) -> None:
        """Show this."""
        failures = f", {found.failed:,} failed" if found.failed else ""
        self._shown(found.items - found.to_ask, f"{figures.money(found.cost_usd)}{failures}")


def _outcome(found: Progress) -> str:
    doubt = f", {found.in_doubt:,} of them in doubt" if found.in_doubt else ""
    dropped = f", {found.dropped:,} not asked any more" if found.dropped else ""
    unknown = f" and {found.calls_unpriced:,} calls of unknown cost" if found.calls_unpriced else ""
    return (
        f"{found.state.capitalize()}: {found.warmed:,} warmed, {found.live:,} live already, {found.failed:,} failed"
        f"{dropped}, {found.to_ask:,} left. {found.calls:,} calls{doubt}: {figures.money(found.cost_usd)}{unknown}, "
        f"estimated {_about(found.estimate_usd)}."
    )


def _about(dollars: Decimal | None) -> str:
    return "not known" if dollars is None else figures.money(dollars)


def _go_on(found: Progress, more: str = "") -> str:
    return f"To go on: python manage.py llmcache_warm --resume {found.uid}{more}"


def _require_done(found: Progress) -> None:
    """Raise what ends the command where a run did not come to its end, or not well."""
    state = WarmingRun.State(found.state)
    if state == WarmingRun.State.EXHAUSTED:
        raise CommandError(
            f"The budget has ended the run, and {found.to_ask:,} items are left. "
            + _go_on(found, " with a higher --max-usd or --max-calls"),
            returncode=LEFT,
        )
    if found.trouble:
        raise failed(f"The run is {state.value} after errors: {found.trouble}. Mend what causes them. {_go_on(found)}")
    if state != WarmingRun.State.DONE:
        raise CommandError(f"Somebody has {state.value} the run: {found.to_ask:,} items are left.", returncode=LEFT)
    if found.failed:
        raise failed(f"{found.failed:,} items have no answer, by the error: {_errors(found.uid)}.")


def _errors(uid: str) -> str:
    """Return how many items have failed by each error's code."""
    using = process.current().settings.database
    items = WarmingItem.objects.using(using).filter(run__uid=uid, state=WarmingItem.State.FAILED).order_by()
    counts = items.values_list("error").annotate(count=Count("pk")).order_by("-count", "error")
    return ", ".join(f"{code} {count:,}" for code, count in counts[:_MOST_TOLD])


def _row(run: WarmingRun, found: Progress) -> tuple[object, ...]:
    at = run.made_at.isoformat(sep=" ", timespec="seconds")
    counts = (found.items, found.to_ask, found.warmed, found.failed, found.calls)
    return (found.uid, at, run.kind, found.state, *counts, figures.money(found.cost_usd))


# What lines cannot be used


class _Refused:
    """Lines that cannot be used: each ends the command, or is told and counted."""

    def __init__(self, note: Callable[[str], None], *, go_on: bool) -> None:
        self._note = note
        self._go_on = go_on
        self.count = 0

    def __call__(self, message: str) -> None:
        """Take note of one; ``CommandError`` where that ends the command."""
        if not self._go_on:
            raise failed(f"{message} Nothing was warmed; --on-error=go-on passes such lines over.")
        self.count += 1
        if self.count <= _MOST_TOLD:
            self._note(message)
        if self.count == _MOST_TOLD + 1:
            self._note("Further lines that cannot be used are only counted.")

    def end(self) -> None:
        """Raise where there were any."""
        if self.count:
            raise failed(f"{self.count:,} lines could not be used, and were passed over.")
