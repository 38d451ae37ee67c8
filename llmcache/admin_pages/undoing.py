"""Undoing by a button: a view that is only posted to, for rows of the invalidation log and for what is planned."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

import llmcache
from llmcache.admin_pages.lists import LedgerAdmin
from llmcache.admin_pages.users import name_of
from llmcache.exceptions import InvalidRequest


class Undoing(LedgerAdmin):
    """The admin of rows that ``llmcache.undo`` takes back."""

    undone_message: ClassVar[Any]
    """For the row's history."""
    other_namespace_message: ClassVar[Any]

    def has_undo_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may undo what they can see."""
        user: Any = request.user
        return self.has_view_permission(request, obj) and user.has_perm("llmcache.undo_invalidation")

    def can_undo(self, row: Any) -> bool:
        """Return whether there is anything to take back."""
        raise NotImplementedError

    def tell_of_undo(self, request: HttpRequest, row: Any, undone: bool) -> None:
        """Say what has become of a row; not ``undone``: there was nothing to take back."""
        raise NotImplementedError

    def own_urls(self) -> list[URLPattern]:
        """Add the address of undoing, which is only posted to."""
        view = self.admin_site.admin_view(require_POST(self.undo_view))
        name = f"{self.opts.app_label}_{self.opts.model_name}_undo"
        return [path("<path:object_id>/undo/", view, name=name)]

    def undo_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Undo a row, and show it."""
        if not self.has_undo_permission(request):
            raise PermissionDenied
        row: Any = self.get_object(request, unquote(object_id))
        if row is None:
            # As Django does for the page of a row that is gone.
            django: Any = super()
            return django._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_undo_permission(request, row):
            raise PermissionDenied
        try:
            with transaction.atomic(using=self.database()):
                undone = self.can_undo(row) and llmcache.undo(row.uid, user=name_of(request))
                if undone:
                    self.log_change(request, row, str(self.undone_message))
        except InvalidRequest:
            self.message_user(request, self.other_namespace_message, messages.ERROR)
        else:
            self.tell_of_undo(request, row, undone)
        return HttpResponseRedirect(self.address_of(row))
