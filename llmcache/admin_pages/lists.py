"""What the admins of the ledger's rows share: nothing is changed, and pages cost a fixed number of bounded queries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ERROR_FLAG, IGNORED_PARAMS, PAGE_VAR, ChangeList
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages.columns import Group
from llmcache.admin_pages.counting import BoundedPaginator
from llmcache.dashboard.outage import with_notice
from llmcache.engine import process
from llmcache.models import MAX_NAME, Invalidation

_HEX: Final = re.compile(r"[0-9a-f]+")
_AFTER_HEX: Final = "g"


class BoundedChangeList(ChangeList):
    """A list that knows its own filters and no other: an address cannot make it look for just anything."""

    page_num: int
    model_admin: Any

    def get_filters(self, request: HttpRequest) -> Any:
        """Return the filters of the address, after what is none of this list's was left out."""
        known = {*IGNORED_PARAMS, *self.model_admin.filter_names()}
        if not known.issuperset(self.filter_params):
            messages.warning(
                request,
                _("Part of the address is no filter of this list, and was left out."),
                fail_silently=True,
            )
        self.params = {name: value for name, value in self.params.items() if name in known}
        self.filter_params = {name: value for name, value in self.filter_params.items() if name in known}
        return super().get_filters(request)

    def get_results(self, request: HttpRequest) -> None:
        """Read the page; one that there is not is the nearest one."""
        super().get_results(request)
        self.page_num = self.paginator.validate_number(self.page_num)


class LedgerAdmin(admin.ModelAdmin):
    """Rows that are read and never changed. Works on any ``AdminSite``; links lead to what that very site has."""

    # Without fields there is no form: pages are made of `groups`.
    fields = ()
    actions = ()
    list_per_page = 50
    list_max_show_all = 200
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_select_related = False
    change_form_template = "admin/llmcache/row.html"

    class Media:
        css: ClassVar = {"all": ["llmcache/admin.css"]}

    def get_urls(self) -> list[URLPattern]:
        """Return the addresses, each with a notice in place of its page while a database cannot be asked."""
        urls = [*self.own_urls(), *super().get_urls()]
        for each in urls:
            each.callback = with_notice(each.callback)
        return urls

    def own_urls(self) -> list[URLPattern]:
        """Return what comes before Django's own addresses."""
        return []

    # What is not done

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Rows are written by the ledger alone."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """What happened stays as it was."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """A row that is deleted here would leave what other processes hold."""
        return False

    # Lists

    def database(self) -> str:
        """Return the alias of the ledger's database."""
        return process.current().settings.database

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        """Return the ledger's rows."""
        return super().get_queryset(request).using(self.database())

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:  # noqa: ARG002
        """Return what makes the list."""
        return BoundedChangeList

    def filter_names(self) -> list[str]:
        """Return the names of this list's filters in an address."""
        filters: Any = self.list_filter
        return [PAGE_VAR, ERROR_FLAG, *(each.parameter_name for each in filters)]

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        """Return the rows that a search finds by an index."""
        wanted = search_term.strip()
        return (self.found(request, queryset, wanted) if wanted else queryset), False

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return the rows that were searched for, which is not empty and has no NUL in it."""
        return queryset.none()

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the list, its count told as what it is."""
        response = super().changelist_view(request, extra_context)
        context: Any = getattr(response, "context_data", None) or {}
        if "cl" in context:
            context["selection_note_all"] = _("All %(count)s selected") % {"count": context["cl"].paginator.told}
        return response

    def response_action(self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any) -> HttpResponse | None:
        """Act on what was selected; what is no number is no row."""
        data = request.POST.copy()
        data.setlist(ACTION_CHECKBOX_NAME, selected_ids(data.getlist(ACTION_CHECKBOX_NAME)))
        request.POST = data  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        return super().response_action(request, queryset, *args, **kwargs)

    # Pages of one row

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of a row."""
        raise NotImplementedError

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return what else the page shows."""
        return {}

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Add the row's facts to its page."""
        if obj is not None:
            context |= {"groups": self.groups(request, obj), **self.details(request, obj)}
            context["invalidations"] = self.invalidations(request, obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    invalidate_label: Any = gettext_lazy("Invalidate…")

    def conditions(self, row: Any) -> dict[str, str]:  # noqa: ARG002
        """Return by which conditions the answers that a row is about can be invalidated; none where they cannot."""
        return {}

    def choices(self, row: Any) -> list[tuple[Any, dict[str, str]]]:
        """Return each way in which these can be invalidated, with what its button is called."""
        return [(self.invalidate_label, self.conditions(row))]

    def invalidations(self, request: HttpRequest, row: Any) -> list[dict[str, Any]]:
        """Return the buttons that lead to the form with a row's conditions, for who may invalidate."""
        if not self.may_invalidate(request):
            return []
        return [
            {"label": label, "address": self.address("add", query=told, of=Invalidation)}
            for label, told in self.choices(row)
            # What is that long may be cut, and would be another's name.
            if told and all(0 < len(value) < MAX_NAME for value in told.values())
        ]

    def may_invalidate(self, request: HttpRequest) -> bool:
        """Return whether this user may invalidate, on this site."""
        try:
            return self.admin_site.get_model_admin(Invalidation).has_add_permission(request)
        except NotRegistered:
            return False

    # Links

    def readable(self, request: HttpRequest, model: type[models.Model]) -> bool:
        """Return whether this user may see another model's rows on this site."""
        try:
            return self.admin_site.get_model_admin(model).has_view_permission(request)
        except NotRegistered:
            return False

    def address(self, name: str, *arguments: Any, query: Mapping[str, Any] | None = None, of: Any = None) -> str:
        """Return the address of a page of this site: ``changelist``, ``change``, or one of our own."""
        opts = (of or self.model)._meta
        path = reverse(
            f"admin:{opts.app_label}_{opts.model_name}_{name}", args=arguments, current_app=self.admin_site.name
        )
        return f"{path}?{urlencode(query)}" if query else path

    def address_of(self, row: models.Model) -> str:
        """Return the address of a row's page."""
        return self.address("change", quote(row.pk), of=type(row))


def may(request: HttpRequest, permission: str) -> bool:
    """Return whether this user has a permission, told as ``app.name``."""
    user: Any = request.user
    return user.has_perm(permission)


def as_hex(wanted: str) -> str | None:
    """Return a search as the beginning of a key, None for what cannot be one."""
    text = wanted.lower()
    return text if len(text) <= 64 and _HEX.fullmatch(text) else None


def beginning(field: str, text: str) -> models.Q:
    """Return the condition that a column of hex digits begins so, as a range of its index."""
    return models.Q(**{f"{field}__gte": text, f"{field}__lt": text + _AFTER_HEX})


def selected_ids(values: list[str]) -> list[str]:
    """Return those of the ids that a row can have."""
    return [value for value in values if value.isascii() and value.isdecimal() and len(value) < 19]
