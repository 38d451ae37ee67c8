"""The page "Streams": an answer that is shown while it is being written, and the same from the cache.

The events are fetched by GET, which is all that a browser's ``EventSource`` knows. So they are for this page alone: a
call may cost money, and another site's page could ask for it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

import llmcache
from llmcache.server_events import event_stream
from project.demo import answers, data
from project.demo.types import Ingredient, Recipe

_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_KIND: Final = "stream"


@never_cache
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """Show the recipe, and where its values will be."""
    response = render(request, "stream.html", {"recipe": data.A_RECIPE, "asked": answers.asked()})
    response.headers["Content-Security-Policy"] = _CONTENT_POLICY
    return response


@never_cache
@require_safe
def events(request: HttpRequest) -> HttpResponseBase:
    """Send the values as they come: of the whole recipe, or its ingredients one by one."""
    # Who sends no such header is no browser, and no other site's page.
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return HttpResponseForbidden("Only the page itself may ask for this.")
    options: dict[str, Any] = {**answers.options(), "kind": _KIND}
    if "anew" in request.GET and answers.asked():
        options["cache"] = "refresh"
    if isinstance(request, ASGIRequest):
        if "items" in request.GET:
            return event_stream(llmcache.aextract_iterable(data.A_RECIPE, Ingredient, **options))
        return event_stream(llmcache.aextract_partial(data.A_RECIPE, Recipe, **options))
    values: Iterator[Any]
    if "items" in request.GET:
        values = llmcache.extract_iterable(data.A_RECIPE, Ingredient, **options)
    else:
        values = llmcache.extract_partial(data.A_RECIPE, Recipe, **options)
    return event_stream(values)
