"""The project's addresses."""

from django.contrib import admin
from django.urls import include, path

from project.demo.views import aextract, extract, home

urlpatterns = [
    path("", home, name="home"),
    path("extract/", extract, name="extract"),
    path("aextract/", aextract, name="aextract"),
    path("llm/", include("llmcache.urls")),
    path("admin/", admin.site.urls),
]
