"""What is shown in place of a page while the database cannot be asked: a notice with status 503, and no number."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.template.loader import render_to_string

logger = logging.getLogger("llmcache.ledger")

_RETRY_SECONDS = 10

View = Callable[..., HttpResponseBase]


def with_notice(view: View, *, as_json: bool = False) -> View:
    """Return the view, with a notice in place of any error of a database's.

    Session, user and permissions are looked up within it, so that it also holds when the database that is down is
    theirs. For that nothing may touch the database before: the view is outside of ``ATOMIC_REQUESTS``. A middleware
    that asks for the user of each request, as Django's ``LoginRequiredMiddleware`` does, fails before the view.
    """

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except (DatabaseError, InterfaceError) as error:
            # The message may name hosts and users: it is for the log.
            logger.warning("A page cannot be shown (%s: %s).", type(error).__name__, _first_line(error))
            return _notice(as_json)

    for alias in connections:
        transaction.non_atomic_requests(using=alias)(guarded)
    return guarded


def _notice(as_json: bool) -> HttpResponse:
    headers = {"Cache-Control": "private, no-store", "Retry-After": str(_RETRY_SECONDS)}
    if as_json:
        return JsonResponse({"error": "The database cannot be asked."}, status=503, headers=headers)
    # Without the request: its context processors may look for a user.
    return HttpResponse(render_to_string("llmcache/unavailable.html"), status=503, headers=headers)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
