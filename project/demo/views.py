"""The home page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from project.demo import reports
from project.demo.models import DemoRun

SHOWN_RUNS = 4
"""Columns of the table: more would not fit a page."""

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Show what the project is and what the last runs of the demo came to."""
    runs = list(DemoRun.objects.all())
    response = render(request, "home.html", {"table": _table(runs), "last": _last(runs), "count": len(runs)})
    response.headers["Content-Security-Policy"] = CONTENT_POLICY
    return response


def _table(runs: list[DemoRun]) -> dict[str, object]:
    """Return a row for each figure, and a cell in it for each of the last runs and one for all of them."""
    shown = runs[:SHOWN_RUNS]
    rows = reports.rows([*(reports.figures([run]) for run in shown), reports.figures(runs)])
    return {"runs": shown, "rows": [(label, cells[:-1], cells[-1]) for label, cells in rows]}


def _last(runs: list[DemoRun]) -> dict[str, object] | None:
    """Return what stands out of the last run."""
    if not runs:
        return None
    figures = reports.figures(runs[:1])
    hit, miss = figures.latencies.get("hit"), figures.latencies.get("miss")
    return {
        "run": runs[0],
        "hit_rate": reports.percent(figures.hit_rate),
        "provider_calls": f"{figures.provider_calls:,}",
        "requests": f"{figures.requests:,}",
        "hit": reports.NOTHING if hit is None else reports.duration(hit.median_ns, hit.exact),
        "miss": reports.NOTHING if miss is None else reports.duration(miss.median_ns, miss.exact),
    }
