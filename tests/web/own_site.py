"""Addresses of a project that has an ``AdminSite`` of its own and leaves Django's aside."""

from django.contrib import admin
from django.urls import path

from llmcache.admin import register


class OwnSite(admin.AdminSite):
    """The back office."""

    site_header = "Back office"
    site_url = None


site = OwnSite(name="office")
register(site)

urlpatterns = [path("office/", site.urls)]
