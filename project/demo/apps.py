"""The demo app."""

from django.apps import AppConfig


class DemoConfig(AppConfig):
    """Keeps what the demo's runs came to."""

    name = "project.demo"
    verbose_name = "Demo"
    default_auto_field = "django.db.models.BigAutoField"
