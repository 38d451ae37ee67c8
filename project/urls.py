"""The project's addresses."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

from project.demo import freshness, stream
from project.demo.views import aextract, extract, home

urlpatterns = [
    path("", home, name="home"),
    path("extract/", extract, name="extract"),
    path("aextract/", aextract, name="aextract"),
    path("freshness/", freshness.page, name="freshness"),
    path("freshness/board/", freshness.board_alone, name="freshness-board"),
    path("freshness/ask/", freshness.ask, name="freshness-ask"),
    path("freshness/invalidate/", freshness.invalidate, name="freshness-invalidate"),
    path("freshness/undo/", freshness.undo, name="freshness-undo"),
    path("stream/", stream.page, name="stream"),
    path("stream/events/", stream.events, name="stream-events"),
    path("llm/", include("llmcache.urls")),
    path("admin/", admin.site.urls),
    # The admin's pages name no icon, and browsers ask for one here.
    path("favicon.ico", RedirectView.as_view(url=static("demo/icon.svg")), name="icon"),
]
