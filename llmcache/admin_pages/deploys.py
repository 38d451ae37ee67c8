"""What the last deploys have changed: forms of types, prompts, versions; and what nobody finds any more for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from llmcache.admin_pages import columns
from llmcache.admin_pages.columns import Fact, known
from llmcache.conf import Settings
from llmcache.dashboard import figures
from llmcache.exceptions import ConfigurationError, UnsupportedType
from llmcache.models import SchemaVersion
from llmcache.schema_history.prompts import KindOfEntries, prompts_by_kind
from llmcache.schema_history.reports import (
    MOST,
    Form,
    Live,
    Registered,
    SchemaChange,
    form_of,
    live_entries,
    registered_types,
    schema_changes,
)

SHOWN: Final = 10
"""Changes in the list: of both forms of each are at most ``MOST`` entries looked at."""

MOST_PROMPTED: Final = 2_000
"""Entries whose system prompts and versions are counted, the newest ones: each is a row that is read whole."""

Entries = Callable[[Mapping[str, str]], str]
"""Makes the address of the list of entries with these filters."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """One line: a type that got another form, or will get one when it is asked for."""

    when: str | SafeString
    name: str | SafeString
    left: str | SafeString
    cost: str
    made: str | SafeString
    note: str = ""


@dataclass(frozen=True, slots=True)
class Prompted:
    """One line: a kind whose entries were not all asked with the same system prompt and version."""

    name: str | SafeString
    prompts: str
    versions: str
    left: str
    cost: str


def prompted(using: str, entries: Entries) -> list[Prompted]:
    """Return the lines of kinds that have several system prompts or versions among the newest entries."""
    found = prompts_by_kind(using, MOST_PROMPTED)
    return [_prompted(each, entries) for each in found if not each.is_of_one_form]


def _prompted(each: KindOfEntries, entries: Entries) -> Prompted:
    return Prompted(
        columns.link(entries({"kind": each.kind}), known(each.kind)),
        figures.count(len(each.prompts)),
        figures.count(len(each.versions)),
        count(each.others),
        money(each.others),
    )


def deployed(settings: Settings, page_of: Callable[[SchemaVersion], str], entries: Entries) -> list[Deployed]:
    """Return the lines of the last changes, what this process's code is yet to change first."""
    registered = _registered(settings)
    to_come = [_to_come(each, each.seen, page_of, entries) for each in registered if each.seen and each.differs]
    changes = schema_changes(settings.database, limit=SHOWN, most=MOST)
    return [*to_come, *(_changed(each, page_of, entries) for each in changes)]


def _registered(settings: Settings) -> list[Registered]:
    try:
        return registered_types(settings, most=MOST)
    except (ConfigurationError, UnsupportedType):
        # A check says so; what was recorded is shown all the same.
        return []


def _changed(change: SchemaChange, page_of: Callable[[SchemaVersion], str], entries: Entries) -> Deployed:
    return Deployed(
        columns.narrow_moment(change.version.first_seen_at),
        columns.link(page_of(change.version), known(change.version.response_type)),
        _number(change.left, entries, form_of(change.before)),
        money(change.left),
        _number(change.made, entries, form_of(change.version)),
        _still(change.before) if change.still_asked else "",
    )


def _to_come(
    each: Registered, seen: SchemaVersion, page_of: Callable[[SchemaVersion], str], entries: Entries
) -> Deployed:
    return Deployed(
        columns.badge(_("not asked for yet"), "warning"),
        columns.link(page_of(seen), known(each.response.name)),
        _number(each.left, entries, form_of(seen)),
        money(each.left),
        count(each.made),
        _("This process has another form of it than was asked for last."),
    )


def _number(live: Live, entries: Entries, form: Form) -> str | SafeString:
    name, fingerprint = form
    return columns.link(entries({"type": name, "schema": fingerprint}), count(live)) if live.entries else count(live)


def facts_of(version: SchemaVersion, before: SchemaVersion | None, entries: Entries, using: str) -> list[Fact]:
    """Return what there is of a version's entries, and what it has left of the one before."""
    mine = form_of(version)
    live = live_entries(using, [mine] if before is None else [mine, form_of(before)], most=MOST)
    name, fingerprint = mine
    facts = [
        Fact(_("entries"), columns.link(entries({"type": name, "schema": fingerprint}), _("Show its entries"))),
        Fact(_("not expired"), count(live[mine]), _("%(cost)s to make anew") % {"cost": money(live[mine])}),
    ]
    if before is None:
        return facts
    left = live[form_of(before)]
    note = _("%(cost)s to make anew; no call with this form finds them") % {"cost": money(left)}
    facts.append(Fact(_("left behind"), _number(left, entries, form_of(before)), note))
    if before.last_seen_at > version.first_seen_at:
        facts.append(Fact(_("the one before"), columns.badge(_("still asked for"), "warning"), _still(before)))
    return facts


def _still(before: SchemaVersion) -> str:
    return _("The form before was still asked for at %(moment)s.") % {"moment": columns.moment(before.last_seen_at)}


def count(live: Live) -> str:
    """Return how many there are, or the least it can be."""
    number = figures.count(live.entries)
    return _("at least %(number)s") % {"number": number} if live.more else number


def money(live: Live) -> str:
    """Return what they have cost, as far as that is known."""
    if live.entries and live.entries == live.unpriced:
        return figures.UNKNOWN
    cost = figures.money(live.cost_usd)
    if live.more:
        cost = _("at least %(number)s") % {"number": cost}
    if live.unpriced:
        return _("%(cost)s, and %(number)s of unknown cost") % {"cost": cost, "number": figures.count(live.unpriced)}
    return cost
