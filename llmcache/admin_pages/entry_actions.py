"""What can be done with entries, from their list and from the page of one: invalidate, refresh, set the TTL.

Each is asked about on a page of its own, which says how many entries it is about and what they have cost, and is then
done for one entry after the other. What cannot be done for an entry is told with the reason, and stops no other.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache import rewriting
from llmcache.admin_pages import columns, whereabouts
from llmcache.admin_pages.action_forms import ActionForm
from llmcache.admin_pages.buttons import Button
from llmcache.admin_pages.columns import Fact, Group, number
from llmcache.admin_pages.entry_changes import ACTIONS, Outcome, carry_out
from llmcache.admin_pages.entry_page import EntryPage
from llmcache.admin_pages.lists import may, selected_ids
from llmcache.admin_pages.users import name_of
from llmcache.admin_pages.whereabouts import Look
from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.models import CacheEntry, ProviderCall
from llmcache.money.pricing import dollars
from llmcache.refusals import REASONS

_SENT: Final = "llmcache_acted"
"""Under which a session keeps which forms were sent."""
_MOST_SENT: Final = 20
_ONCE_BYTES: Final = 16


class EntryActions(EntryPage):
    """Entries that something can be done with."""

    # The page of one

    def buttons(self, request: HttpRequest, entry: CacheEntry) -> list[Button]:
        """Add those that ask for a new answer and for another time; greyed, with the reason, where it cannot be."""
        offered = {"refresh": gettext_lazy("Refresh…"), "retime": gettext_lazy("Change the TTL…")}
        allowed = {name: label for name, label in offered.items() if self._may_act(request, name)}
        found = super().buttons(request, entry)
        if not allowed:
            return found
        wrong = self._in_the_way(entry)
        return [
            *found,
            *(
                Button(name, label, self.address("act", name, query={"id": entry.pk}), REASONS.get(why or "", ""))
                for name, label in allowed.items()
                for why in (wrong[name],)
            ),
        ]

    def _in_the_way(self, entry: CacheEntry) -> dict[str, str | None]:
        runtime = process.current()
        entries = [place.entry for place in self._judged(entry)[0] if place.entry is not None]
        newest = max(entries, key=lambda each: (each.written_at, len(each.seen)), default=None)
        if newest is None:
            return rewriting.possible(entry, None)
        read = Look(partial(runtime.tiers.read_beside, newest))
        beside = read.answer(time.monotonic() + whereabouts.LOOK_SECONDS)
        held = rewriting.Held(newest) if beside is None else rewriting.Held(newest, *beside)
        return rewriting.possible(entry, held)

    # The list

    @admin.action(description=gettext_lazy("Invalidate…"), permissions=["invalidate"])
    def invalidate_selected(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse:
        """Ask whether to invalidate what was selected."""
        return self._asked(request, "invalidate", queryset)

    @admin.action(description=gettext_lazy("Refresh…"), permissions=["refresh"])
    def refresh_selected(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse:
        """Ask whether to refresh what was selected."""
        return self._asked(request, "refresh", queryset)

    @admin.action(description=gettext_lazy("Set the TTL…"), permissions=["retime"])
    def retime_selected(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse:
        """Ask which TTL to give to what was selected."""
        return self._asked(request, "retime", queryset)

    def has_invalidate_permission(self, request: HttpRequest) -> bool:
        """Return whether this user may invalidate entries that they can see."""
        return self._may_act(request, "invalidate")

    def has_refresh_permission(self, request: HttpRequest) -> bool:
        """Return whether this user may have entries asked for anew that they can see."""
        return self._may_act(request, "refresh")

    def has_retime_permission(self, request: HttpRequest) -> bool:
        """Return whether this user may change the TTL of entries that they can see."""
        return self._may_act(request, "retime")

    def _may_act(self, request: HttpRequest, name: str) -> bool:
        return self.has_view_permission(request) and may(request, ACTIONS[name].permission)

    # The page that asks

    def own_urls(self) -> list[URLPattern]:
        """Add the address of what is done with entries."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_act"
        return [path("act/<str:action>/", self.admin_site.admin_view(self.act_view), name=name), *super().own_urls()]

    def act_view(self, request: HttpRequest, action: str) -> HttpResponse:
        """Ask about one entry, or do what was confirmed."""
        if action not in ACTIONS:
            raise Http404
        if not self._may_act(request, action):
            raise PermissionDenied
        if request.method != "POST":
            return self._asked(request, action, self._chosen(request, request.GET.getlist("id")))
        rows = self._chosen(request, request.POST.getlist(ACTION_CHECKBOX_NAME))
        form = ACTIONS[action].form(request.POST)
        entries = list(rows[: ACTIONS[action].most + 1])
        self._require_visible(request, entries)
        if not entries or len(entries) > ACTIONS[action].most or not form.is_valid():
            return self._asked(request, action, rows, form)
        return self._done(request, action, entries, form)

    def _require_visible(self, request: HttpRequest, entries: Sequence[CacheEntry]) -> None:
        # A project's own admin may show some rows to somebody and others not.
        if not all(self.has_view_permission(request, entry) for entry in entries):
            raise PermissionDenied

    def _chosen(self, request: HttpRequest, ids: list[str]) -> models.QuerySet[Any]:
        return self.get_queryset(request).filter(pk__in=selected_ids(ids)).order_by("pk")

    def _asked(
        self, request: HttpRequest, name: str, rows: models.QuerySet[Any], form: ActionForm | None = None
    ) -> HttpResponse:
        action = ACTIONS[name]
        entries: list[CacheEntry] = list(rows[: action.most + 1])
        self._require_visible(request, entries)
        if not entries:
            self.message_user(request, _("None of these entries is there any more."), messages.WARNING)
            return HttpResponseRedirect(self.address("changelist"))
        is_one = len(entries) == 1
        context = {
            **self.admin_site.each_context(request),
            "title": action.title,
            "subtitle": str(entries[0]) if is_one else None,
            "opts": self.opts,
            "media": self.media,
            "about": action.about,
            "button": action.button,
            "groups": [Group(_("What it is about"), _about(entries))],
            "too_many": action.most if len(entries) > action.most else None,
            "ids": [entry.pk for entry in entries[: action.most]],
            "checkbox": ACTION_CHECKBOX_NAME,
            "once": secrets.token_hex(_ONCE_BYTES),
            "form": action.form() if form is None else form,
            "address": self.address("act", name),
            "listed": self.address("changelist"),
            "back": self.address_of(entries[0]) if is_one else self.address("changelist"),
        }
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        response = TemplateResponse(request, "admin/llmcache/cacheentry/act.html", context)
        add_never_cache_headers(response)
        return response

    # What was confirmed

    def _done(
        self, request: HttpRequest, name: str, entries: Sequence[CacheEntry], form: ActionForm
    ) -> HttpResponseRedirect:
        action, outcome = ACTIONS[name], Outcome()
        back = self.address_of(entries[0]) if len(entries) == 1 else self.address("changelist")
        if self._was_sent_before(request):
            self.message_user(request, _("It was done already."), messages.WARNING)
            return HttpResponseRedirect(back)
        for entry in carry_out(action, entries, form, name_of(request), outcome):
            self.log_change(request, entry, str(action.history))
        self.message_user(request, outcome.told(action), outcome.level)
        return HttpResponseRedirect(back)

    def _was_sent_before(self, request: HttpRequest) -> bool:
        """Return whether this very form has been sent already: a second click must not pay a second time."""
        once = request.POST.get("once", "")[: 2 * _ONCE_BYTES]
        sent: list[str] = request.session.get(_SENT, [])
        if once in sent:
            return True
        if once:
            request.session[_SENT] = [*sent, once][-_MOST_SENT:]
            # Before anything is done, for that takes its time.
            request.session.save()
        return False


def _about(entries: Sequence[CacheEntry]) -> list[Fact]:
    costs = [entry.cost_pico_usd for entry in entries if entry.cost_pico_usd is not None]
    unknown = len(entries) - len(costs)
    note = _("as much as it is likely to cost to ask for them anew")
    if unknown:
        note = _("%(note)s; not known of %(count)s") % {"note": note, "count": number(unknown)}
    cost = figures.money(dollars(sum(costs))) if costs else columns.UNKNOWN
    facts = [Fact(_("entries"), number(len(entries))), Fact(_("what they have cost"), cost, note)]
    return [*facts, _time(entries[0])] if len(entries) == 1 else facts


def _time(entry: CacheEntry) -> Fact:
    """Return how long an entry is still good for, and how old it may get for who has asked for it."""
    calls = ProviderCall.objects.using(process.current().settings.database).filter(call_id=entry.call_id)
    asked = None if entry.call_id is None else calls.values_list("ttl_seconds", flat=True).first()
    span = "" if asked is None else columns.span(timedelta(seconds=asked))
    note = _("it was asked for with a TTL of %(span)s") % {"span": span} if span else ""
    return Fact(_("TTL left"), columns.ttl_left(entry), note)
