"""``manage.py llmcache_stats``: what calls came to: hits, what was spent and what was saved."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache.dashboard import figures
from llmcache.management.arguments import add_since
from llmcache.management.output import SpokenCommand
from llmcache.money.reports import By, Stats, stats

_BY: Final[tuple[By, ...]] = ("kind", "model", "tier", "tenant")
_HEADINGS: Final = ("hits", "stale", "joined", "misses", "hit rate", "errors", "calls", "spent", "saved", "in doubt")


class Command(SpokenCommand):
    """Tells, and changes nothing."""

    help = (
        "Show what calls came to: how many were answered from the cache, what was paid to providers and what was not "
        "paid again. Exit status: 0; 1 when the database cannot be read; 2 for arguments that cannot be used."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        add_since(parser, "calls")
        parser.add_argument("--by", choices=_BY, help="a line for each kind, model, tier or tenant")

    def work(self, **options: Any) -> None:
        """Say what calls came to."""
        since, by = None if options["all"] else options["since"], options["by"]
        parts = stats(since, by=by) if by else {"": stats(since)}
        if self.json:
            told = {name: _told(part) for name, part in parts.items()}
            self.say_json({"by": by, "parts": told} if by else told[""])
        elif by:
            rows = [(name or "(none)", *_cells(part)) for name, part in parts.items()]
            self.say_table((by, *_HEADINGS), rows)
        else:
            self.say_table(("figure", "value"), zip(_HEADINGS, _cells(parts[""]), strict=True))
            self._say_doubts(parts[""])

    def _say_doubts(self, part: Stats) -> None:
        if part.calls_unpriced:
            self.note(f"The cost of {part.calls_unpriced} calls is not known. See: manage.py llmcache_prices")
        if part.lines_lost:
            self.note(
                f"{part.lines_lost} lines of journals could not be read: what they said is in none of the figures."
            )


def _cells(part: Stats) -> tuple[str, ...]:
    doubt = "" if not part.calls_in_doubt else f"{part.calls_in_doubt}, at most {figures.money(part.in_doubt_usd)}"
    return (
        figures.count(part.hits),
        figures.count(part.stale),
        figures.count(part.collapsed),
        figures.count(part.misses),
        figures.percent(part.hit_rate),
        figures.count(part.errors),
        figures.count(part.calls),
        figures.money(part.spent_usd),
        figures.money(part.saved_usd),
        doubt or "0",
    )


def _told(part: Stats) -> dict[str, Any]:
    # How tiers have fared in this process, which has asked them nothing, says nothing.
    told = {each.name: getattr(part, each.name) for each in fields(part) if each.name != "tiers"}
    return {**told, "coverage": part.coverage}
