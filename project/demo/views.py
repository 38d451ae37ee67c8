"""The home page, and the two views behind its form: one synchronous, one asynchronous."""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

import llmcache
from project.demo import amounts, answers, data, reports
from project.demo.answers import Answer, Failure
from project.demo.forms import MOST_CHARACTERS, TextForm
from project.demo.models import DemoRun
from project.demo.types import Ingredient, Recipe

SHOWN_RUNS: Final = 4
"""Columns of the table: more would not fit a page."""

WHOLE_RECIPE: Final = "recipe"
"""The name of the button that asks about a recipe in place of a line."""

CONTENT_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Show what the project is, a form to try it, and what the last runs of the demo came to."""
    return _page(request, list(DemoRun.objects.all()))


def extract(request: HttpRequest) -> HttpResponse:
    """Show what ``llmcache.extract_with_info`` makes of a text, or of a whole recipe, whose type is nested."""
    if request.method != "POST":
        return redirect("home")
    form, came, of_a_recipe = TextForm(request.POST), None, WHOLE_RECIPE in request.POST
    if of_a_recipe or form.is_valid():
        try:
            if of_a_recipe:
                form = TextForm()
                info = llmcache.extract_with_info(data.A_RECIPE, Recipe, **answers.options())
            else:
                info = llmcache.extract_with_info(form.cleaned_data["text"], Ingredient, **answers.options())
            came = answers.answer(info)
        except llmcache.LLMCacheError as error:
            came = answers.failure(error)
    return _page(request, list(DemoRun.objects.all()), form, came, view="sync")


async def aextract(request: HttpRequest) -> HttpResponse:
    """Show what ``llmcache.aextract_with_info`` makes of a text, without a thread that waits."""
    if request.method != "POST":
        return redirect("home")
    form, came = TextForm(request.POST), None
    if form.is_valid():
        try:
            info = await llmcache.aextract_with_info(form.cleaned_data["text"], Ingredient, **answers.options())
            came = answers.answer(info)
        except llmcache.LLMCacheError as error:
            came = answers.failure(error)
    return _page(request, [run async for run in DemoRun.objects.all()], form, came, view="async")


def refused(request: HttpRequest, **_: object) -> HttpResponse:
    """Show the page anew to somebody whose form came without the cookie that belongs to it."""
    came = Failure(
        title="The form was not sent from this page",
        told="Its token is missing or too old; that happens when cookies are off or were cleared.",
        todo="Let this site set cookies, and send the form once more.",
        facts=(),
        status=403,
    )
    return _page(request, list(DemoRun.objects.all()), came=came)


def too_large(request: HttpRequest) -> HttpResponse:
    """Show the page anew to somebody whose form is too large to be read."""
    came = Failure(
        title="This text is too long",
        told=f"It is too large to be read at all; the page takes {MOST_CHARACTERS:,} characters.",
        todo="Send a part of it.",
        facts=(),
        status=413,
    )
    return _page(request, list(DemoRun.objects.all()), came=came)


def _page(
    request: HttpRequest,
    runs: list[DemoRun],
    form: TextForm | None = None,
    came: Answer | Failure | None = None,
    view: str = "",
) -> HttpResponse:
    shown = {
        "table": _table(runs),
        "last": _last(runs),
        "count": len(runs),
        "form": form or TextForm(),
        "came": came,
        "view": view,
        "asked": answers.asked(),
        "samples": data.SAMPLES,
    }
    status = came.status if came else 400 if form and form.errors else 200
    response = render(request, "home.html", shown, status=status)
    response.headers["Content-Security-Policy"] = CONTENT_POLICY
    return response


def _table(runs: list[DemoRun]) -> dict[str, object]:
    """Return a row for each figure, and a cell in it for each of the last runs and one for all of them."""
    shown = runs[:SHOWN_RUNS]
    rows = reports.rows([*(reports.figures([run]) for run in shown), reports.figures(runs)])
    return {
        "runs": shown,
        "rows": [(label, cells[:-1], cells[-1]) for label, cells in rows],
        "at_least": any(cell.startswith(amounts.AT_LEAST) for _, cells in rows for cell in cells),
    }


def _last(runs: list[DemoRun]) -> dict[str, object] | None:
    """Return what stands out of the last run."""
    if not runs:
        return None
    figures = reports.figures(runs[:1])
    hit, miss = figures.latencies.get("hit"), figures.latencies.get("miss")
    return {
        "run": runs[0],
        "hit_rate": amounts.percent(figures.hit_rate),
        "provider_calls": f"{figures.provider_calls:,}",
        "spent": figures.spent.shown(amounts.pico_money),
        "saved": figures.saved.shown(amounts.pico_money),
        "requests": f"{figures.requests:,}",
        "hit": amounts.NOTHING if hit is None else amounts.duration(hit.median_ns, hit.exact),
        "miss": amounts.NOTHING if miss is None else amounts.duration(miss.median_ns, miss.exact),
    }
