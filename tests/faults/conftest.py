"""A database with its tables for processes that meet faults."""

from tests.flows.conftest import migrated  # noqa: F401 - fixtures are found by their names here
