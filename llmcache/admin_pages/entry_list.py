"""The list of cache entries: its columns, its filters, and what a search finds."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import known, number
from llmcache.admin_pages.lists import LedgerAdmin, as_hex, beginning
from llmcache.admin_pages.validity import Validity
from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.models import MAX_NAME, CacheEntry, EntryTag
from llmcache.money.facts import cut

TAG: Final = "tag:"
"""Before a tag that is searched for."""
_KEY: Final = "key:"
SURE_HEX: Final = 12
"""Hex digits from which on a search can hardly mean a tag."""


class EntryList(LedgerAdmin):
    """Entries as rows of a list."""

    list_display = (
        *("key_column", "kind_column", "ttl_left_column", "saved_column", "hits_column", "age_column"),
        "tenant_column",
    )
    list_filter = (
        *(filters.State, filters.Kind, filters.Model, filters.Tenant, filters.ResponseType, filters.Schema),
        filters.Simulated,
    )
    # Which columns are read is for `found` to say.
    search_fields = ("key",)
    search_help_text = gettext_lazy("The beginning of a key, or a whole tag; tag:… and key:… say which.")

    @admin.display(description=gettext_lazy("key"))
    def key_column(self, entry: CacheEntry) -> SafeString:
        """Return the beginning of the key."""
        return columns.short(entry.key, columns.NARROW_KEY)

    @admin.display(description=gettext_lazy("kind and model"))
    def kind_column(self, entry: CacheEntry) -> SafeString:
        """Return the kind and the model that was asked."""
        return columns.two_lines(known(entry.kind), known(entry.model))

    @admin.display(description=gettext_lazy("tenant"))
    def tenant_column(self, entry: CacheEntry) -> str:
        """Return the tenant."""
        return known(entry.tenant)

    @admin.display(description=gettext_lazy("age"), ordering="-written_at")
    def age_column(self, entry: CacheEntry) -> str:
        """Return how long ago it was written."""
        return columns.span(entry.age)

    @admin.display(description=gettext_lazy("TTL left"), ordering="expires_at")
    def ttl_left_column(self, entry: CacheEntry) -> SafeString:
        """Return what it is good for, and how long it can still be served."""
        void = getattr(entry, "_is_void", False)
        return columns.two_lines(columns.state_badge(entry, void=void), columns.ttl_left(entry))

    @admin.display(description=gettext_lazy("hits"))
    def hits_column(self, entry: CacheEntry) -> str:
        """Return how often it has answered."""
        return number(entry.hits)

    @admin.display(description=gettext_lazy("saved"), ordering="saved_pico_usd")
    def saved_column(self, entry: CacheEntry) -> str:
        """Return what its hits have avoided."""
        return figures.money(columns.saved_usd(entry))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the list, with what is void told by one more statement for all its rows."""
        response = super().changelist_view(request, extra_context)
        context: Any = getattr(response, "context_data", None) or {}
        if "cl" in context:
            entries = list(context["cl"].result_list)
            void = Validity(process.current()).void(entries)
            for entry in entries:
                entry._is_void = entry.pk in void
        return response

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return entries by the beginning of the key, or by tag."""
        if wanted.lower().startswith(_KEY):
            text = as_hex(wanted[len(_KEY) :].strip())
            return queryset.none() if text is None else queryset.filter(beginning("key", text))
        if wanted.lower().startswith(TAG):
            return self._tagged(queryset, wanted[len(TAG) :].strip())
        text = as_hex(wanted)
        if text is None or (len(text) < SURE_HEX and self._is_tag(wanted)):
            return self._tagged(queryset, wanted)
        return queryset.filter(beginning("key", text))

    def _is_tag(self, word: str) -> bool:
        return EntryTag.objects.using(self.database()).filter(tag=word).exists()

    def _tagged(self, queryset: models.QuerySet[Any], tag: str) -> models.QuerySet[Any]:
        entries = EntryTag.objects.using(queryset.db).filter(tag=cut(tag, MAX_NAME)).values("entry_id")
        return queryset.filter(pk__in=entries)
