"""Pages that extract in a transaction with what else a page does."""

import time
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse

import llmcache
from llmcache.models import ProviderCall
from notes.models import Note
from notes.types import Title


def note(request: HttpRequest) -> JsonResponse:
    """Read, extract, wait, write."""
    before = list(Note.objects.order_by("-pk")[:1])
    title, facts = _extract(request, "note")
    time.sleep(settings.WAIT_SECONDS)
    written = Note.objects.create(text=request.GET["text"], title=title)
    return JsonResponse({**facts, "before": [each.pk for each in before], "written": written.pk})


def look(request: HttpRequest) -> JsonResponse:
    """Read and extract."""
    count = Note.objects.count()
    _, facts = _extract(request, "look")
    return JsonResponse({**facts, "notes": count})


def fail(request: HttpRequest) -> JsonResponse:
    """Extract, write, and fail, so that what was written is taken back."""
    title, _ = _extract(request, "fail")
    if not settings.ONE_WRITER:
        Note.objects.create(text="of a page that fails", title=title)
    raise ValueError("this page fails")


@transaction.non_atomic_requests
def ledger(request: HttpRequest) -> JsonResponse:
    """Say what the ledger holds."""
    flushed = llmcache.flush(timeout=30)
    calls = ProviderCall.objects.values("call_id", "kind", "cost_pico_usd")
    return JsonResponse({"flushed": flushed, "calls": list(calls), "notes": Note.objects.count()})


def _extract(request: HttpRequest, kind: str) -> tuple[str, dict[str, Any]]:
    """Return a title, and how many statements touched llmcache's tables on this connection meanwhile."""
    ours: list[str] = []

    def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "llmcache_" in sql:
            ours.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        found = llmcache.extract_with_info(request.GET["text"], Title, kind=kind)
    left = watch in connection.execute_wrappers
    return found.value.title[:200], {"outcome": found.outcome, "ours": ours, "wrapper_left": left}
