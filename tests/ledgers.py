"""Ledgers for tests of reports: SQLite as every test has it, and a PostgreSQL database of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from pytest_django import DjangoDbBlocker

from tests.services import Postgres

ALIAS = "reports"


@contextlib.contextmanager
def known(database: dict[str, Any]) -> Iterator[None]:
    """Let the project know a database as ``ALIAS`` for a while, so that no other test meets it."""
    connections.databases[ALIAS] = database
    connections.configure_settings(connections.databases)
    try:
        yield
    finally:
        connections[ALIAS].close()
        del connections[ALIAS]
        del connections.databases[ALIAS]


@pytest.fixture(scope="session")
def postgresql_tables(postgres: Postgres, django_db_blocker: DjangoDbBlocker) -> dict[str, Any]:
    """The settings of a PostgreSQL database that has the ledger's tables."""
    database = postgres.database("reports")
    with django_db_blocker.unblock(), known(database):
        call_command("migrate", "llmcache", database=ALIAS, verbosity=0)
    return database


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The alias of the ledger's database, empty; what a test writes is rolled back."""
    if request.param == "sqlite":
        request.getfixturevalue("db")
        yield "default"
        return
    database: dict[str, Any] = request.getfixturevalue("postgresql_tables")
    blocker: DjangoDbBlocker = request.getfixturevalue("django_db_blocker")
    settings: Any = request.getfixturevalue("settings")
    settings.LLMCACHE = {**settings.LLMCACHE, "DATABASE": ALIAS}
    with blocker.unblock(), known(database), transaction.atomic(using=ALIAS):
        yield ALIAS
        transaction.set_rollback(True, using=ALIAS)
