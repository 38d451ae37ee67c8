"""The Django app."""

from django.apps import AppConfig


class LLMCacheConfig(AppConfig):
    """Registers the system checks, and sees to it that the ledger knows of connections to SQLite; opens nothing."""

    name = "llmcache"
    verbose_name = "LLM cache"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and look at connections as they are made."""
        from llmcache import checks
        from llmcache.money import gate

        checks.register()
        gate.watch()
