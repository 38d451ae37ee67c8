"""The page of one cache entry: what it is, what it cost and saved, where it lies now, and who was asked for it."""

from __future__ import annotations

from typing import Any, Final

from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns, contents, entry_places, filters
from llmcache.admin_pages.buttons import Button
from llmcache.admin_pages.columns import Fact, Group, known, number
from llmcache.admin_pages.entry_list import TAG
from llmcache.admin_pages.lists import LedgerAdmin
from llmcache.admin_pages.schemas import pretty
from llmcache.admin_pages.validity import Validity
from llmcache.admin_pages.whereabouts import Whereabouts, find
from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.engine.log_copy import View
from llmcache.models import CacheEntry, Invalidation, ProviderCall, SchemaVersion

CALLS_SHOWN: Final = 20


class EntryPage(LedgerAdmin):
    """One entry with all that is known of it."""

    change_form_template = "admin/llmcache/cacheentry/row.html"
    invalidate_label = gettext_lazy("Invalidate…")

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of an entry."""
        entry: CacheEntry = row
        return [
            Group(_("What it is"), self._what(request, entry)),
            Group(_("Time"), [*self._state(request, entry), *_when(entry)]),
            Group(_("What it cost"), _cost(entry)),
            Group(_("What it saved"), _saving(entry)),
        ]

    def _what(self, request: HttpRequest, entry: CacheEntry) -> list[Fact]:
        schema = columns.short(entry.schema) if entry.schema else known("")
        tags = [(self.address("changelist", query={"q": f"{TAG}{tag}"}), str(tag)) for tag in entry.tags or ()]
        return [
            Fact(_("key"), columns.code(entry.key)),
            Fact(_("kind"), columns.link(self.address("changelist", query={"kind": entry.kind}), entry.kind)),
            Fact(_("response type"), known(entry.response_type)),
            Fact(_("schema"), columns.link(self._schema_address(request, entry), schema)),
            Fact(_("model asked"), known(entry.model)),
            Fact(_("model that answered"), known(entry.answered_model)),
            Fact(_("tenant"), known(entry.tenant)),
            Fact(_("subject's hash"), columns.code(entry.subject_hash) if entry.subject_hash else known("")),
            Fact(_("tags"), columns.chips(tags)),
            Fact(_("source"), known(entry.source)),
            Fact(_("size"), columns.size(entry.size_bytes)),
            Fact(_("name space"), columns.code(entry.namespace)),
        ]

    def _state(self, request: HttpRequest, entry: CacheEntry) -> list[Fact]:
        """Return what it is good for, and what has made it void."""
        row = self._judged(entry)[1]
        badge = columns.state_badge(entry, void=row is not None)
        if row is None:
            return [Fact(_("state"), badge)]
        by = _("%(span)s, by %(user)s") % {"span": columns.ago(row.made_at), "user": known(row.made_by)}
        address = self.address_of(row) if self.readable(request, Invalidation) else None
        return [Fact(_("state"), badge), Fact(_("invalidated"), columns.link(address, by), row.reason)]

    def _judged(self, entry: CacheEntry) -> tuple[list[Whereabouts], Invalidation | None, View]:
        """Return where an entry lies, what makes it void, and the rows in force for it; looked for once for a page."""
        found: Any = getattr(entry, "_found", None)
        if found is None:
            runtime, key = process.current(), contents.key_of(entry)
            is_ours = key is not None and entry.namespace == runtime.namespace
            places = find(runtime, key) if is_ours and key else []
            validity = Validity(runtime)
            # What the tiers hold of this very writing tells it exactly.
            held = [each.entry for each in places if each.entry and entry_places.is_of_row(each.entry, entry)]
            # Another process may have changed it: then memory has the shorter list.
            row = validity.void_by(entry, max((each.seen for each in held), key=len, default=None))
            found = places, row, validity.view(entry)
            entry._found = found  # type: ignore[attr-defined]
        return found

    def buttons(self, request: HttpRequest, entry: CacheEntry) -> list[Button]:
        """Return what this user can do with an entry, in the order in which it is offered."""
        label = self.invalidate_label
        return [Button("invalidate", label, each["address"]) for each in super().invalidations(request, entry)]

    def invalidations(self, request: HttpRequest, row: Any) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return none: they are among the buttons."""
        return []

    def conditions(self, row: Any) -> dict[str, str]:
        """Return the key."""
        entry: CacheEntry = row
        is_ours = entry.namespace == process.current().namespace and contents.key_of(entry) is not None
        return {"key": entry.key} if is_ours else {}

    def _schema_address(self, request: HttpRequest, entry: CacheEntry) -> str | None:
        version = self._schema_of(request, entry)
        return None if version is None else self.address_of(version)

    def _schema_of(self, request: HttpRequest, entry: CacheEntry) -> SchemaVersion | None:
        if not self.readable(request, SchemaVersion):
            return None
        found: Any = getattr(entry, "_schema_version", self)
        if found is self:
            versions = SchemaVersion.objects.using(self.database())
            found = versions.filter(response_type=entry.response_type, fingerprint=entry.schema).first()
            entry._schema_version = found  # type: ignore[attr-defined]
        return found

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return where the entry lies, its calls and its schema."""
        entry: CacheEntry = row
        version = self._schema_of(request, entry)
        return {
            **self._places(entry),
            **self._calls(request, entry),
            # Those that lead somewhere come first.
            "buttons": sorted(self.buttons(request, entry), key=lambda each: bool(each.reason)),
            "schema_version": version,
            "schema_address": None if version is None else self.address_of(version),
            "schema_text": None if version is None else pretty(version.schema),
        }

    def _places(self, entry: CacheEntry) -> dict[str, Any]:
        here = process.current().namespace
        if entry.namespace != here:
            return {"places": [], "other_namespace": here}
        places, _row, view = self._judged(entry)
        return {"places": [entry_places.told(each, entry, view) for each in places]}

    def _calls(self, request: HttpRequest, entry: CacheEntry) -> dict[str, Any]:
        if not self.readable(request, ProviderCall):
            return {"calls": None}
        rows = ProviderCall.objects.using(self.database()).filter(key=entry.key).order_by("-started_at", "-pk")
        calls = list(rows[: CALLS_SHOWN + 1])
        shown = [
            {
                "address": self.address_of(call),
                "started": columns.moment(call.started_at),
                "outcome": columns.outcome_badge(call),
                "reason": filters.reason_label(call.reason),
                "cost": figures.money(call.cost_usd),
                "latency": columns.milliseconds(call.latency_ms),
                "price": known(call.price_id),
                "made_this": call.call_id == entry.call_id,
            }
            for call in calls[:CALLS_SHOWN]
        ]
        more = self.address("changelist", query={"q": entry.key}, of=ProviderCall)
        return {"calls": shown, "more_calls": more if len(calls) > CALLS_SHOWN else None}


def _when(entry: CacheEntry) -> list[Fact]:
    expires = known("") if entry.expires_at is None else columns.moment(entry.expires_at)
    facts = [
        Fact(_("written"), columns.moment(entry.written_at), columns.ago(entry.written_at)),
        Fact(_("expires"), expires, _("TTL left: %(span)s") % {"span": columns.ttl_left(entry)}),
    ]
    if entry.simulated:
        facts.append(Fact(_("clock"), columns.badge(_("simulated"), "warning")))
    return facts


def _cost(entry: CacheEntry) -> list[Fact]:
    return [
        Fact(_("cost"), columns.exact_money(entry.cost_usd), _("all attempts included")),
        Fact(_("attempts"), number(entry.attempts)),
        Fact(_("latency"), columns.milliseconds(entry.latency_ms)),
        *columns.token_facts(entry),
    ]


def _saving(entry: CacheEntry) -> list[Fact]:
    return [
        Fact(_("hits"), number(entry.hits)),
        Fact(
            _("last hit"),
            columns.moment(entry.last_hit_at),
            "" if entry.last_hit_at is None else columns.ago(entry.last_hit_at),
        ),
        Fact(_("saved"), columns.exact_money(columns.saved_usd(entry))),
    ]
