"""The project's addresses."""

from django.contrib import admin
from django.urls import path

from project.demo.views import aextract, extract, home

urlpatterns = [
    path("", home, name="home"),
    path("extract/", extract, name="extract"),
    path("aextract/", aextract, name="aextract"),
    path("admin/", admin.site.urls),
]
