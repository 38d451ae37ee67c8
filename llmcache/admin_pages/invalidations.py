"""Invalidations: the list, the page of one with its undo, and the form, which first says what it is about."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

import llmcache
from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import Fact, Group, known, number
from llmcache.admin_pages.invalidation_form import InvalidationForm
from llmcache.admin_pages.lists import as_hex, beginning, may
from llmcache.admin_pages.undoing import Undoing
from llmcache.admin_pages.users import name_of
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.models import MAX_CONDITION, CacheEntry, Correction, Invalidation, PlannedInvalidation

ALIKE_SHOWN: Final = 5
WORDS: Final = 80
"""Characters of a condition or a reason in a list."""
NAMES: Final[Mapping[str, Any]] = {
    "kind": gettext_lazy("kind"),
    "model": gettext_lazy("model"),
    "response_type": gettext_lazy("response type"),
    "tenant": gettext_lazy("tenant"),
    "tag": gettext_lazy("tag"),
    "subject": gettext_lazy("subject"),
    "key": gettext_lazy("key"),
}
_COLUMNS: Final = ("kind", "model", "response_type", "tenant", "tag", "subject_hash", "key")
_SEARCHES: Final = ("id", "key", "tag", "tenant")
_DONE: Final = "llmcache_invalidated"
"""Under which a session keeps what has become of the forms that were confirmed."""
_MOST_DONE: Final = 20
_ONCE: Final = 32
"""Characters by which a form that was previewed is told from others."""


def state_badge(row: Invalidation) -> SafeString:
    """Return whether an invalidation is in force."""
    return columns.badge(_("in force"), "good") if row.active else columns.badge(_("undone"), "quiet")


def in_words(conditions: Mapping[str, str]) -> str | SafeString:
    """Return conditions as words in boxes; of a subject only that there is one."""
    if not conditions:
        return columns.badge(_("everything"), "warning")
    return columns.chips((None, _word(name, value)) for name, value in conditions.items())


def _word(name: str, value: str) -> str | SafeString:
    if name == "subject":
        return _("a subject")
    shown = value[: columns.NARROW_KEY] + "…" if name == "key" else Truncator(value).chars(WORDS)
    return format_html('<span class="llmcache-note">{}</span> {}', NAMES[name], shown)


def conditions_of(row: Invalidation | PlannedInvalidation) -> dict[str, str]:
    """Return a row's conditions by their names, in the order of the form."""
    found = {name: getattr(row, column) for name, column in zip(NAMES, _COLUMNS, strict=True)}
    return {name: value for name, value in found.items() if value}


class InvalidationAdmin(Undoing):
    """What was invalidated, the newest first. Rows are made and undone here, never changed otherwise."""

    list_display = ("made_column", "conditions_column", "state_column", "reason_column", "made_by_column")
    list_filter = (filters.InForce, filters.Kind)
    search_fields = ("uid",)
    search_help_text = gettext_lazy(
        "A whole tag or tenant, or the beginning of an id or a key; tag:…, tenant:…, id:… and key:… say which."
    )
    change_form_template = "admin/llmcache/invalidation/row.html"

    # Who may do what

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Return whether this user may invalidate."""
        user: Any = request.user
        return user.has_perm("llmcache.add_invalidation")

    def has_undo_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may undo what they can see; a correction's line for who may withdraw that."""
        if obj is not None and obj.corrects and not may(request, "llmcache.withdraw_correction"):
            return False
        return super().has_undo_permission(request, obj)

    # The list

    @admin.display(description=gettext_lazy("made"))
    def made_column(self, row: Invalidation) -> str:
        """Return when it was made."""
        return columns.narrow_moment(row.made_at)

    @admin.display(description=gettext_lazy("answers"))
    def conditions_column(self, row: Invalidation) -> str | SafeString:
        """Return which answers it is about."""
        return in_words(conditions_of(row))

    @admin.display(description=gettext_lazy("reason"))
    def reason_column(self, row: Invalidation) -> str:
        """Return why it was made."""
        return known(Truncator(row.reason).chars(WORDS))

    @admin.display(description=gettext_lazy("by"))
    def made_by_column(self, row: Invalidation) -> str:
        """Return who has made it."""
        return known(row.made_by)

    @admin.display(description=gettext_lazy("state"))
    def state_column(self, row: Invalidation) -> SafeString:
        """Return whether it is in force, and if not, who has undone it and when."""
        if row.active or row.undone_at is None:
            return state_badge(row)
        undone = columns.narrow_moment(row.undone_at)
        by = _("%(moment)s by %(user)s") % {"moment": undone, "user": row.undone_by} if row.undone_by else undone
        return columns.two_lines(state_badge(row), by)

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return rows by the beginning of their id or key, or by a whole tag or tenant."""
        which, colon, rest = wanted.partition(":")
        if colon and which.lower() in _SEARCHES:
            conditions = self._searches(rest.strip())
            condition = conditions.get(which.lower())
            return queryset.none() if condition is None else queryset.filter(condition)
        condition = models.Q()
        for each in self._searches(wanted).values():
            condition |= each
        return queryset.filter(condition) if condition else queryset.none()

    def _searches(self, wanted: str) -> dict[str, models.Q]:
        """Return the condition of each search that a word can mean."""
        text = as_hex(wanted)
        found: dict[str, models.Q] = {}
        if text is not None:
            found |= {"id": beginning("uid", text), "key": beginning("key", text)}
        if wanted and len(wanted) <= MAX_CONDITION:
            found |= {"tag": models.Q(tag=wanted), "tenant": models.Q(tenant=wanted)}
        return found

    # The page of one

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of an invalidation."""
        return [
            Group(_("Which answers it is about"), self._about(request, row)),
            Group(_("What became of it"), self._fate(row)),
        ]

    def _about(self, request: HttpRequest, row: Invalidation) -> list[Fact]:
        conditions = conditions_of(row)
        facts = [Fact(str(NAMES[name]), shown(name, value)) for name, value in conditions.items()]
        if not conditions:
            facts.append(Fact(_("answers"), in_words(conditions)))
        address = self._entries_address(request, row)
        if address is not None:
            facts.append(Fact(_("entries"), columns.link(address, _("Show the entries that meet this"))))
        return facts

    def _entries_address(self, request: HttpRequest, row: Invalidation) -> str | None:
        """Return the list of entries with as much; None where it cannot tell them apart."""
        if row.subject_hash or (row.tag and row.key) or not self.readable(request, CacheEntry):
            return None
        query = {"kind": row.kind, "model": row.model, "type": row.response_type, "tenant": row.tenant}
        query["q"] = f"tag:{row.tag}" if row.tag else f"key:{row.key}" if row.key else ""
        return self.address("changelist", query={name: value for name, value in query.items() if value}, of=CacheEntry)

    def _fate(self, row: Invalidation) -> list[Fact]:
        facts = [
            Fact(_("state"), state_badge(row)),
            Fact(_("made"), columns.moment(row.made_at), columns.ago(row.made_at)),
            Fact(_("made by"), known(row.made_by)),
            Fact(_("reason"), known(row.reason)),
        ]
        if not row.active:
            facts += [
                Fact(_("undone"), columns.moment(row.undone_at), columns.ago(row.undone_at)),
                Fact(_("undone by"), known(row.undone_by)),
            ]
        return [*facts, Fact(_("id"), columns.code(row.uid)), Fact(_("name space"), columns.code(row.namespace))]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return whether it can be undone, and which others go on if it is."""
        here = process.current().namespace
        return {
            "can_undo": self.can_undo(row) and self.has_undo_permission(request, row),
            "undo_address": self.address("undo", row.pk),
            "correction_address": self._correction_address(request, row),
            "other_namespace": here if row.namespace != here else None,
            "alike": [
                {"address": self.address_of(each), "name": str(each), "made": columns.moment(each.made_at)}
                for each in self._alike(row)
            ],
        }

    def _correction_address(self, request: HttpRequest, row: Invalidation) -> str | None:
        """Return the page of the correction that stands by a row; None where there is none to be seen."""
        if not row.corrects or not self.readable(request, Correction):
            return None
        made = Correction.objects.using(self.database()).filter(invalidation=row.pk).first()
        return None if made is None else self.address_of(made)

    def _alike(self, row: Invalidation) -> Iterable[Invalidation]:
        """Return others in force with the same conditions, the newest first."""
        same = {column: getattr(row, column) for column in ("namespace", *_COLUMNS)}
        rows = Invalidation.objects.using(self.database()).filter(active=True, **same).exclude(pk=row.pk)
        return rows.order_by("-pk")[:ALIKE_SHOWN]

    # Undoing

    undone_message = gettext_lazy("Undone.")
    other_namespace_message = gettext_lazy(
        "It belongs to another name space, and can be undone by a process of that alone."
    )

    def can_undo(self, row: Invalidation) -> bool:
        """Return whether it is in force."""
        return row.active

    def tell_of_undo(self, request: HttpRequest, row: Invalidation, undone: bool) -> None:
        """Say whether its answers are served again."""
        if not undone:
            self.message_user(request, _("It was undone already."), messages.WARNING)
        elif any(self._alike(row)):
            told = _("Undone. Another with the same conditions is in force, and answers from before that stay void.")
            self.message_user(request, told, messages.WARNING)
        else:
            self.message_user(request, _("Undone. The answers from before are served again."), messages.SUCCESS)

    # Making one

    @method_decorator(sensitive_post_parameters("subject"))
    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        """Show the form, then what it is about, and invalidate once that is confirmed."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return self._form_page(request, InvalidationForm.filled(request.GET))  # pyright: ignore[reportArgumentType]
        return self._posted(request)

    @sensitive_variables()
    def _posted(self, request: HttpRequest) -> HttpResponse:
        data: Any = request.POST
        if "change" in data:
            return self._form_page(request, InvalidationForm.again(data))
        form = InvalidationForm(data)
        if not form.is_valid():
            return self._form_page(request, form)
        # As long as a preview makes it: a session keeps it.
        once = data.get("once", "")[:_ONCE]
        try:
            if "confirm" in data and once:
                return self._confirmed(request, form, once)
            return self._preview_page(request, form)
        except InvalidRequest as error:
            form.add_error(None, str(error))
            return self._form_page(request, form)

    @sensitive_variables()
    def _confirmed(self, request: HttpRequest, form: InvalidationForm, once: str) -> HttpResponse:
        done: dict[str, str] = request.session.get(_DONE, {})
        if once in done:
            self.message_user(request, _("It was done already."), messages.WARNING)
            return HttpResponseRedirect(done[once])
        with transaction.atomic(using=self.database()):
            made = llmcache.invalidate(**form.arguments(), reason=form.cleaned_data["reason"], user=name_of(request))
            model = Invalidation if made.due_at is None else PlannedInvalidation
            row = model._default_manager.using(self.database()).get(uid=made.id)
            self.log_addition(request, row, _("Invalidated.") if made.due_at is None else _("Planned."))
        address = self._after(request, row)
        kept = [*done.items(), (once, address)]
        request.session[_DONE] = dict(kept[-_MOST_DONE:])
        if made.due_at is None:
            self.message_user(request, _("Invalidated. Who asks from now on gets a new answer."), messages.SUCCESS)
        else:
            self.message_user(request, _("Planned. House-keeping brings it into force."), messages.SUCCESS)
        return HttpResponseRedirect(address)

    def _after(self, request: HttpRequest, row: models.Model) -> str:
        """Return where somebody is sent who has invalidated."""
        if self.readable(request, type(row)):
            return self.address("change", row.pk, of=type(row))
        return reverse("admin:index", current_app=self.admin_site.name)

    def _form_page(self, request: HttpRequest, form: InvalidationForm) -> HttpResponse:
        return self._page(request, "form", {"form": form, "title": _("Invalidate answers")})

    @sensitive_variables()
    def _preview_page(self, request: HttpRequest, form: InvalidationForm) -> HttpResponse:
        concerned = llmcache.invalidate(**form.arguments(), dry_run=True)
        context = {
            "title": _("Invalidate these answers?"),
            "form": form,
            "sent": [(name, _as_sent(value)) for name in form.fields if (value := form.cleaned_data[name])],
            "once": secrets.token_hex(_ONCE // 2),
            "groups": [
                Group(_("Answers that meet all of this"), _wanted(form)),
                Group(_("What would be void"), _concerned(concerned)),
            ],
            "others_know": _others_know(),
            "is_none": not concerned.entries,
            "has_outer_space": form.has_outer_space,
        }
        return self._page(request, "preview", context)

    def _page(self, request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        listed = self.address("changelist") if self.has_view_permission(request) else None
        shared = {"opts": self.opts, "media": self.media, "subtitle": None, "back": listed}
        whole = {**self.admin_site.each_context(request), **shared, **context}
        response = TemplateResponse(request, f"admin/llmcache/invalidation/{name}.html", whole)
        add_never_cache_headers(response)
        return response


def shown(name: str, value: str) -> str | SafeString:
    """Return a condition's value on a page; of a subject only that there is one."""
    if name == "subject":
        return _("a subject, of which a hash is kept")
    return columns.code(value) if name == "key" else value


def _as_sent(value: Any) -> Any:
    """Return a value as its field reads it again; a template would write a time in the user's language."""
    return value.isoformat() if isinstance(value, datetime) else value


def _wanted(form: InvalidationForm) -> list[Fact]:
    conditions = form.named()
    facts = [Fact(str(NAMES[name]), shown(name, value)) for name, value in conditions.items()]
    if not conditions:
        facts.append(Fact(_("answers"), in_words(conditions)))
    if form.cleaned_data["at"]:
        facts.append(Fact(_("from"), columns.moment(form.cleaned_data["at"])))
    if form.cleaned_data["reason"]:
        facts.append(Fact(_("reason"), form.cleaned_data["reason"]))
    return facts


def _concerned(concerned: llmcache.Invalidated) -> list[Fact]:
    cost, entries, money = concerned.cost_usd, number(concerned.entries), columns.figures.money(concerned.cost_usd)
    if concerned.more:
        entries = _("at least %(number)s") % {"number": entries}
        money = money if cost is None else _("at least %(number)s") % {"number": money}
    return [
        Fact(_("entries"), entries, _("as far as the ledger knows, without those that have expired")),
        Fact(
            _("what they have cost"),
            money,
            _("not known of each of them") if cost is None else _("about what it costs to ask for them anew"),
        ),
    ]


def _others_know() -> str:
    """Return when other processes see what is confirmed."""
    seconds = 2 * process.current().settings.recheck
    if not seconds:
        return _("Nothing has been done yet. Once you confirm, the next call of any process gets a new answer.")
    return _("Nothing has been done yet. Once you confirm, other processes know it within %(number)s s.") % {
        "number": f"{seconds:g}"
    }
