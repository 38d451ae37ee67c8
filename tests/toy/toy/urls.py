"""The toy project's pages."""

from django.urls import path
from notes import views

urlpatterns = [
    path("note/", views.note),
    path("look/", views.look),
    path("fail/", views.fail),
    path("ledger/", views.ledger),
]
