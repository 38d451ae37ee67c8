"""The Django app."""

from django.apps import AppConfig, apps


class LLMCacheConfig(AppConfig):
    """Registers the system checks, and looks at connections as the project makes them; opens nothing."""

    name = "llmcache"
    verbose_name = "LLM cache"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and look at connections as they are made."""
        from llmcache import checks
        from llmcache.engine import isolation
        from llmcache.money import gate

        checks.register()
        gate.watch()
        isolation.watch()
        if apps.is_installed("django_celery_beat"):
            from llmcache.contrib import celery_beat

            celery_beat.watch()
