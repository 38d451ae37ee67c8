"""The Django app."""

from django.apps import AppConfig


class LLMCacheConfig(AppConfig):
    """Registers the system checks; opens nothing."""

    name = "llmcache"
    verbose_name = "LLM cache"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from llmcache import checks

        checks.register()
