"""The pytest plugin of llmcache: every test is one of its own, and two fixtures.

It lies outside of the package because pytest loads it in every project that shares its environment with llmcache: with
it come neither Django nor the package, until a test uses a fixture or a project has the app installed. Under the name
``llmcache.testing.pytest_plugin`` it can be loaded by ``-p`` where plugins are not found by themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmcache import testing


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> None:
    """Begin the test with the first fixture that is its alone.

    What a class, module or session sets up comes before, and is no test's: it would be seen by that test alone which
    happens to run first.
    """
    if request.scope == "function":
        _begin()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Begin a test without fixtures."""
    _begin()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, Any, Any]:
    """End the test when its fixtures are cleaned up."""
    try:
        return (yield)
    finally:
        if _is_installed():
            from llmcache.engine import isolation

            isolation.end_test()


def _begin() -> None:
    """Make the running test one of its own to llmcache, in a project that has the app."""
    if _is_installed():
        from llmcache.engine import isolation

        if not isolation.has_begun():
            isolation.begin_test()


def _is_installed() -> bool:
    """Return whether Django is set up with the app; Django is not loaded for it."""
    module = sys.modules.get("django.apps")
    return module is not None and module.apps.ready and module.apps.is_installed("llmcache")


@pytest.fixture
def llmcache_fake() -> Iterator[testing.Fake]:
    """A fake provider, which answers in the place of all providers what the test teaches it."""
    from llmcache.testing import fake

    with fake() as made:
        yield made


@pytest.fixture
def assert_provider_calls() -> type[testing.assert_provider_calls]:
    """``with assert_provider_calls(n):`` fails unless n attempts leave for a provider in the block."""
    from llmcache.testing import assert_provider_calls

    return assert_provider_calls
