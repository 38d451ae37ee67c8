"""Planned invalidations: the list, and the page of one, where it is called off.

They are made by the form of the others.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import Fact, Group, known
from llmcache.admin_pages.invalidations import NAMES, WORDS, conditions_of, in_words, shown
from llmcache.admin_pages.lists import as_hex, beginning
from llmcache.admin_pages.undoing import Undoing
from llmcache.engine import process
from llmcache.models import Invalidation, PlannedInvalidation


def planned_badge(row: PlannedInvalidation) -> SafeString:
    """Return whether a plan is to come, or what has become of it."""
    if row.is_overdue:
        return columns.badge(_("overdue"), "warning")
    if row.is_open:
        return columns.badge(_("to come"), "good")
    return columns.badge(_("in force") if row.in_force_at else _("called off"), "quiet")


class PlannedInvalidationAdmin(Undoing):
    """What is to be invalidated, and when; the last to come first."""

    list_display = ("due_column", "conditions_column", "state_column", "reason_column", "made_by_column")
    list_filter = (filters.ToCome, filters.Kind)
    search_fields = ("uid",)
    search_help_text = gettext_lazy("The beginning of an id.")
    change_form_template = "admin/llmcache/plannedinvalidation/row.html"

    # The list

    @admin.display(description=gettext_lazy("due"), ordering="-due_at")
    def due_column(self, row: PlannedInvalidation) -> str:
        """Return when it comes into force."""
        return columns.narrow_moment(row.due_at)

    @admin.display(description=gettext_lazy("answers"))
    def conditions_column(self, row: PlannedInvalidation) -> str | SafeString:
        """Return which answers it is about."""
        return in_words(conditions_of(row))

    @admin.display(description=gettext_lazy("state"))
    def state_column(self, row: PlannedInvalidation) -> SafeString:
        """Return whether it is to come, or what has become of it."""
        return planned_badge(row)

    @admin.display(description=gettext_lazy("reason"))
    def reason_column(self, row: PlannedInvalidation) -> str:
        """Return why it was planned."""
        return known(Truncator(row.reason).chars(WORDS))

    @admin.display(description=gettext_lazy("by"))
    def made_by_column(self, row: PlannedInvalidation) -> str:
        """Return who has planned it."""
        return known(row.made_by)

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return rows by the beginning of their id."""
        text = as_hex(wanted)
        return queryset.none() if text is None else queryset.filter(beginning("uid", text))

    # The page of one

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of a plan."""
        conditions = conditions_of(row)
        about = [Fact(str(NAMES[name]), shown(name, value)) for name, value in conditions.items()]
        if not conditions:
            about.append(Fact(_("answers"), in_words(conditions)))
        return [Group(_("Which answers it is about"), about), Group(_("What became of it"), self._fate(request, row))]

    def _fate(self, request: HttpRequest, row: PlannedInvalidation) -> list[Fact]:
        facts = [
            Fact(_("state"), planned_badge(row)),
            Fact(_("due"), columns.moment(row.due_at)),
            Fact(_("made"), columns.moment(row.made_at), columns.ago(row.made_at)),
            Fact(_("made by"), known(row.made_by)),
            Fact(_("reason"), known(row.reason)),
        ]
        if row.in_force_at is not None:
            since = columns.moment(row.in_force_at)
            facts.append(Fact(_("in force since"), columns.link(self._line(request, row), since)))
        if row.called_off_at is not None:
            facts += [
                Fact(_("called off"), columns.moment(row.called_off_at), columns.ago(row.called_off_at)),
                Fact(_("called off by"), known(row.called_off_by)),
            ]
        return [*facts, Fact(_("id"), columns.code(row.uid)), Fact(_("name space"), columns.code(row.namespace))]

    def _line(self, request: HttpRequest, row: PlannedInvalidation) -> str | None:
        """Return the page of the invalidation that it has become; None where there is none to be seen."""
        if not self.readable(request, Invalidation):
            return None
        made = Invalidation.objects.using(self.database()).filter(uid=row.uid).first()
        return None if made is None else self.address_of(made)

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return whether it can be called off."""
        here = process.current().namespace
        return {
            "can_undo": self.can_undo(row) and self.has_undo_permission(request, row),
            "undo_address": self.address("undo", row.pk),
            "other_namespace": here if row.namespace != here else None,
        }

    # Calling off

    undone_message = gettext_lazy("Called off.")
    other_namespace_message = gettext_lazy(
        "It belongs to another name space, and can be called off by a process of that alone."
    )

    def can_undo(self, row: PlannedInvalidation) -> bool:
        """Return whether it is to come."""
        return row.is_open

    def tell_of_undo(self, request: HttpRequest, row: PlannedInvalidation, undone: bool) -> None:  # noqa: ARG002
        """Say whether it was called off."""
        if undone:
            self.message_user(request, _("Called off. It does not come into force."), messages.SUCCESS)
        else:
            self.message_user(request, _("It was called off already, or is in force."), messages.WARNING)
