"""The dashboard and its JSON, for anybody who may see it; and what both homes of it share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from llmcache.dashboard.outage import View, with_notice
from llmcache.dashboard.page import LinkOf, context
from llmcache.money.overview import Overview, overview
from llmcache.money.periods import Period

PERMISSION = "llmcache.view_dashboard"
_ENTRIES = "llmcache.view_cacheentry"


def page_context(request: HttpRequest, link: LinkOf) -> dict[str, Any]:
    """Return what the page shows of the period and kind in the request's address."""
    seen, messages = _looked_up(request)
    return context(seen, messages, request.GET.dict(), link)


def json_answer(request: HttpRequest) -> JsonResponse:
    """Return the same figures as JSON, and under ``messages`` what of the address could not be used."""
    seen, messages = _looked_up(request)
    return JsonResponse({**seen.as_dict(), "messages": messages})


def link_to_entries(request: HttpRequest, site: str = "admin") -> LinkOf:
    """Return what makes links to entries in an admin site, of those that the user may see there."""
    user: Any = request.user
    may = user.is_staff and user.has_perm(_ENTRIES)

    def link(pk: int) -> str | None:
        try:
            return reverse("admin:llmcache_cacheentry_change", args=[pk], current_app=site) if may else None
        except NoReverseMatch:
            # A project without the admin.
            return None

    return link


def seen_by_nobody_else(view: View) -> View:
    """Return the view, answering GET and HEAD with what no cache may keep."""
    return require_safe(cache_control(private=True, no_store=True)(view))


def _looked_up(request: HttpRequest) -> tuple[Overview, list[str]]:
    period, messages = Period.parse(request.GET.dict())
    seen = overview(period, request.GET.get("kind") or None)
    if seen.kind and not seen.by_kind:
        messages.append(_("There are no calls of this kind in these days."))
    return seen, messages


def _for_users(view: Callable[[HttpRequest], HttpResponse], *, as_json: bool = False) -> View:
    """Return the view for who is logged in and may; others are sent to log in, or get a 403."""
    allowed = login_required(permission_required(PERMISSION, raise_exception=True)(view))
    return with_notice(seen_by_nobody_else(allowed), as_json=as_json)


def _dashboard(request: HttpRequest) -> HttpResponse:
    return render(request, "llmcache/dashboard.html", page_context(request, link_to_entries(request)))


dashboard = _for_users(_dashboard)
dashboard_json = _for_users(json_answer, as_json=True)
