"""The ledger's rows in Django's admin.

Django registers them with the default site. A site of your own takes them with ``register(site)``.
"""

from __future__ import annotations

from typing import Final

from django.contrib import admin
from django.db import models

from llmcache.admin_pages.calls import ProviderCallAdmin
from llmcache.admin_pages.corrections import CorrectionAdmin
from llmcache.admin_pages.entries import CacheEntryAdmin
from llmcache.admin_pages.invalidations import InvalidationAdmin
from llmcache.admin_pages.planned import PlannedInvalidationAdmin
from llmcache.admin_pages.schemas import SchemaVersionAdmin
from llmcache.admin_pages.sums import TenantDayAdmin, UsageBucketAdmin
from llmcache.admin_pages.warming_plans import WarmingPlanAdmin
from llmcache.admin_pages.warming_runs import WarmingRunAdmin
from llmcache.dashboard.in_admin import DashboardAdmin
from llmcache.models import (
    CacheEntry,
    Correction,
    Dashboard,
    Invalidation,
    PlannedInvalidation,
    ProviderCall,
    SchemaVersion,
    TenantDay,
    UsageBucket,
    WarmingPlan,
    WarmingRun,
)

ADMINS: Final[dict[type[models.Model], type[admin.ModelAdmin]]] = {
    Dashboard: DashboardAdmin,
    CacheEntry: CacheEntryAdmin,
    ProviderCall: ProviderCallAdmin,
    UsageBucket: UsageBucketAdmin,
    TenantDay: TenantDayAdmin,
    SchemaVersion: SchemaVersionAdmin,
    Invalidation: InvalidationAdmin,
    PlannedInvalidation: PlannedInvalidationAdmin,
    Correction: CorrectionAdmin,
    WarmingPlan: WarmingPlanAdmin,
    WarmingRun: WarmingRunAdmin,
}


def register(site: admin.AdminSite) -> None:
    """Register all models of llmcache with a site that has none of them yet."""
    for model, model_admin in ADMINS.items():
        site.register(model, model_admin)


register(admin.site)
