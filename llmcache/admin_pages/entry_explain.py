"""The page “Why did this miss?”: a key's entry or call beside the entry that is nearest to it."""

from __future__ import annotations

from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _

from llmcache.admin_pages import columns, explained
from llmcache.admin_pages.columns import Fact, known, number
from llmcache.admin_pages.entry_page import EntryPage
from llmcache.admin_pages.explained import Sentence
from llmcache.admin_pages.lists import as_hex, beginning, selected_ids
from llmcache.admin_pages.schemas import shown_change
from llmcache.engine import process
from llmcache.explaining.nearest import Comparison, Neighbours, Side, find, side_of_attempt, side_of_row
from llmcache.models import CacheEntry, Invalidation, ProviderCall
from llmcache.schema_history.changes import MAX_CHANGES

MOST_KEYS: Final = 20
"""Keys that a page offers where more than one begins as was asked."""


class EntryExplain(EntryPage):
    """Entries with a page that tells why a request was not answered by one."""

    def own_urls(self) -> list[URLPattern]:
        """Add the address of the page."""
        view = self.admin_site.admin_view(self.explain_view)
        return [path("why/", view, name=f"{self.opts.app_label}_{self.opts.model_name}_why"), *super().own_urls()]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Add the way to the page."""
        return {**super().details(request, row), "why_address": self.address("why", query={"key": row.key})}

    def explain_view(self, request: HttpRequest) -> HttpResponse:
        """Return the page for the key, or the call, that the address names."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        wanted = request.GET.get("key", "").strip()
        call = self._call(request, request.GET.get("call", ""))
        text = call.key if call is not None else as_hex(wanted)
        context: dict[str, Any] = {"wanted": wanted if call is None else call.key}
        if text:
            keys = [text] if call is not None or len(text) == len("0" * 64) else self._keys(request, text)
            context |= self._explained(request, keys[0], call) if len(keys) == 1 else {"choices": self._choices(keys)}
            context["is_unknown"] = not keys
        elif wanted:
            context["is_no_key"] = True
        return self._why_page(request, context)

    def _call(self, request: HttpRequest, number: str) -> ProviderCall | None:
        if not selected_ids([number]) or not self.readable(request, ProviderCall):
            return None
        return ProviderCall.objects.using(self.database()).filter(pk=number).first()

    def _keys(self, request: HttpRequest, text: str) -> list[str]:
        """Return the keys of entries, and of calls, that begin so."""
        found: set[str] = set()
        for model in (CacheEntry, ProviderCall):
            if not self.readable(request, model):
                continue
            begun = model._default_manager.using(self.database()).filter(beginning("key", text)).order_by("key")
            found.update(begun.values_list("key", flat=True).distinct()[: MOST_KEYS + 1])
        return sorted(found)

    def _choices(self, keys: list[str]) -> list[dict[str, str]]:
        return [{"key": key, "address": self.address("why", query={"key": key})} for key in keys[:MOST_KEYS]]

    def _explained(self, request: HttpRequest, key: str, call: ProviderCall | None) -> dict[str, Any]:
        entry = self._entry(key)
        newest = call or self._newest(request, key)
        if entry is None and newest is None:
            return {"is_unknown": True}
        side = side_of_row(entry) if entry is not None else side_of_attempt(newest)  # pyright: ignore[reportArgumentType]
        here = process.current().namespace if entry is None else entry.namespace
        near = find(side, self.database(), here, all_tenants=True)
        return {
            "original": entry,
            "key": key,
            "sentence": self._sentence(entry, call or (newest if entry is None else None)),
            "facts": self._facts(request, entry, newest),
            **({} if entry is None else self._places(entry)),
            **self._beside(side, near),
        }

    def _entry(self, key: str) -> CacheEntry | None:
        rows = list(CacheEntry.objects.using(self.database()).filter(key=key)[:MOST_KEYS])
        here = process.current().namespace
        return min(rows, key=lambda row: (row.namespace != here, -row.pk), default=None)

    def _newest(self, request: HttpRequest, key: str) -> ProviderCall | None:
        return self._calls_of(key).first() if self.readable(request, ProviderCall) else None

    def _calls_of(self, key: str) -> Any:
        return ProviderCall.objects.using(self.database()).filter(key=key).order_by("-started_at", "-pk")

    def _sentence(self, entry: CacheEntry | None, call: ProviderCall | None) -> Sentence | None:
        if call is not None:
            before = self._calls_of(call.key).filter(to_store=True, started_at__lt=call.started_at).first()
            return explained.of_attempt(call, before, has_entry=entry is not None)
        if entry is None:
            return None
        if entry.namespace != process.current().namespace:
            told = _("It belongs to another name space: this process cannot tell where it lies.")
            return Sentence(_("not known"), "quiet", told)
        return explained.of_entry(entry, *self._judged(entry))

    def _facts(self, request: HttpRequest, entry: CacheEntry | None, call: ProviderCall | None) -> list[Fact]:
        facts = []
        if entry is not None:
            shown = columns.link(self.address_of(entry), str(entry))
            facts.append(Fact(_("entry"), shown, _("written %(span)s") % {"span": columns.ago(entry.written_at)}))
            # Its state is in the sentence.
            facts += self._state(request, entry)[1:]
        if call is not None:
            shown = columns.link(self.address_of(call), columns.moment(call.started_at))
            facts.append(Fact(_("provider call"), shown, columns.outcome_label(call.outcome)))
        return facts

    def _beside(self, side: Side, near: Neighbours) -> dict[str, Any]:
        nearest = near.nearest
        if nearest is None:
            return {"nearest": None}
        changes = next((each.changes for each in nearest.differences if each.component == "schema"), ())
        return {
            "nearest": self._named(nearest),
            "same_content": near.is_same_content,
            "of_kind": number(near.of_kind),
            "is_more": near.is_more,
            "rows": explained.table(side, nearest),
            "changes": [shown_change(each) for each in changes],
            "cut": len(changes) >= MAX_CHANGES,
            "others": [self._named(each) for each in near.others],
        }

    def _named(self, comparison: Comparison) -> dict[str, Any]:
        row = comparison.row
        return {
            "address": self.address_of(row),
            "name": str(row),
            "kind": known(row.kind),
            "model": known(row.model),
            "tenant": known(row.tenant),
            "written": columns.ago(row.written_at),
            "hits": number(row.hits),
            "differs": explained.named(comparison),
        }

    def _why_page(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        shared = {
            "title": _("Why did this miss?"),
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            "can_see_invalidations": self.readable(request, Invalidation),
        }
        whole = {**self.admin_site.each_context(request), **shared, **context}
        response = TemplateResponse(request, "admin/llmcache/cacheentry/why.html", whole)
        add_never_cache_headers(response)
        return response
