"""The pytest plugin under the package's name, for ``-p``; pytest finds it by itself as ``_llmcache_pytest``."""

from _llmcache_pytest import (
    assert_provider_calls,
    llmcache_fake,
    pytest_fixture_setup,
    pytest_runtest_call,
    pytest_runtest_teardown,
)

__all__ = [
    "assert_provider_calls",
    "llmcache_fake",
    "pytest_fixture_setup",
    "pytest_runtest_call",
    "pytest_runtest_teardown",
]
