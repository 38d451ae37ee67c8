"""The pages outside an admin site: ``path("llm/", include("llmcache.urls"))``."""

from django.urls import path

from llmcache.dashboard.views import dashboard, dashboard_json

app_name = "llmcache"
urlpatterns = [
    path("", dashboard, name="dashboard"),
    path("dashboard.json", dashboard_json, name="dashboard-json"),
]
