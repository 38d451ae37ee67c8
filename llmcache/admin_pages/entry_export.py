"""Exporting entries from their list: asked for, written down, and sent as a stream of JSON lines."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from llmcache.admin_pages.columns import number
from llmcache.admin_pages.entry_contents import EntryContents
from llmcache.admin_pages.entry_list import SURE_HEX
from llmcache.admin_pages.exports import Export, as_async
from llmcache.admin_pages.lists import may, selected_ids
from llmcache.engine import process


class EntryExport(EntryContents):
    """Entries that are carried away, with what they hold for who may see it."""

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Return whether this user may export entries."""
        return self.has_view_permission(request) and may(request, "llmcache.export_cacheentry")

    def own_urls(self) -> list[URLPattern]:
        """Add the address of the export, which is only posted to."""
        view = self.admin_site.admin_view(require_POST(self.export_view))
        return [path("export/", view, name=f"{self.opts.app_label}_{self.opts.model_name}_export"), *super().own_urls()]

    @admin.action(description=gettext_lazy("Export as JSON lines…"), permissions=["export"])
    def export(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse:  # noqa: ARG002
        """Ask whether to export what was selected."""
        across = request.POST.get("select_across") == "1"
        ids = [] if across else request.POST.getlist(ACTION_CHECKBOX_NAME)
        told: str = self.get_changelist_instance(request).paginator.told if across else number(len(ids))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Export cache entries"),
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            "told": told,
            "across": across,
            "ids": ids,
            "checkbox": ACTION_CHECKBOX_NAME,
            "action": self.address("export", query=dict(request.GET.items())),
            "back": request.get_full_path(),
            "can_reveal": self.has_reveal_permission(request),
        }
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        return TemplateResponse(request, "admin/llmcache/cacheentry/export.html", context)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return the entries that were selected, or all that the address filters, as a stream of JSON lines."""
        with_contents = "with_contents" in request.POST
        if not self.has_export_permission(request) or (with_contents and not self.has_reveal_permission(request)):
            raise PermissionDenied
        wanted: int | None = None
        changelist: Any = self.get_changelist_instance(request)
        rows: Any = changelist.queryset
        if request.POST.get("select_across") != "1":
            ids = selected_ids(request.POST.getlist(ACTION_CHECKBOX_NAME))
            wanted, rows = len(set(ids)), rows.filter(pk__in=ids)
            if not ids:
                self.message_user(request, _("No entries were selected, and none exported."), messages.WARNING)
                return HttpResponseRedirect(self.address("changelist"))
        export = Export(rows, process.current() if with_contents else None)
        log = self._log_export(request, with_contents)
        return _download(request, _logged(export, log, wanted))

    def _log_export(self, request: HttpRequest, with_contents: bool) -> LogEntry:
        """Write down that an export begins: what becomes of it is added at its end, if it comes to one."""
        begun = _("Began to export with answers and requests.") if with_contents else _("Began to export.")
        user: Any = request.user
        return LogEntry.objects.create(
            user_id=user.pk,
            content_type_id=ContentType.objects.get_for_model(self.model).pk,
            object_id=None,
            object_repr=str(self.opts.verbose_name_plural),
            action_flag=CHANGE,
            change_message=begun,
        )


def _download(request: HttpRequest, parts: Generator[bytes]) -> StreamingHttpResponse:
    name = f"cache-entries-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl"
    stream: Any = as_async(parts) if isinstance(request, ASGIRequest) else parts
    response = StreamingHttpResponse(stream, content_type="application/x-ndjson")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    add_never_cache_headers(response)
    return response


def _logged(export: Export, log: LogEntry, wanted: int | None) -> Generator[bytes]:
    """Write an export, and at its end, also where it is broken off, what it came to."""
    whole = False
    try:
        yield from export.parts()
        whole = True
    finally:
        log.change_message = _told(export, wanted, whole=whole)
        log.save(update_fields=["change_message"])


def _told(export: Export, wanted: int | None, *, whole: bool) -> str:
    done = _("Exported as JSON lines: %(count)s entries.") % {"count": number(export.written)}
    parts = [done]
    if not whole:
        parts.append(_("Broken off."))
    elif wanted is not None and wanted > export.written:
        parts.append(_("Selected and gone meanwhile: %(count)s.") % {"count": number(wanted - export.written)})
    if export.runtime is not None:
        keys = ", ".join(key[:SURE_HEX] for key in export.keys)
        more = export.revealed - len(export.keys)
        parts.append(_("With answers and requests: %(count)s.") % {"count": number(export.revealed)})
        if keys:
            parts.append(
                _("Keys: %(keys)s") % {"keys": keys}
                + (_(", and %(count)s more.") % {"count": number(more)} if more else ".")
            )
    return " ".join(parts)
