"""Provider calls: each attempt that left for a provider, and what became of it."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import Fact, Group, known, number
from llmcache.admin_pages.lists import LedgerAdmin, as_hex, beginning
from llmcache.models import MAX_NAME, CacheEntry, ProviderCall, SchemaVersion
from llmcache.money.facts import cut
from llmcache.money.pricing import dollars


class ProviderCallAdmin(LedgerAdmin):
    """Attempts, the newest first."""

    list_display = (
        *("started_column", "kind_column", "outcome_column", "cost_column", "tokens_column"),
        *("latency_column", "attempt_column", "tenant_column"),
    )
    list_filter = (filters.Outcome, filters.Kind, filters.Model, filters.Reason, filters.Simulated)
    search_fields = ("key",)
    search_help_text = gettext_lazy("The beginning of a key, a call id, or the provider's request id.")

    @admin.display(description=gettext_lazy("started"), ordering="started_at")
    def started_column(self, call: ProviderCall) -> str:
        """Return when it left."""
        return columns.narrow_moment(call.started_at)

    @admin.display(description=gettext_lazy("kind and model"))
    def kind_column(self, call: ProviderCall) -> SafeString:
        """Return the kind and the model that was asked."""
        return columns.two_lines(known(call.kind), known(call.model))

    @admin.display(description=gettext_lazy("tenant"))
    def tenant_column(self, call: ProviderCall) -> str:
        """Return the tenant."""
        return known(call.tenant)

    @admin.display(description=gettext_lazy("outcome"))
    def outcome_column(self, call: ProviderCall) -> SafeString:
        """Return what became of it."""
        return columns.outcome_badge(call)

    @admin.display(description=gettext_lazy("cost"))
    def cost_column(self, call: ProviderCall) -> str:
        """Return what it cost."""
        return columns.figures.money(call.cost_usd)

    @admin.display(description=gettext_lazy("tokens"))
    def tokens_column(self, call: ProviderCall) -> str:
        """Return how many tokens it consumed, of all classes that are known."""
        classes = (call.input_tokens, call.cache_read_tokens, call.cache_write_tokens, call.output_tokens)
        return number(None if all(each is None for each in classes) else sum(each or 0 for each in classes))

    @admin.display(description=gettext_lazy("latency"))
    def latency_column(self, call: ProviderCall) -> str:
        """Return how long it took."""
        return columns.milliseconds(call.latency_ms)

    @admin.display(description=gettext_lazy("attempt"))
    def attempt_column(self, call: ProviderCall) -> str:
        """Return which attempt of its call it was."""
        return number(call.attempt)

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return calls by the beginning of their key, their own id, or the provider's."""
        condition = models.Q(request_id=cut(wanted, MAX_NAME))
        if (text := as_hex(wanted)) is not None:
            condition |= beginning("key", text)
        with contextlib.suppress(ValueError):
            condition |= models.Q(call_id=UUID(wanted))
        return queryset.filter(condition)

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of a call."""
        call: ProviderCall = row
        return [
            Group(_("What was asked"), self._asked(request, call)),
            Group(_("What became of it"), _outcome(call)),
            Group(_("What it cost"), _cost(call)),
        ]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Add the way to the page that tells why it was made."""
        if not self.readable(request, CacheEntry):
            return super().details(request, row)
        address = self.address("why", query={"call": row.pk}, of=CacheEntry)
        return {**super().details(request, row), "why_address": address}

    def _ahead(self, call: ProviderCall) -> str:
        """Return what it was made for while nobody waited for it."""
        known_words = {"refresh": _("by a refresh"), "warming": _("by warming")}
        return known_words.get(call.ahead, "")

    def _asked(self, request: HttpRequest, call: ProviderCall) -> list[Fact]:
        return [
            Fact(_("started"), columns.moment(call.started_at), columns.ago(call.started_at)),
            Fact(_("kind"), known(call.kind)),
            Fact(_("response type"), known(call.response_type)),
            Fact(_("schema"), self._schema(request, call)),
            Fact(_("model asked"), known(call.model)),
            Fact(_("tenant"), known(call.tenant)),
            Fact(_("why it was asked"), filters.reason_label(call.reason), self._ahead(call)),
            Fact(_("attempt"), number(call.attempt)),
            Fact(_("answer was to be stored"), _("yes") if call.to_store else _("no")),
            Fact(_("key"), columns.code(call.key)),
            Fact(_("entry"), self._entries(request, call)),
            Fact(_("call id"), columns.code(str(call.call_id))),
        ]

    def _schema(self, request: HttpRequest, call: ProviderCall) -> str:
        if not call.schema:
            return known("")
        shown = columns.short(call.schema)
        if not self.readable(request, SchemaVersion):
            return shown
        versions = SchemaVersion.objects.using(self.database())
        version = versions.filter(response_type=call.response_type, fingerprint=call.schema).only("pk").first()
        return shown if version is None else columns.link(self.address_of(version), shown)

    def _entries(self, request: HttpRequest, call: ProviderCall) -> str:
        if not self.readable(request, CacheEntry):
            return columns.UNKNOWN
        rows = CacheEntry.objects.using(self.database()).filter(key=call.key).order_by("-written_at", "-pk")
        return columns.chips((self.address_of(entry), str(entry)) for entry in rows.only("pk", "kind", "key")[:5])


def _outcome(call: ProviderCall) -> list[Fact]:
    facts = [
        Fact(_("outcome"), columns.outcome_badge(call)),
        Fact(_("ended"), columns.moment(call.ended_at)),
        Fact(_("latency"), columns.milliseconds(call.latency_ms)),
        *_failure(call),
        Fact(_("finish reason"), known(call.finish_reason)),
        Fact(_("refused"), _("yes") if call.refused else _("no")),
        Fact(_("model that answered"), known(call.answered_model)),
        Fact(_("provider's request id"), columns.code(call.request_id) if call.request_id else known("")),
    ]
    if call.simulated:
        facts.append(Fact(_("clock"), columns.badge(_("simulated"), "warning")))
    return facts


def _failure(call: ProviderCall) -> list[Fact]:
    """Return what went wrong; of an answer that is good nothing is said."""
    facts: list[Fact] = []
    if call.status is not None:
        facts.append(Fact(_("HTTP status"), number(call.status)))
    if call.error:
        facts.append(Fact(_("error"), call.error))
    if call.error_types:
        facts.append(Fact(_("types of errors"), columns.chips((None, str(each)) for each in call.error_types)))
    return facts


def _cost(call: ProviderCall) -> list[Fact]:
    facts = [
        Fact(_("cost"), columns.exact_money(call.cost_usd)),
        Fact(_("price"), known(call.price_id)),
        Fact(_("source of the price"), known(call.price_source)),
        *columns.token_facts(call),
    ]
    if call.outcome in (ProviderCall.Outcome.UNDER_WAY, ProviderCall.Outcome.IN_DOUBT):
        bound = columns.exact_money(dollars(call.bound_pico_usd))
        facts.insert(1, Fact(_("bound"), bound, _("the most that it can have cost")))
    return facts
