"""Runs of warming: the list, and the page of one with how far it is, what it costs, and what it was worth since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import Fact, Group, known, number
from llmcache.admin_pages.lists import LedgerAdmin, as_hex, beginning, may
from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.models import WarmingItem, WarmingPlan, WarmingRun
from llmcache.money.pricing import dollars
from llmcache.sending import share_out
from llmcache.warming import runs
from llmcache.warming.value import WarmingValue, value_of

State = WarmingRun.State
_TONES: Final = {
    State.PREPARING: "quiet",
    State.RUNNING: "good",
    State.PAUSED: "warning",
    State.EXHAUSTED: "warning",
    State.DONE: "quiet",
    State.CANCELLED: "quiet",
}
_GOING_ON: Final = (State.PREPARING, State.RUNNING)
RELOAD_SECONDS: Final = 3
"""How often the page of a run that goes on is read again."""
_MOST_ERRORS: Final = 10

ACTIONS: Final[Mapping[str, Callable[[str], bool]]] = {
    "pause": runs.pause,
    "resume": runs.resume,
    "cancel": runs.cancel,
}
_POSSIBLE: Final[Mapping[str, tuple[str, ...]]] = {
    "pause": (State.RUNNING,),
    "resume": (State.PAUSED, State.EXHAUSTED),
    "cancel": (State.PREPARING, State.RUNNING, State.PAUSED, State.EXHAUSTED),
}
_LABELS: Final = {
    "pause": gettext_lazy("Pause"),
    "resume": gettext_lazy("Go on"),
    "cancel": gettext_lazy("Cancel"),
}
_DONE: Final = {
    "pause": gettext_lazy("Paused. What is under way comes to its end, and nothing else is begun."),
    "resume": gettext_lazy("It can go on. Celery workers do; without these: manage.py llmcache_warm --resume %(uid)s"),
    "cancel": gettext_lazy("Cancelled. The texts that nobody has asked for are deleted."),
}


def run_badge(run: WarmingRun) -> SafeString:
    """Return how far a run is, in a word."""
    labels: dict[str, Any] = dict(State.choices)
    return columns.badge(str(labels.get(run.state, run.state)), _TONES.get(run.state, "quiet"))  # pyright: ignore[reportArgumentType]


def worth(value: WarmingValue) -> str | SafeString:
    """Return what a run was worth, in a line."""
    told = {
        "warmed": figures.count(value.warmed),
        "hit": figures.count(value.hit),
        "net": columns.whole(figures.money(value.net_usd)),
    }
    if value.net_usd is None:
        return _("%(warmed)s warmed, %(hit)s hit since; what the run has cost is not known of each call") % told
    return format_html(_("{warmed} warmed, {hit} hit since, saved {net} net"), **told)


class RunState(filters.Choice):
    """By how far runs are."""

    title = gettext_lazy("state")
    parameter_name = field = "state"

    def offered(self, known: filters.Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return every state."""
        return [(value, str(label)) for value, label in State.choices]


class WarmingRunAdmin(LedgerAdmin):
    """What was asked ahead of its use, the newest first."""

    list_display = ("made_column", "what_column", "state_column", "items_column", "calls_column", "cost_column")
    list_filter = (RunState, filters.Kind)
    list_select_related = ("plan",)
    search_fields = ("uid",)
    search_help_text = gettext_lazy("The beginning of an id.")
    change_form_template = "admin/llmcache/warmingrun/row.html"

    def has_control_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may pause, resume and cancel what they can see."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.control_warmingrun")

    # The list

    @admin.display(description=gettext_lazy("made"))
    def made_column(self, run: WarmingRun) -> SafeString:
        """Return when it was made, and by whom."""
        return columns.two_lines(columns.narrow_moment(run.made_at), known(run.made_by))

    @admin.display(description=gettext_lazy("what"))
    def what_column(self, run: WarmingRun) -> SafeString:
        """Return its plan, and what it asks."""
        return columns.two_lines(known(run.plan and run.plan.name), f"{run.kind}, {run.model}")

    @admin.display(description=gettext_lazy("state"))
    def state_column(self, run: WarmingRun) -> str | SafeString:
        """Return how far it is, and what stands in its way."""
        return columns.two_lines(run_badge(run), run.trouble) if run.trouble else run_badge(run)

    @admin.display(description=gettext_lazy("items"))
    def items_column(self, run: WarmingRun) -> str:
        """Return how many items it has."""
        return number(run.items_count)

    @admin.display(description=gettext_lazy("calls"))
    def calls_column(self, run: WarmingRun) -> str | SafeString:
        """Return how many calls have ended, and how many there may be."""
        if run.max_calls is None:
            return number(run.calls)
        return columns.two_lines(number(run.calls), _("of %(number)s") % {"number": number(run.max_calls)})

    @admin.display(description=gettext_lazy("cost"))
    def cost_column(self, run: WarmingRun) -> str | SafeString:
        """Return what it has cost, and what it may."""
        cost = columns.figures.money(run.spent_usd)
        limit = dollars(run.max_pico_usd)
        return cost if limit is None else columns.two_lines(cost, _("of %(number)s") % {"number": figures.money(limit)})

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return rows by the beginning of their id."""
        text = as_hex(wanted)
        return queryset.none() if text is None else queryset.filter(beginning("uid", text))

    # The page of one

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of a run."""
        groups = [Group(_("What it asks"), self._what(request, row))]
        if self._is_elsewhere(row):
            return groups
        told, value = runs.progress(row.uid), value_of(row.uid)
        groups.insert(0, Group(_("How far it is"), self._progress(row, told)))
        groups.append(Group(_("Money"), self._money(row, told, value)))
        return groups

    def _progress(self, run: WarmingRun, told: runs.Progress) -> list[Fact]:
        done = told.items - told.to_ask
        share = figures.percent(done / told.items) if told.items else columns.UNKNOWN
        facts = [
            Fact(_("state"), run_badge(run), _("since %(error)s") % {"error": run.trouble} if run.trouble else ""),
            Fact(
                _("done"),
                _("%(done)s of %(items)s items") % {"done": number(done), "items": number(told.items)},
                share,
            ),
            Fact(_("warmed"), number(told.warmed)),
            Fact(_("there already"), number(told.live)),
            Fact(_("failed"), number(told.failed), self._errors(run) if told.failed else ""),
            Fact(_("still to be asked"), number(told.to_ask)),
        ]
        if told.dropped:
            facts.append(Fact(_("not asked any more"), number(told.dropped)))
        return [
            *facts,
            Fact(_("duplicates"), number(told.duplicates), _("left out")),
            Fact(_("started"), columns.moment(run.started_at)),
            Fact(_("ended"), columns.moment(run.ended_at)),
        ]

    def _errors(self, run: WarmingRun) -> str:
        failed = WarmingItem.objects.using(self.database()).filter(run=run, state=WarmingItem.State.FAILED).order_by()
        counted = failed.values_list("error").annotate(count=models.Count("pk")).order_by("-count", "error")
        return ", ".join(f"{error} {figures.count(count)}" for error, count in counted[:_MOST_ERRORS])

    def _money(self, run: WarmingRun, told: runs.Progress, value: WarmingValue) -> list[Fact]:
        unknown = _("without %(number)s calls whose cost is not known") % {"number": number(told.calls_unpriced)}
        limit = [number(run.max_calls) if run.max_calls is not None else "", _money(dollars(run.max_pico_usd))]
        return [
            Fact(_("worth"), worth(value), _("each answer counts from when it was warmed on")),
            Fact(_("cost"), figures.money(told.cost_usd), unknown if told.calls_unpriced else ""),
            Fact(_("calls"), number(told.calls)),
            Fact(_("calls in doubt"), number(told.in_doubt), _("by the ledger") if told.in_doubt else ""),
            Fact(_("estimated cost"), figures.money(told.estimate_usd), run.estimate_basis),
            Fact(_("calls at most"), known(limit[0])),
            Fact(_("cost at most"), known(limit[1])),
            Fact(_("calls a minute"), number(run.per_minute)),
        ]

    def _what(self, request: HttpRequest, run: WarmingRun) -> list[Fact]:
        plan = columns.UNKNOWN
        if run.plan is not None:
            can_see = self.readable(request, WarmingPlan)
            plan = columns.link(self.address_of(run.plan) if can_see else None, run.plan.name)
        return [
            Fact(_("plan"), plan),
            Fact(_("kind"), known(run.kind)),
            Fact(_("response type"), columns.path(run.response_type)),
            Fact(_("model"), known(run.model)),
            Fact(_("made"), columns.moment(run.made_at), columns.ago(run.made_at)),
            Fact(_("made by"), known(run.made_by)),
            Fact(_("id"), columns.code(run.uid)),
            Fact(_("name space"), columns.code(run.namespace)),
        ]

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return what can be done with it."""
        elsewhere = self._is_elsewhere(row)
        can = not elsewhere and self.has_control_permission(request, row)
        return {
            "reload_seconds": RELOAD_SECONDS if row.state in _GOING_ON and not elsewhere else None,
            "other_namespace": process.current().namespace if elsewhere else None,
            "controls": [
                {"name": name, "label": _LABELS[name], "address": self.address("control", row.pk, name)}
                for name, states in _POSSIBLE.items()
                if can and row.state in states
            ],
        }

    def _is_elsewhere(self, run: WarmingRun) -> bool:
        return run.namespace != process.current().namespace

    def own_urls(self) -> list[URLPattern]:
        """Add the address of what can be done with a run, which is only posted to."""
        view = self.admin_site.admin_view(require_POST(self.control_view))
        name = f"{self.opts.app_label}_{self.opts.model_name}_control"
        return [path("<path:object_id>/control/<str:action>/", view, name=name)]

    def control_view(self, request: HttpRequest, object_id: str, action: str) -> HttpResponse:
        """Pause a run, let it go on, or cancel it; and show it."""
        if not self.has_control_permission(request) or action not in ACTIONS:
            raise PermissionDenied
        row: Any = self.get_object(request, unquote(object_id))
        if row is None:
            # As Django does for the page of a row that is gone.
            django: Any = super()
            return django._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        try:
            done = row.state in _POSSIBLE[action] and ACTIONS[action](row.uid)
        except InvalidRequest:
            told = _("It belongs to another name space, and can be changed by a process of that alone.")
            self.message_user(request, told, messages.ERROR)
        else:
            self._tell(request, row, action, done)
        return HttpResponseRedirect(self.address_of(row))

    def _tell(self, request: HttpRequest, row: WarmingRun, action: str, done: bool) -> None:
        if not done:
            self.message_user(request, _("Nothing has changed: the run is in another state by now."), messages.WARNING)
            return
        if action == "resume":
            transaction.on_commit(partial(share_out, row.uid), using=self.database())
        self.log_change(request, row, str(_LABELS[action]))
        self.message_user(request, str(_DONE[action]) % {"uid": row.uid}, messages.SUCCESS)


def _money(amount: Decimal | None) -> str:
    return "" if amount is None else figures.money(amount)
