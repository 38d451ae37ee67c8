"""``IsolatedMixin``: for test classes that no transaction and no pytest plugin keeps apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmcache.engine import isolation

if TYPE_CHECKING:
    from unittest import TestCase as _Base
else:
    _Base = object


class IsolatedMixin(_Base):
    """Make each test of a class one of its own to llmcache: it sees no other's entries, calls or counts.

    Write it before the class: ``class InboxTests(IsolatedMixin, SimpleTestCase)``. Django's ``TestCase`` is isolated
    without it, by its transaction, and so is every test that pytest runs.
    """

    def run(self, result: Any = None) -> Any:
        """Run the test, set-up and clean-up included."""
        if isolation.has_begun():
            # Under pytest its plugin has done so, before the fixtures.
            return super().run(result)
        isolation.begin_test()
        try:
            return super().run(result)
        finally:
            isolation.end_test()
