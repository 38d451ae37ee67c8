"""Plans of warming: the list, the form, and what can be done now: a run, or a look at what one would cost."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_POST

from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import known, number
from llmcache.admin_pages.lists import LedgerAdmin, may
from llmcache.admin_pages.users import name_of
from llmcache.admin_pages.warming_plan_form import Source, WarmingPlanForm
from llmcache.admin_pages.warming_runs import run_badge
from llmcache.dashboard import figures
from llmcache.exceptions import ConfigurationError, LLMCacheError
from llmcache.models import WarmingPlan, WarmingRun
from llmcache.sending import share_out
from llmcache.warming.plans import next_due, run_plan

_RUNS_SHOWN: Final = 5


class WarmingPlanAdmin(LedgerAdmin):
    """What is kept warm. Plans are made, changed and deleted here; runs of them are not."""

    list_display = ("name", "source_column", "kind", "budget_column", "due_column", "enabled")
    list_filter = (filters.Kind,)
    search_fields = ("name",)
    search_help_text = gettext_lazy("The beginning of a name.")
    change_form_template = "admin/llmcache/warmingplan/change_form.html"
    form = WarmingPlanForm
    fields = None
    fieldsets = (
        (None, {"fields": ("name", "enabled")}),
        (gettext_lazy("Where texts come from"), {"fields": ("source", "texts", "days", "most")}),
        (gettext_lazy("What is asked"), {"fields": ("kind", "model", "system", "tenant", "tags")}),
        (gettext_lazy("Budget and pace"), {"fields": ("max_usd", "max_calls", "per_minute", "concurrency")}),
        (gettext_lazy("When"), {"fields": ("crontab",)}),
    )

    # Who may do what: as Django has it

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Return whether this user may make plans."""
        return may(request, "llmcache.add_warmingplan")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Return whether this user may change plans."""
        return may(request, "llmcache.change_warmingplan")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Return whether this user may delete plans; their runs stay."""
        return may(request, "llmcache.delete_warmingplan")

    def has_run_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may run what they can see."""
        return self.has_view_permission(request, obj) and may(request, "llmcache.run_warmingplan")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:  # noqa: ARG002
        """Return none: a plan is run and deleted from its own page."""
        return {}

    # The list

    @admin.display(description=gettext_lazy("source"))
    def source_column(self, plan: WarmingPlan) -> str:
        """Return where its texts come from."""
        labels: dict[str, Any] = dict(Source.choices)
        return str(labels.get(plan.source, Truncator(plan.source).chars(80)))

    @admin.display(description=gettext_lazy("at most"))
    def budget_column(self, plan: WarmingPlan) -> str | SafeString:
        """Return what a run of it may come to."""
        told = [] if plan.max_usd is None else [figures.money(plan.max_usd)]
        if plan.max_calls is not None:
            told.append(_("%(number)s calls") % {"number": number(plan.max_calls)})
        return ", ".join(told) or columns.UNKNOWN

    @admin.display(description=gettext_lazy("due"))
    def due_column(self, plan: WarmingPlan) -> str | SafeString:
        """Return when it is due next, and by which crontab."""
        if not plan.crontab:
            return _("by hand")
        return columns.two_lines(_next(plan), plan.crontab)

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return plans by the beginning of their name."""
        return queryset.filter(name__istartswith=wanted)

    # The form

    @method_decorator(sensitive_post_parameters("texts", "system"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Show the form, or take what was written into it."""
        return super().changeform_view(request, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: ARG002
        """Save a plan in the ledger's database, but for what its runs write there meanwhile."""
        if change:
            obj.save(using=self.database(), update_fields=WarmingPlanForm.Meta.fields)
        else:
            obj.save(using=self.database())

    def delete_model(self, request: HttpRequest, obj: Any) -> None:  # noqa: ARG002
        """Delete a plan in the ledger's database."""
        obj.delete(using=self.database())

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Add a plan's runs, and what can be done now."""
        if obj is not None:
            can_see = self.readable(request, WarmingRun)
            newest = WarmingRun.objects.using(self.database()).filter(plan=obj).order_by("-pk")[:_RUNS_SHOWN]
            context |= {
                "can_run": self.has_run_permission(request, obj),
                "run_address": self.address("run", obj.pk),
                "dry_run_address": self.address("dry_run", obj.pk),
                "due": _next(obj) if obj.crontab else "",
                "runs": [
                    {
                        "address": self.address_of(run) if can_see else None,
                        "made": columns.moment(run.made_at),
                        "badge": run_badge(run),
                        "items": number(run.items_count),
                        "cost": figures.money(run.spent_usd),
                    }
                    for run in newest
                ],
            }
        return admin.ModelAdmin.render_change_form(self, request, context, add, change, form_url, obj)

    # Now

    def own_urls(self) -> list[URLPattern]:
        """Add the addresses of running a plan, which are only posted to."""
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        views = {"run": self.run_view, "dry_run": self.dry_run_view}
        return [
            path(f"<path:object_id>/{word}/", self.admin_site.admin_view(require_POST(view)), name=f"{name}_{word}")
            for word, view in views.items()
        ]

    def run_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Prepare a run of a plan, tell a worker of it, and show it."""
        return self._done(request, object_id, self._run)

    def dry_run_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say what a run of a plan would ask and cost."""
        return self._done(request, object_id, self._dry_run)

    @sensitive_variables()
    def _done(self, request: HttpRequest, object_id: str, do: Any) -> HttpResponse:
        if not self.has_run_permission(request):
            raise PermissionDenied
        plan: Any = self.get_object(request, unquote(object_id))
        if plan is None:
            # As Django does for the page of a row that is gone.
            django: Any = super()
            return django._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        try:
            # What has failed in a source has not broken the request's own transaction.
            with transaction.atomic(using=self.database()):
                address = do(request, plan)
        except LLMCacheError as error:
            self.message_user(request, error.message, messages.ERROR)
            address = self.address_of(plan)
        except Exception as error:  # noqa: BLE001  # of a source, which is the project's own function
            told = _("The source has failed: %(error)s. Nothing was asked.") % {"error": type(error).__name__}
            self.message_user(request, told, messages.ERROR)
            address = self.address_of(plan)
        return HttpResponseRedirect(address)

    def _run(self, request: HttpRequest, plan: WarmingPlan) -> str:
        run = run_plan(plan, made_by=name_of(request))
        # Workers have to find it.
        transaction.on_commit(partial(share_out, run.uid), using=self.database())
        self.log_change(request, plan, _("Run."))
        told = _(
            "%(count)s items are prepared. Celery workers ask for them; without these: "
            "manage.py llmcache_warm --resume %(uid)s"
        ) % {"count": number(run.items_count), "uid": run.uid}
        self.message_user(request, told, messages.SUCCESS)
        return self.address_of(run) if self.readable(request, WarmingRun) else self.address_of(plan)

    def _dry_run(self, request: HttpRequest, plan: WarmingPlan) -> str:
        found = run_plan(plan, dry_run=True)
        told = _(
            "A run would ask for %(to_ask)s of %(items)s items now: %(live)s answers are there, %(duplicates)s items "
            "are duplicates. Estimated cost: %(cost)s (%(basis)s). Nothing was asked."
        ) % {
            "to_ask": number(found.to_ask),
            "items": number(found.items),
            "live": number(found.live),
            "duplicates": number(found.duplicates),
            "cost": figures.money(found.usd) if found.usd is not None else columns.UNKNOWN,
            "basis": found.basis or _("there is nothing to ask"),
        }
        self.message_user(request, told, messages.INFO)
        return self.address_of(plan)


def _next(plan: WarmingPlan) -> str:
    """Return when a plan is due next."""
    if not plan.enabled:
        return _("not while it is off")
    try:
        at = next_due(plan)
    except ConfigurationError:
        return _("never: Celery is not installed")
    return _("never: the crontab cannot be read") if at is None else known(columns.moment(at))
