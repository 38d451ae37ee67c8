"""Whether the project's database is ready to be used."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor


def require_tables() -> None:
    """Raise ``CommandError`` where tables are missing: before the first request, not when its numbers are kept."""
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except OperationalError as error:
        raise CommandError(f"The database cannot be used ({error}).") from None
    if missing:
        raise CommandError("The database is not ready: there are migrations to apply. Run: python manage.py migrate")
