"""The toy project's app, and the two knobs that tests turn in it."""

import os

from django.apps import AppConfig


class NotesConfig(AppConfig):
    """Applies ``TOY_IMPORT_SECONDS`` and ``TOY_GATE``."""

    name = "notes"

    def ready(self) -> None:
        """Turn the knobs."""
        if (seconds := os.environ.get("TOY_IMPORT_SECONDS")) is not None:
            from llmcache.money import writer

            writer.IMPORT_SECONDS = float(seconds)
        if os.environ.get("TOY_GATE") == "open":
            from llmcache.money.gate import Gate

            # The writer no longer looks at its callers' transactions.
            Gate.is_clear = lambda gate, alias: True  # type: ignore[method-assign]
