"""The dashboard's tables: kinds, models, tenants, entries and tiers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from llmcache.dashboard import figures
from llmcache.dashboard.address import address
from llmcache.money.overview import Overview, Part, TopEntry
from llmcache.tiers.base import TierState

_KEY: Final = 12
"""Characters of a key that are shown."""


@dataclass(frozen=True, slots=True)
class PartRow:
    """A kind, a model or a tenant."""

    name: str
    saved: str
    """Net."""
    spent: str
    rate: str
    """Its hit rate."""
    meter: float
    """The same as a length, of 100."""
    cells: list[str]
    href: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """A table of kinds, models or tenants."""

    name: str
    caption: str
    head: str
    rows: list[PartRow]
    note: str = ""


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry that saved much."""

    key: str
    href: str | None
    kind: str
    model: str
    tenant: str
    hits: str
    cost: str
    saved: str


@dataclass(frozen=True, slots=True)
class TierRow:
    """A tier and how it fares."""

    name: str
    backend: str
    shared: str
    state: str
    faulty: bool


def parts(seen: Overview) -> list[Parts]:
    """Return what calls came to by kind, by model and by tenant."""
    made = [
        Parts(
            "kinds",
            _("By kind"),
            _("Kind"),
            [_part(part, part.name, address(seen.period, part.name)) for part in seen.by_kind],
        ),
        Parts("models", _("By model"), _("Model"), [_part(part, part.name) for part in seen.by_model]),
    ]
    if seen.by_tenant is None:
        note = _("Sums by tenant are kept for all kinds together: choose all kinds to see them.")
        return [*made, Parts("tenants", _("By tenant"), _("Tenant"), [], note)]
    rows = [_part(part, part.name or _("(no tenant)")) for part in seen.by_tenant]
    return [*made, Parts("tenants", _("By tenant"), _("Tenant"), rows, " ".join(_about_tenants(seen)))]


def _about_tenants(seen: Overview) -> Iterable[str]:
    if seen.tenants_by_utc:
        yield _("Tenants' days are those of UTC, so their sums may differ a little from the others.")
    if seen.more_tenants:
        yield _("These %(tenants)s saved most; there are more.") % {"tenants": len(seen.by_tenant or ())}


def _part(part: Part, name: str, href: str = "") -> PartRow:
    totals = part.totals
    cells = [
        figures.count(totals.asked),
        figures.duration(totals.seconds_saved),
        figures.count(totals.errors),
        figures.percent(totals.coverage),
    ]
    return PartRow(
        name,
        saved=figures.money(totals.saved_net_usd),
        spent=figures.money(totals.spent_usd),
        rate=figures.percent(totals.hit_rate),
        meter=round(100 * (totals.hit_rate or 0.0), 2),
        cells=cells,
        href=href,
    )


def entry_row(entry: TopEntry, href: str | None) -> EntryRow:
    """Return what is said of an entry; ``href`` is its page, if the user may see it."""
    return EntryRow(
        key=entry.key[:_KEY],
        href=href,
        kind=entry.kind,
        model=entry.model,
        tenant=entry.tenant,
        hits=figures.count(entry.hits),
        cost=figures.money(entry.cost_usd),
        saved=figures.money(entry.saved_usd),
    )


def tier_row(state: TierState) -> TierRow:
    """Return how a tier fares, in words."""
    shared = {"process": _("this process"), "machine": _("this machine"), "network": _("all machines")}
    if state.breaker == "open":
        words = _("cannot be reached, left alone until it answers")
    elif state.reads and state.writes:
        words = _("works")
    elif state.reads:
        words = _("cannot be written")
    elif state.writes:
        words = _("cannot be read")
    else:
        words = _("cannot be reached")
    if state.faults:
        words = ngettext(
            "%(words)s; %(faults)s fault, %(error)s", "%(words)s; %(faults)s faults, the last %(error)s", state.faults
        ) % {"words": words, "faults": figures.count(state.faults), "error": state.error or figures.UNKNOWN}
    if state.waits:
        words = ngettext(
            "%(words)s; %(waits)s wait for a connection", "%(words)s; %(waits)s waits for a connection", state.waits
        ) % {"words": words, "waits": figures.count(state.waits)}
    return TierRow(
        state.name, state.backend, shared.get(state.shared, _("not known")), words, not (state.reads and state.writes)
    )
