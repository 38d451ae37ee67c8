"""What a person can do about one answer, from its entry's page: correct it, pin it, hold it back, and undo that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.contrib import messages
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.cache import add_never_cache_headers
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_POST

from llmcache import corrections
from llmcache.admin_pages import columns, contents
from llmcache.admin_pages.columns import Fact, Group, known
from llmcache.admin_pages.correction_form import CorrectionForm, editable
from llmcache.admin_pages.entry_contents import EntryContents
from llmcache.admin_pages.entry_page import EntryPage
from llmcache.admin_pages.lists import may
from llmcache.admin_pages.users import name_of
from llmcache.engine import process
from llmcache.engine.log_copy import View
from llmcache.exceptions import InvalidRequest
from llmcache.models import CacheEntry, Correction, Invalidation
from llmcache.response_types import ResponseType
from llmcache.schema_history.changes import changes

_CHANGES: dict[str, Any] = {"added": "good", "removed": "bad", "changed": "warning", "reordered": "quiet"}


@dataclass(frozen=True, slots=True)
class Button:
    """One thing that can be done."""

    label: str
    address: str
    note: str
    """What it does."""


class EntryCorrecting(EntryContents, EntryPage):
    """Corrections, pins and quarantine on the page of an entry."""

    # Who may do what

    def has_pin_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may pin answers."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.add_correction")

    def has_correct_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may correct answers, of which they see the one from before."""
        return self.has_pin_permission(request, obj) and self.has_reveal_permission(request, obj)

    def has_quarantine_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may hold answers back."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.add_invalidation")

    def has_restore_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may take it back that answers are held back."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.undo_invalidation")

    # The entry's page

    def own_urls(self) -> list[URLPattern]:
        """Add the addresses of what is done here; all are only posted to."""
        views = {
            "correct": self.correct_view,
            "pin": self.pin_view,
            "quarantine": self.quarantine_view,
            "restore": self.restore_view,
        }
        return [*(self._posted_to(name, view) for name, view in views.items()), *super().own_urls()]

    def _posted_to(self, name: str, view: Callable[..., HttpResponse]) -> URLPattern:
        whole = self.admin_site.admin_view(require_POST(view))
        return path(f"<path:object_id>/{name}/", whole, name=f"{self.opts.app_label}_{self.opts.model_name}_{name}")

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Add what a person has said of this answer, and what can be said."""
        found = super().details(request, row)
        entry: CacheEntry = row
        if not self.conditions(entry):
            return found
        _places, void_by, view = self._judged(entry)
        stands = self._standing(view)
        is_held = stands is None and void_by is not None and _holds_back(void_by, entry)
        buttons, why_not = self._buttons(request, entry, stands, is_held=is_held, is_void=void_by is not None)
        return {
            **found,
            "stands": stands,
            "stands_told": None if stands is None else self._told(request, stands),
            "is_held": is_held,
            "correcting_buttons": buttons,
            "why_not_corrected": why_not,
        }

    def _standing(self, view: View) -> Correction | None:
        if view.correction is None:
            return None
        rows = Correction.objects.using(self.database()).select_related("invalidation")
        return rows.filter(invalidation__uid=view.correction.hex()).first()

    def _told(self, request: HttpRequest, row: Correction) -> Any:
        by = _("%(span)s, by %(user)s") % {"span": columns.ago(row.made_at), "user": known(row.made_by)}
        return columns.link(self.address_of(row) if self.readable(request, Correction) else None, by)

    def _buttons(
        self, request: HttpRequest, entry: CacheEntry, stands: Correction | None, *, is_held: bool, is_void: bool
    ) -> tuple[list[Button], str]:
        """Return what this user can do now, and why the answer cannot be corrected where that is so."""
        found, why_not = list[Button](), ""
        if self.has_correct_permission(request, entry):
            try:
                corrections.registered_form(process.current(), entry)
            except InvalidRequest as error:
                why_not = str(error)
            else:
                note = _("Write a better answer. That you have looked at this one is written into the entry's history.")
                found.append(Button(_("Correct this answer…"), self.address("correct", entry.pk), note))
        if stands is not None:
            found += self._withdrawing(request, stands)
        elif is_held:
            if self.has_restore_permission(request, entry):
                note = _("It is served again, unless it was asked for anew meanwhile.")
                found.append(Button(_("Restore"), self.address("restore", entry.pk), note))
        elif not is_void:
            if self.has_pin_permission(request, entry):
                note = _("It is served whatever its age, through refreshes and evictions.")
                found.append(Button(_("Pin this answer"), self.address("pin", entry.pk), note))
            if self.has_quarantine_permission(request, entry):
                note = _("It is not served any more, and the next call gets a new one. It can be restored.")
                found.append(Button(_("Quarantine"), self.address("quarantine", entry.pk), note))
        return found, why_not

    def _withdrawing(self, request: HttpRequest, stands: Correction) -> list[Button]:
        try:
            pages: Any = self.admin_site.get_model_admin(Correction)
        except NotRegistered:
            return []
        if not pages.has_withdraw_permission(request, stands):
            return []
        address = self.address("withdraw", stands.pk, query={"from": "entry"}, of=Correction)
        note = _("The provider is asked at the next call.")
        return [Button(_("Unpin") if stands.is_pin else _("Withdraw the correction"), address, note)]

    # Pin, quarantine, restore

    def pin_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Pin an entry's answer."""
        done = _("Pinned. This answer is served, whatever its age, until that is withdrawn.")
        return self._act(request, object_id, self.has_pin_permission, corrections.pin, _("Pinned."), done)

    def quarantine_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Hold an entry's answer back."""
        done = _("Held back. Who asks from now on gets a new answer.")
        allowed, said = self.has_quarantine_permission, _("Put into quarantine.")
        return self._act(request, object_id, allowed, corrections.quarantine, said, done)

    def restore_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Take it back that an entry's answer is held back."""
        done = _("Restored. It is served again, unless it was asked for anew meanwhile.")
        allowed, said = self.has_restore_permission, _("Restored from quarantine.")
        return self._act(request, object_id, allowed, corrections.restore, said, done)

    def _act(
        self,
        request: HttpRequest,
        object_id: str,
        allowed: Callable[..., bool],
        act: Callable[..., Any],
        said: str,
        done: str,
    ) -> HttpResponse:
        if not allowed(request):
            raise PermissionDenied
        entry: Any = self.get_object(request, unquote(object_id))
        if entry is None:
            return self._gone(request, object_id)
        if not allowed(request, entry):
            raise PermissionDenied
        try:
            if not self.conditions(entry):
                raise InvalidRequest(_elsewhere())
            with transaction.atomic(using=self.database()):
                acted = act(entry.key, user=name_of(request))
                if acted:
                    self.log_change(request, entry, said)
        except InvalidRequest as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            told, level = (done, messages.SUCCESS) if acted else (_("It was done already."), messages.WARNING)
            self.message_user(request, told, level)
        return HttpResponseRedirect(self.address_of(entry))

    def _gone(self, request: HttpRequest, object_id: str) -> HttpResponse:
        # As Django does for the page of a row that is gone.
        django: Any = super()
        return django._get_obj_does_not_exist_redirect(request, self.opts, object_id)

    # The form

    @method_decorator(sensitive_post_parameters("answer"))
    @sensitive_variables()
    def correct_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show the answer to be corrected, then what would change, and correct it once that is confirmed."""
        if not self.has_correct_permission(request):
            raise PermissionDenied
        entry: Any = self.get_object(request, unquote(object_id))
        if entry is None:
            return self._gone(request, object_id)
        if not self.has_correct_permission(request, entry):
            raise PermissionDenied
        try:
            if not self.conditions(entry):
                raise InvalidRequest(_elsewhere())
            form_of = corrections.registered_form(process.current(), entry)
        except InvalidRequest as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(self.address_of(entry))
        return self._formed(request, entry, form_of)

    @sensitive_variables()
    def _formed(self, request: HttpRequest, entry: CacheEntry, form_of: ResponseType) -> HttpResponse:
        data: Any = request.POST
        make = partial(
            CorrectionForm,
            check=lambda answer: corrections.check(form_of, answer, process.current().settings.max_value_bytes),
        )
        if "answer" not in data:
            self.log_change(request, entry, _("Revealed the answer to correct it."))
            now = self._answer_now(entry)
            return self._form_page(request, entry, make(initial={"answer": editable(now or "")}), is_there=bool(now))
        form = make(data)
        if "change" in data:
            told = {name: data.get(name, "").replace("\0", "") for name in form.fields}
            return self._form_page(request, entry, make(initial=told))
        if not form.is_valid():
            return self._form_page(request, entry, form)
        return self._confirmed(request, entry, form) if "confirm" in data else self._preview(request, entry, form)

    @sensitive_variables()
    def _answer_now(self, entry: CacheEntry) -> str | None:
        """Return the answer that is served now, or lies in a tier; None where there is none."""
        stands = self._standing(self._judged(entry)[2])
        if stands is not None:
            return stands.answer
        key = contents.key_of(entry)
        return None if key is None else contents.read(process.current(), key).answer

    @sensitive_variables()
    def _confirmed(self, request: HttpRequest, entry: CacheEntry, form: CorrectionForm) -> HttpResponse:
        stands = self._standing(self._judged(entry)[2])
        answer = form.cleaned_data["answer"]
        if stands is not None and not stands.is_pin and stands.answer == answer:
            self.message_user(request, _("It was done already."), messages.WARNING)
            return HttpResponseRedirect(self.address_of(entry))
        try:
            with transaction.atomic(using=self.database()):
                made = corrections.correct(entry.key, answer, user=name_of(request), note=form.cleaned_data["note"])
                self.log_change(request, entry, _("Corrected."))
                self.log_addition(request, made, _("Corrected."))
        except InvalidRequest as error:
            form.add_error(None, str(error))
            return self._form_page(request, entry, form)
        told = _("Corrected. Who asks from now on gets this answer, until it is withdrawn.")
        self.message_user(request, told, messages.SUCCESS)
        return HttpResponseRedirect(self.address_of(entry))

    @sensitive_variables()
    def _form_page(
        self, request: HttpRequest, entry: CacheEntry, form: CorrectionForm, *, is_there: bool = True
    ) -> HttpResponse:
        context = {"form": form, "is_there": is_there, "title": _("Correct an answer")}
        return self._correction_page(request, entry, "form", context)

    @sensitive_variables()
    def _preview(self, request: HttpRequest, entry: CacheEntry, form: CorrectionForm) -> HttpResponse:
        answer, now = form.cleaned_data["answer"], self._answer_now(entry)
        context = {
            "title": _("Serve this answer?"),
            "form": form,
            "sent": [(name, form.cleaned_data[name]) for name in form.fields],
            "groups": [Group(_("Which answer it is"), _about(entry, form.cleaned_data["note"]))],
            "changes": None if now is None else _changes(now, answer),
            "is_same": now is not None and _parsed(now) == _parsed(answer),
            "shown": contents.readable(answer),
            "others_know": _others_know(),
        }
        return self._correction_page(request, entry, "preview", context)

    def _correction_page(
        self, request: HttpRequest, entry: CacheEntry, name: str, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        shared = {
            "opts": self.opts,
            "media": self.media,
            "subtitle": str(entry),
            "original": entry,
            "back": self.address_of(entry),
            "action": self.address("correct", entry.pk),
        }
        whole = {**self.admin_site.each_context(request), **shared, **context}
        response = TemplateResponse(request, f"admin/llmcache/correction/{name}.html", whole)
        add_never_cache_headers(response)
        return response


def _elsewhere() -> str:
    return _("It belongs to another name space, and can be changed by a process of that alone.")


def _holds_back(row: Invalidation, entry: CacheEntry) -> bool:
    return row.key == entry.key and row.reason == corrections.QUARANTINE and not row.corrects


def _about(entry: CacheEntry, note: str) -> list[Fact]:
    facts = [
        Fact(_("key"), columns.code(entry.key)),
        Fact(_("kind"), known(entry.kind)),
        Fact(_("response type"), known(entry.response_type)),
        Fact(_("tenant"), known(entry.tenant)),
    ]
    return [*facts, Fact(_("note"), note)] if note else facts


@sensitive_variables()
def _parsed(text: str) -> Any:
    try:
        # With the order of its keys, which people see.
        return json.dumps(json.loads(text))
    except (ValueError, RecursionError):
        return text


@sensitive_variables()
def _changes(before: str, after: str) -> list[dict[str, Any]]:
    try:
        found = changes(json.loads(before), json.loads(after))
    except (ValueError, RecursionError):
        return []
    names = {
        "added": _("added"),
        "removed": _("removed"),
        "changed": _("changed"),
        "reordered": _("reordered"),
    }
    return [
        {
            "path": columns.path(each["path"]) if each["path"] else _("the whole"),
            "badge": columns.badge(names[each["change"]], _CHANGES[each["change"]]),
            "before": _plain(each["before"]),
            "after": _plain(each["after"]),
        }
        for each in found
    ]


def _plain(text: str | None) -> str | None:
    # Half of a pair of surrogates can be written in JSON, and on no page.
    return None if text is None else text.encode(errors="backslashreplace").decode()


def _others_know() -> str:
    seconds = 2 * process.current().settings.recheck
    if not seconds:
        return _("Nothing has been done yet. Once you confirm, the next call of any process gets this answer.")
    return _("Nothing has been done yet. Once you confirm, other processes know it within %(number)s s.") % {
        "number": f"{seconds:g}"
    }
