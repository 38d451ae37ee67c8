"""The pytest plugin under the package's name, for ``-p``; pytest finds it by itself as ``_llmcache_pytest``."""

from _llmcache_pytest import (
    assert_provider_calls,
    llmcache_cassette,
    llmcache_fake,
    llmcache_redact,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_fixture_setup,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_teardown,
    pytest_unconfigure,
)

__all__ = [
    "assert_provider_calls",
    "llmcache_cassette",
    "llmcache_fake",
    "llmcache_redact",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_fixture_setup",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_teardown",
    "pytest_unconfigure",
]
