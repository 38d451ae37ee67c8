"""What tests of code that uses llmcache need; nothing here is loaded by the app itself.

    fake()                   answers in the place of all providers; with pytest the fixture ``llmcache_fake``
    cassette(name)           plays what a provider answered once, and records it; with pytest ``llmcache_cassette``
    assert_provider_calls(n) fails unless n attempts leave for a provider; with pytest the fixture of that name
    finish_refreshes()       waits until no stale answer is being asked for anew
    override_llmcache(...)   changes some keys of ``LLMCACHE`` and keeps the others
    IsolatedMixin            makes each test of a ``unittest`` class a test of its own; under pytest every test is
    sandbox                  a real HTTP server on loopback that speaks OpenAI's API
    tier_contract            tests for a cache backend of one's own that is to be a tier

The names are loaded when they are used: only ``pytest_plugin`` needs pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcache.testing.cassettes.cassette import Cassette, cassette
    from llmcache.testing.cassettes.errors import CassetteError, NotRecorded, UnusedInteractions
    from llmcache.testing.counting import assert_provider_calls
    from llmcache.testing.fakes import Fake, FakeCall, NoFakeAnswer, fake
    from llmcache.testing.finishing import finish_refreshes
    from llmcache.testing.isolated import IsolatedMixin
    from llmcache.testing.overrides import override_llmcache

__all__ = [
    "Cassette",
    "CassetteError",
    "Fake",
    "FakeCall",
    "IsolatedMixin",
    "NoFakeAnswer",
    "NotRecorded",
    "UnusedInteractions",
    "assert_provider_calls",
    "cassette",
    "fake",
    "finish_refreshes",
    "override_llmcache",
]

_HOMES = {
    "Cassette": "cassettes.cassette",
    "CassetteError": "cassettes.errors",
    "Fake": "fakes",
    "FakeCall": "fakes",
    "IsolatedMixin": "isolated",
    "NoFakeAnswer": "fakes",
    "NotRecorded": "cassettes.errors",
    "UnusedInteractions": "cassettes.errors",
    "assert_provider_calls": "counting",
    "cassette": "cassettes.cassette",
    "fake": "fakes",
    "finish_refreshes": "finishing",
    "override_llmcache": "overrides",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
