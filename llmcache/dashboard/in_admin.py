"""The dashboard in an admin site: in the list of the app's models, at ``llmcache/dashboard/``."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _

from llmcache.dashboard.outage import View, with_notice
from llmcache.dashboard.views import json_answer, link_to_entries, page_context, seen_by_nobody_else


class DashboardAdmin(admin.ModelAdmin):
    """The dashboard in place of a list of rows. Works on any site: ``site.register(Dashboard, DashboardAdmin)``.

    Who may see it has the permission ``llmcache.view_dashboard``, which is that to view this model by its name.
    """

    def get_urls(self) -> list[URLPattern]:
        """Return the page's addresses and none of a model's: there is nothing to add or to change."""
        page, as_json = self._wrapped(self.dashboard_view), self._wrapped(self.json_view, as_json=True)
        return [
            path("", page, name="llmcache_dashboard"),
            # By this name the site's own pages link to it.
            path("", page, name="llmcache_dashboard_changelist"),
            path("dashboard.json", as_json, name="llmcache_dashboard_json"),
        ]

    def _wrapped(self, view: View, *, as_json: bool = False) -> View:
        return with_notice(self.admin_site.admin_view(seen_by_nobody_else(view)), as_json=as_json)

    def dashboard_view(self, request: HttpRequest) -> HttpResponse:
        """Return the page."""
        self._require_permission(request)
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        shown: dict[str, Any] = {
            **self.admin_site.each_context(request),
            **page_context(request, link_to_entries(request, self.admin_site.name)),
            "title": _("Dashboard"),
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/llmcache/dashboard.html", shown)

    def json_view(self, request: HttpRequest) -> HttpResponse:
        """Return the figures as JSON."""
        self._require_permission(request)
        return json_answer(request)

    def _require_permission(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def has_add_permission(self, *_: object, **__: object) -> bool:
        """There is nothing to add."""
        return False

    def has_change_permission(self, *_: object, **__: object) -> bool:
        """There is nothing to change."""
        return False

    def has_delete_permission(self, *_: object, **__: object) -> bool:
        """There is nothing to delete."""
        return False
