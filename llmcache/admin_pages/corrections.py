"""Corrections and pins: the list, and the page of one, where it is withdrawn. They are made on an entry's page."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.cache import add_never_cache_headers
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST
from pydantic import ValidationError

from llmcache import corrections
from llmcache.admin_pages import columns, contents, filters
from llmcache.admin_pages.columns import Fact, Group, known
from llmcache.admin_pages.lists import LedgerAdmin, as_hex, beginning, may
from llmcache.admin_pages.users import name_of
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.models import CacheEntry, Correction, Invalidation
from llmcache.money.pricing import dollars

_WORDS = 80
"""Characters of a note in a list."""


class CorrectionAdmin(LedgerAdmin):
    """What people have answered, the newest first. Rows are made from an entry's page and withdrawn here."""

    list_display = ("made_column", "key_column", "kind_column", "state_column", "note_column", "made_by_column")
    list_filter = (filters.Standing, filters.Kind, filters.Tenant)
    list_select_related = ("invalidation",)
    search_fields = ("key",)
    search_help_text = gettext_lazy("The beginning of a key.")
    change_form_template = "admin/llmcache/correction/row.html"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """There is no form without an entry."""
        return False

    def has_withdraw_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may withdraw what they can see."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.withdraw_correction")

    def has_reveal_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may see answers."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.reveal_cacheentry")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        """Return the rows, each with its line of the log: nothing is loaded later, from where routers say."""
        return super().get_queryset(request).select_related("invalidation")

    # The list

    @admin.display(description=gettext_lazy("made"))
    def made_column(self, row: Correction) -> str:
        """Return when it was made."""
        return columns.narrow_moment(row.made_at)

    @admin.display(description=gettext_lazy("key"))
    def key_column(self, row: Correction) -> SafeString:
        """Return the beginning of the key."""
        return columns.short(row.key, columns.NARROW_KEY)

    @admin.display(description=gettext_lazy("kind and model"))
    def kind_column(self, row: Correction) -> SafeString:
        """Return the kind and the model that was asked."""
        return columns.two_lines(known(row.kind), known(row.model))

    @admin.display(description=gettext_lazy("state"))
    def state_column(self, row: Correction) -> SafeString:
        """Return whether it stands."""
        return _badge(row)

    @admin.display(description=gettext_lazy("note"))
    def note_column(self, row: Correction) -> str:
        """Return what was noted."""
        return known(Truncator(row.note).chars(_WORDS))

    @admin.display(description=gettext_lazy("by"))
    def made_by_column(self, row: Correction) -> str:
        """Return who has made it."""
        return known(row.made_by)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the list, by the log as it is now."""
        process.current().log.read_now()
        return super().changelist_view(request, extra_context)

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return rows by the beginning of their key."""
        text = as_hex(wanted)
        return queryset.none() if text is None else queryset.filter(beginning("key", text))

    # The page of one

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of a correction."""
        process.current().log.read_now()
        return [
            Group(_("Which answer it stands for"), self._about(request, row)),
            Group(_("What became of it"), self._fate(request, row)),
        ]

    def _about(self, request: HttpRequest, row: Correction) -> list[Fact]:
        facts = [
            Fact(_("key"), columns.code(row.key)),
            Fact(_("kind"), known(row.kind)),
            Fact(_("response type"), known(row.response_type)),
            Fact(_("schema"), columns.short(row.schema) if row.schema else known("")),
            Fact(_("model asked"), known(row.model)),
            Fact(_("tenant"), known(row.tenant)),
            Fact(_("size"), columns.size(len(row.answer.encode(errors="replace")))),
            Fact(
                _("what a hit avoids"),
                columns.exact_money(dollars(row.cost_pico_usd)),
                _("what the answer from before had cost"),
            ),
            Fact(_("name space"), columns.code(row.namespace)),
        ]
        entry = self._entry(row) if self.readable(request, CacheEntry) else None
        if entry is not None:
            facts.insert(1, Fact(_("entry"), columns.link(self.address_of(entry), _("Show the entry"))))
        return facts

    def _entry(self, row: Correction) -> CacheEntry | None:
        rows = CacheEntry.objects.using(self.database())
        return rows.filter(namespace=row.namespace, key=row.key).first()

    def _fate(self, request: HttpRequest, row: Correction) -> list[Fact]:
        made = row.invalidation
        address = self.address_of(made) if self.readable(request, Invalidation) else None
        facts = [
            Fact(_("state"), _badge(row), _why(row)),
            Fact(_("made"), columns.moment(row.made_at), columns.ago(row.made_at)),
            Fact(_("made by"), known(row.made_by)),
            Fact(_("note"), known(row.note)),
            Fact(_("line of the log"), columns.link(address, columns.short(made.uid))),
        ]
        if not made.active:
            facts += [
                Fact(_("withdrawn"), columns.moment(made.undone_at), columns.ago(made.undone_at)),
                Fact(_("withdrawn by"), known(made.undone_by)),
            ]
        return facts

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return whether it can be withdrawn, and shown."""
        here = process.current().namespace
        return {
            "stands": row.invalidation.active,
            "can_withdraw": row.invalidation.active and self.has_withdraw_permission(request, row),
            "withdraw_address": self.address("withdraw", row.pk),
            "other_namespace": here if row.namespace != here else None,
            "can_reveal": self.has_reveal_permission(request, row),
            "reveal_address": self.address("reveal", row.pk),
        }

    def own_urls(self) -> list[URLPattern]:
        """Add the addresses of withdrawing and of revealing; both are only posted to."""
        name, view = f"{self.opts.app_label}_{self.opts.model_name}", self.admin_site.admin_view
        return [
            path("<path:object_id>/withdraw/", view(require_POST(self.withdraw_view)), name=f"{name}_withdraw"),
            path("<path:object_id>/reveal/", view(require_POST(self.reveal_view)), name=f"{name}_reveal"),
        ]

    def withdraw_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Withdraw a correction, and show what became of it."""
        if not self.has_withdraw_permission(request):
            raise PermissionDenied
        row: Any = self.get_object(request, unquote(object_id))
        if row is None:
            return self._gone(request, object_id)
        if not self.has_withdraw_permission(request, row):
            raise PermissionDenied
        try:
            with transaction.atomic(using=self.database()):
                withdrawn = corrections.withdraw(row, user=name_of(request))
                if withdrawn:
                    self.log_change(request, row, _("Withdrawn."))
        except InvalidRequest:
            told = _("It belongs to another name space, and can be withdrawn by a process of that alone.")
            self.message_user(request, told, messages.ERROR)
        else:
            self._tell(request, row, withdrawn)
        entry = self._entry(row) if request.GET.get("from") == "entry" and self.readable(request, CacheEntry) else None
        return HttpResponseRedirect(self.address_of(row if entry is None else entry))

    def _tell(self, request: HttpRequest, row: Correction, withdrawn: bool) -> None:
        if not withdrawn:
            self.message_user(request, _("It was withdrawn already."), messages.WARNING)
        elif _stands(row.key) is not None:
            told = _("Withdrawn. The correction from before it stands again.")
            self.message_user(request, told, messages.WARNING)
        else:
            self.message_user(request, _("Withdrawn. The provider is asked at the next call."), messages.SUCCESS)

    @sensitive_variables()
    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return a page with the answer, after it was written down who has asked for it."""
        if not self.has_reveal_permission(request):
            raise PermissionDenied
        row: Any = self.get_object(request, unquote(object_id))
        if row is None:
            return self._gone(request, object_id)
        if not self.has_reveal_permission(request, row):
            raise PermissionDenied
        self.log_change(request, row, _("Revealed the answer."))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Answer"),
            "subtitle": str(row),
            "opts": self.opts,
            "media": self.media,
            "original": row,
            "back": self.address_of(row),
            "answer": contents.readable(row.answer),
        }
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        response = TemplateResponse(request, "admin/llmcache/correction/reveal.html", context)
        add_never_cache_headers(response)
        return response

    def _gone(self, request: HttpRequest, object_id: str) -> HttpResponse:
        # As Django does for the page of a row that is gone.
        django: Any = super()
        return django._get_obj_does_not_exist_redirect(request, self.opts, object_id)


def _stands(key: str) -> str | None:
    """Return the id of the row by which a correction of a key stands, as this process knows the log."""
    try:
        found = process.current().log.known().correction(bytes.fromhex(key))
    except ValueError:
        return None
    return None if found is None else found.hex()


def _is_replaced(row: Correction) -> bool:
    return row.namespace == process.current().namespace and _stands(row.key) not in (None, row.invalidation.uid)


def _badge(row: Correction) -> SafeString:
    """Return what a correction is good for now."""
    if not row.invalidation.active:
        return columns.badge(_("withdrawn"), "quiet")
    if _is_replaced(row):
        return columns.badge(_("replaced by a newer one"), "quiet")
    if _has_changed(row):
        return columns.badge(_("type changed"), "warning")
    return columns.badge(_("pinned") if row.is_pin else _("in force"), "good")


def _has_changed(row: Correction) -> bool:
    """Return whether its type is registered, and not the one that it was made for."""
    try:
        return corrections.has_changed(corrections.registered(process.current(), row), row)
    except InvalidRequest:
        return False


@sensitive_variables()
def _why(row: Correction) -> str:
    """Return what is to be said of a state."""
    if not row.invalidation.active or _is_replaced(row):
        return ""
    runtime = process.current()
    if _has_changed(row):
        return _("Its type has changed since. Calls have other keys, so that it is not served: correct the new entry.")
    try:
        form = corrections.registered(runtime, row)
        corrections.check(form, row.answer, runtime.settings.max_value_bytes)
    except InvalidRequest:
        return ""
    except ValidationError:
        return _("It does not pass the type's validation any more, so that the provider is asked at each call.")
    except Exception:  # noqa: BLE001  # the type's own validators run here
        return _("The type's validation fails on it, so that calls fail. Withdraw it.")
    return ""
