"""The project's addresses."""

from django.contrib import admin
from django.urls import path

from project.demo.views import home

urlpatterns = [
    path("", home, name="home"),
    path("admin/", admin.site.urls),
]
