"""``manage.py llmcache_prices``: which prices are used for the models that were asked, and which models have none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.core.management.base import CommandParser
from django.db.models import Sum
from django.utils import timezone

from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.engine.runtime import Runtime
from llmcache.exceptions import ConfigurationError
from llmcache.flushing import flush
from llmcache.management.arguments import add_since
from llmcache.management.output import SpokenCommand, failed
from llmcache.models import ProviderCall, UsageBucket
from llmcache.money.facts import stored_time
from llmcache.money.pricing import PICO
from llmcache.money.usage import Usage

_MOST_LOOKED_AT: Final = 100
"""Calls of a model of which the newest answer is looked for."""
_SAMPLE: Final = 1_000
"""Tokens that are priced to tell a price: so few that no price for long inputs is meant."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A model that was asked, and its price now."""

    model: str
    answered_as: str
    """Under which name it answered last; empty where that is not known."""
    calls: int
    spent_usd: Decimal
    unpriced: int
    """Calls whose cost is not known: without a price, or without counts of tokens."""
    input_usd: Decimal | None
    """For a million tokens; None without a price."""
    cache_read_usd: Decimal | None
    output_usd: Decimal | None
    price: str
    source: str


class Command(SpokenCommand):
    """Tells, and changes nothing."""

    help = (
        "Show the models that were asked, what was spent on them, the price that is used for each (US dollars for a "
        "million tokens) and where it comes from. Exit status: 0; with --check 1 when a model has no price; 1 when the "
        "database cannot be read; 2 for arguments that cannot be used."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        add_since(parser, "calls", default="30d")
        parser.add_argument("--unpriced", action="store_true", help="only models without a price, or with such calls")
        parser.add_argument("--check", action="store_true", help="exit status 1 when a model has no price")

    def work(self, **options: Any) -> None:
        """Say which prices are used."""
        now = process.current()
        now.require_database()
        flush()
        since = None if options["all"] else timezone.now() - options["since"]
        found = _models(now, since)
        without = [each.model for each in found if each.input_usd is None]
        if options["unpriced"]:
            found = [each for each in found if each.unpriced or each.input_usd is None]
        if self.json:
            self.say_json({"models": [_told(each) for each in found], "without_a_price": without})
        else:
            headings = (
                "model",
                "answered as",
                "calls",
                "spent",
                "unpriced",
                "input",
                "cached",
                "output",
                "price",
                "source",
            )
            self.say_table(headings, map(_cells, found))
        if without:
            self.note(
                f"No price is known for: {', '.join(without)}. Their calls are counted, and what they cost is not: add "
                "them to LLMCACHE['PRICES']."
            )
            if options["check"]:
                raise failed(f"{len(without)} models have no price.")


def _models(now: Runtime, since: datetime | None) -> list[Priced]:
    """Return the models of the hours since then, those first on which most was spent."""
    rows = UsageBucket.objects.using(now.settings.database).order_by()
    if since is not None:
        hour = since.replace(minute=0, second=0, microsecond=0)
        rows = rows.filter(hour__gte=stored_time(hour.timestamp()))
    sums = rows.values("model").annotate(calls=Sum("attempts"), spent=Sum("spent_pico_usd"), without=Sum("unpriced"))
    asked = [each for each in sums if each["calls"]]
    return [_priced(now, each) for each in sorted(asked, key=lambda each: (-each["spent"], each["model"]))]


def _priced(now: Runtime, sums: dict[str, Any]) -> Priced:
    model = sums["model"]
    answered = _answered_as(now, model)
    alias = model.partition("/")[0]
    source, price = "", ""
    dollars: list[Decimal | None] = [None, None, None]
    try:
        base_url = now.provider(alias).base_url
    except ConfigurationError:
        source = "the provider is not in PROVIDERS"
    else:
        classes = (Usage(_SAMPLE, 0, 0), Usage(0, _SAMPLE, 0), Usage(0, 0, _SAMPLE))
        costs = [now.prices.cost(model, answered or None, base_url, usage, now.clock.wall()) for usage in classes]
        dollars = [None if cost is None else Decimal(cost.pico_usd) * 10**6 / _SAMPLE / PICO for cost in costs]
        if costs[0] is not None:
            price, source = costs[0].price_id, costs[0].source
    into, cached, out = dollars
    spent = Decimal(sums["spent"]) / PICO
    return Priced(model, answered, sums["calls"], spent, sums["without"], into, cached, out, price, source)


def _answered_as(now: Runtime, model: str) -> str:
    """Return the name that the newest answer of a model has, of its newest calls."""
    calls = ProviderCall.objects.using(now.settings.database).filter(model=model).order_by("-started_at")
    names = calls.values_list("answered_model", flat=True)[:_MOST_LOOKED_AT]
    return next((name for name in names if name), "")


def _cells(each: Priced) -> tuple[str, ...]:
    prices = (figures.money(price) for price in (each.input_usd, each.cache_read_usd, each.output_usd))
    return (
        each.model,
        each.answered_as or figures.UNKNOWN,
        figures.count(each.calls),
        figures.money(each.spent_usd),
        figures.count(each.unpriced),
        *prices,
        each.price or figures.UNKNOWN,
        each.source or "no price",
    )


def _told(each: Priced) -> dict[str, Any]:
    return {name: getattr(each, name) for name in Priced.__dataclass_fields__}
