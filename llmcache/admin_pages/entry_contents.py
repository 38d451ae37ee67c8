"""The page with the answer and the request of an entry, for who may see them."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from llmcache.admin_pages import contents, entry_places
from llmcache.admin_pages.lists import LedgerAdmin, may
from llmcache.admin_pages.validity import Validity
from llmcache.engine import process
from llmcache.models import CacheEntry


class EntryContents(LedgerAdmin):
    """What an entry holds, shown once it was written down who has asked for it."""

    def has_reveal_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may see answers and requests."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.reveal_cacheentry")

    def own_urls(self) -> list[URLPattern]:
        """Add the address of revealing, which is only posted to."""
        view = self.admin_site.admin_view(require_POST(self.reveal_view))
        name = f"{self.opts.app_label}_{self.opts.model_name}_reveal"
        return [path("<path:object_id>/reveal/", view, name=name), *super().own_urls()]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Add whether this user may reveal what the entry holds."""
        return {
            **super().details(request, row),
            "can_reveal": self.has_reveal_permission(request, row),
            "reveal_address": self.address("reveal", row.pk),
        }

    @sensitive_variables()
    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return a page with the answer and the request, after it was written down who has asked for them."""
        if not self.has_reveal_permission(request):
            raise PermissionDenied
        entry: Any = self.get_object(request, unquote(object_id))
        if entry is None:
            # As Django does for the page of a row that is gone.
            django: Any = super()
            return django._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_reveal_permission(request, entry):
            raise PermissionDenied
        shown = self._contents(entry)
        self.log_change(
            request,
            entry,
            _("Revealed the answer and the request.")
            if shown.get("answer")
            else _("Asked to reveal; nothing was there."),
        )
        context = {
            **self.admin_site.each_context(request),
            **shown,
            "title": _("Answer and request"),
            "subtitle": str(entry),
            "opts": self.opts,
            "original": entry,
            "media": self.media,
            "address": self.address_of(entry),
        }
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        response = TemplateResponse(request, "admin/llmcache/cacheentry/reveal.html", context)
        add_never_cache_headers(response)
        return response

    @sensitive_variables()
    def _contents(self, entry: CacheEntry) -> dict[str, Any]:
        runtime, key = process.current(), contents.key_of(entry)
        if entry.namespace != runtime.namespace:
            return {"other_namespace": runtime.namespace}
        if key is None:
            return {"places": []}
        found = contents.read(runtime, key)
        view = Validity(runtime).view(entry)
        return {
            "places": [entry_places.told(each, entry, view) for each in found.places],
            "answer": None if found.answer is None else contents.readable(found.answer),
            "request_sent": None if found.request is None else contents.readable(found.request),
            "has_files": found.request is not None and contents.has_files(found.request),
        }
