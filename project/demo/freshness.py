"""The page "Freshness": the board, and what can be done to it.

Anybody who can reach the demo may invalidate its answers and take that back: it listens on this machine alone
(``ALLOWED_HOSTS``), and what is done here is about answers of the kind ``board``. A site of your own asks for a
permission first, as the admin does.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

import llmcache
from llmcache.models import Invalidation
from project.demo import answers, board
from project.demo.amounts import money

REASON: Final = "Clicked on the page Freshness"
_SHOWN_INVALIDATIONS: Final = 4
_SHOWN_FOR: Final = timedelta(minutes=5)
"""Longer than what they are about would have lived."""
# The script loads the board from where it comes from, and nothing else.
_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


@never_cache
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """Show the board, and what an invalidation would be about or why a line is answered where the address asks it."""
    preview, why = _preview(request.GET.get("tag")), _why(request.GET.get("why"))
    ttl, stale_ttl = board.ages()
    shown = {
        **_board(),
        "ttl": ttl,
        "stale_ttl": stale_ttl,
        "tags": board.TAGS,
        "asked": answers.asked(),
        "preview": preview,
        "why": why,
        "invalidations": _of_the_board().filter(made_at__gt=timezone.now() - _SHOWN_FOR)[:_SHOWN_INVALIDATIONS],
    }
    response = render(request, "freshness.html", shown)
    response.headers["Content-Security-Policy"] = _CONTENT_POLICY
    return response


@never_cache
@require_safe
def board_alone(request: HttpRequest) -> HttpResponse:
    """Show the board as it is now, for the page's script."""
    response = render(request, "board.html", _board())
    response.headers["Content-Security-Policy"] = _CONTENT_POLICY
    return response


@require_POST
async def ask(request: HttpRequest) -> HttpResponse:
    """Ask for one line or for all of them."""
    lines = [_line(request.POST["line"])] if "line" in request.POST else board.LINES
    asked = await board.ask(lines, times=2 if "twice" in request.POST else 1)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(asked.outcomes.items()))
    messages.info(request, f"Asked: {counted}. Spent {money(asked.spent)}, saved {money(asked.avoided)}.")
    if asked.errors:
        failure = answers.failure(asked.errors[0])
        messages.error(request, f"{failure.title}. {failure.told} {failure.todo}".strip())
    return _back()


@require_POST
def invalidate(request: HttpRequest) -> HttpResponse:
    """Invalidate the board's answers with a tag."""
    tag = _tag(request.POST.get("tag"))
    llmcache.invalidate(kind=board.KIND, tag=tag, reason=REASON, user=_who(request))
    messages.info(request, f"Invalidated: {tag}. Nothing was deleted, and nobody was asked.")
    return _back()


@require_POST
def undo(request: HttpRequest) -> HttpResponse:
    """Undo an invalidation of the board's answers, and of no others."""
    uid = request.POST.get("id", "")
    if not _of_the_board().filter(uid=uid).exists():
        raise Http404("There is no such invalidation of the board's answers.")
    done = llmcache.undo(uid, user=_who(request))
    messages.info(
        request,
        "Undone. What was not asked anew is given again, as long as its time is not over."
        if done
        else "That one was undone before.",
    )
    return _back()


def _board() -> dict[str, Any]:
    seen = board.look()
    states = [each.state for each in seen]
    counts = [(state, states.count(state)) for state in dict.fromkeys(states)]
    return {"board": seen, "counts": counts, "looked_at": timezone.now(), "life": sum(board.ages())}


def _of_the_board() -> QuerySet[Invalidation]:
    # Those with a key are about one answer, and are made in the admin.
    return Invalidation.objects.filter(kind=board.KIND, key="")


def _preview(tag: str | None) -> dict[str, Any] | None:
    if tag is None:
        return None
    concerned = llmcache.invalidate(kind=board.KIND, tag=_tag(tag), dry_run=True)
    cost = concerned.cost_usd
    return {"tag": tag, "entries": concerned.entries, "cost": answers.NO_PRICE if cost is None else money(cost)}


def _why(number: str | None) -> dict[str, Any] | None:
    if number is None:
        return None
    line = _line(number)
    return {"line": line, "told": str(board.explain(line))}


def _tag(tag: str | None) -> str:
    if tag not in dict(board.TAGS):
        raise Http404("The board has no such tag.")
    return str(tag)


def _line(number: str) -> board.Line:
    found = next((line for line in board.LINES if str(line.number) == number), None)
    if found is None:
        raise Http404("The board has no such line.")
    return found


def _who(request: HttpRequest) -> str:
    user: Any = request.user
    return user.get_username() or "a visitor"


def _back() -> HttpResponse:
    return redirect(f"{reverse('freshness')}#board")
