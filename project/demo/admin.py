"""The demo's runs in the admin, to look at."""

from typing import ClassVar

from django.contrib import admin

from project.demo import amounts, reports
from project.demo.models import DemoRun


@admin.register(DemoRun)
class DemoRunAdmin(admin.ModelAdmin):
    """A list of runs with their main numbers; nobody can change what was measured."""

    list_display = ("started_at", "mode", "provider", "requests", "hit_rate", "provider_calls", "seconds", "complete")
    list_filter = ("mode", "provider", "complete")
    readonly_fields: ClassVar = [field.name for field in DemoRun._meta.fields]

    @admin.display(description="hit rate")
    def hit_rate(self, run: DemoRun) -> str:
        """Return the share of calls that needed no provider call of their own."""
        return amounts.percent(reports.figures([run]).hit_rate)

    def has_add_permission(self, *_: object, **__: object) -> bool:
        """Runs are made by the command."""
        return False

    def has_change_permission(self, *_: object, **__: object) -> bool:
        """Numbers stay as they were measured."""
        return False

    def has_delete_permission(self, *_: object, **__: object) -> bool:
        """What was paid for stays in the sum of all runs."""
        return False
