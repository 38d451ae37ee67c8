"""Hours of usage and days of tenants: the sums that reports are made of."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.formats import date_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import Fact, Group, known, number
from llmcache.admin_pages.lists import LedgerAdmin
from llmcache.dashboard import figures
from llmcache.models import TenantDay, UsageBucket
from llmcache.money.pricing import dollars


class SumsAdmin(LedgerAdmin):
    """Sums, the newest first."""

    @admin.display(description=gettext_lazy("outcome"))
    def outcome_column(self, row: Any) -> SafeString:
        """Return the outcome of the calls."""
        return columns.badge(row.outcome, _TONES.get(row.outcome, "quiet"))

    @admin.display(description=gettext_lazy("calls"))
    def count_column(self, row: Any) -> str:
        """Return how many calls there were."""
        return number(row.count)

    @admin.display(description=gettext_lazy("avoided"))
    def avoided_column(self, row: Any) -> str:
        """Return what was not paid again."""
        return figures.money(dollars(row.avoided_pico_usd))

    @admin.display(description=gettext_lazy("attempts"))
    def attempts_column(self, row: Any) -> str:
        """Return how many attempts were made."""
        return number(row.attempts)

    @admin.display(description=gettext_lazy("spent"))
    def spent_column(self, row: Any) -> str:
        """Return what attempts cost."""
        return figures.money(dollars(row.spent_pico_usd))

    def money(self, row: Any) -> Group:
        """Return what the calls came to."""
        in_doubt = dollars(row.in_doubt_pico_usd)
        return Group(
            _("What they came to"),
            [
                Fact(_("calls"), number(row.count)),
                Fact(_("avoided"), columns.exact_money(dollars(row.avoided_pico_usd))),
                Fact(_("calls that avoided what is not known"), number(row.avoided_unknown)),
                Fact(_("time saved"), figures.duration(row.saved_ms / 1_000)),
                Fact(_("attempts"), number(row.attempts)),
                Fact(_("spent"), columns.exact_money(dollars(row.spent_pico_usd))),
                Fact(_("attempts whose cost is not known"), number(row.unpriced)),
                Fact(_("attempts in doubt"), number(row.in_doubt)),
                Fact(_("bound of what is in doubt"), columns.exact_money(in_doubt)),
                Fact(_("attempts in doubt without a bound"), number(row.in_doubt_unbounded)),
            ],
        )


_TONES = {"hit": "good", "stale": "warning", "collapsed": "good", "miss": "quiet", "bypass": "quiet", "error": "bad"}


class UsageBucketAdmin(SumsAdmin):
    """Hours of one kind, model, tier and outcome."""

    list_display = (
        *("hour_column", "kind_column", "outcome_and_tier_column", "count_column"),
        *("avoided_column", "attempts_column", "spent_column"),
    )
    list_filter = (filters.SumOutcome, filters.Kind, filters.Model, filters.Tier, filters.Simulated)

    @admin.display(description=gettext_lazy("hour"), ordering="hour")
    def hour_column(self, bucket: UsageBucket) -> str:
        """Return the hour's beginning."""
        return columns.narrow_moment(bucket.hour)[:-3]

    @admin.display(description=gettext_lazy("kind and model"))
    def kind_column(self, bucket: UsageBucket) -> SafeString:
        """Return the kind and the model."""
        return columns.two_lines(known(bucket.kind), known(bucket.model))

    @admin.display(description=gettext_lazy("outcome and tier"))
    def outcome_and_tier_column(self, bucket: UsageBucket) -> SafeString:
        """Return the outcome of the calls, and the tier that answered."""
        outcome = self.outcome_column(bucket)
        return columns.two_lines(outcome, bucket.tier) if bucket.tier else outcome

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:  # noqa: ARG002
        """Return the facts of an hour."""
        bucket: UsageBucket = row
        facts = [
            Fact(_("hour"), columns.moment(bucket.hour)),
            Fact(_("kind"), known(bucket.kind)),
            Fact(_("model"), known(bucket.model)),
            Fact(_("tier"), known(bucket.tier)),
            Fact(_("outcome"), self.outcome_column(bucket)),
        ]
        return [Group(_("What was counted"), facts + _clock(bucket)), self.money(bucket), *_latencies(bucket)]

    def choices(self, row: Any) -> list[tuple[Any, dict[str, str]]]:
        """Return the kind, the model, and the one by the other."""
        return [
            (_("Invalidate this kind…"), {"kind": row.kind}),
            (_("Invalidate this model…"), {"model": row.model}),
            (_("Invalidate this kind by this model…"), {"kind": row.kind, "model": row.model}),
        ]


class TenantDayAdmin(SumsAdmin):
    """Days (UTC) of one tenant and outcome."""

    list_display = (
        *("day_column", "tenant_column", "outcome_column", "count_column", "avoided_column", "attempts_column"),
        "spent_column",
    )
    list_filter = (filters.Tenant, filters.SumOutcome, filters.Simulated)
    invalidate_label = gettext_lazy("Invalidate this tenant…")

    @admin.display(description=gettext_lazy("day (UTC)"), ordering="day")
    def day_column(self, row: TenantDay) -> str:
        """Return the day."""
        return date_format(row.day, "j M Y")

    @admin.display(description=gettext_lazy("tenant"))
    def tenant_column(self, row: TenantDay) -> str:
        """Return the tenant."""
        return known(row.tenant)

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:  # noqa: ARG002
        """Return the facts of a day."""
        facts = [
            Fact(_("day (UTC)"), date_format(row.day, "j M Y")),
            Fact(_("tenant"), known(row.tenant)),
            Fact(_("outcome"), self.outcome_column(row)),
        ]
        return [Group(_("What was counted"), facts + _clock(row)), self.money(row)]

    def conditions(self, row: Any) -> dict[str, str]:
        """Return the tenant."""
        return {"tenant": row.tenant}


def _clock(row: Any) -> list[Fact]:
    return [Fact(_("clock"), columns.badge(_("simulated"), "warning"))] if row.simulated else []


def _latencies(bucket: UsageBucket) -> list[Group]:
    """Return how long attempts took, in the steps in which that is kept."""
    counts: Any = bucket.latencies
    if not isinstance(counts, list) or not any(counts):
        return []
    facts = [
        Fact(_("less than %(span)s") % {"span": columns.milliseconds(2**place)}, number(count))
        for place, count in enumerate(counts)
        if isinstance(count, int) and count
    ]
    return [Group(_("Latency of attempts"), facts)]
