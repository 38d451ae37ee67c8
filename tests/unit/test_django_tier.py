"""A cache of Django's as a tier: what is said of its faults, and for how long it is asked to keep things."""

import math
from collections.abc import Iterator

import pytest
from django.test import override_settings

from llmcache.exceptions import ConfigurationError
from llmcache.tiers.configured import tier_of
from llmcache.tiers.django_tier import whole_seconds
from tests.unit.odd_caches import Quiet
from tests.waiting import until


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Quiet, "down", True)
    with override_settings(CACHES={"default": {"BACKEND": "tests.unit.odd_caches.Quiet", "LOCATION": "quiet"}}):
        yield


def test_a_client_that_keeps_quiet_about_its_server(
    quiet: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = tier_of("default")
    with caplog.at_level("INFO", logger="llmcache.tiers"):
        for number in range(20):
            tier.set(f"key-{number}", b"value", None)
            assert tier.get(f"key-{number}") is None
            tier.delete(f"key-{number}")
            tier.get("nothing")
        state = tier.state()
        assert (state.reads, state.writes, state.error) == (False, False, "ConnectionError")
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        monkeypatch.setattr(Quiet, "down", False)
        tier.set("key", b"value", None)
        state = tier.state()
        assert (state.reads, state.writes) == (True, True)
        assert [record.levelname for record in caplog.records][2:] == ["INFO", "INFO"]


def test_a_client_that_keeps_quiet_does_not_pass_for_a_server_that_is_back(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise ConnectionRefusedError("nobody is there")

    monkeypatch.setattr(Quiet, "silent", True)
    tier = tier_of("default")
    with monkeypatch.context() as patch:
        patch.setattr(Quiet, "_lost", refuse)
        assert tier.get("key") is None
    asked = Quiet.operations
    until(lambda: Quiet.operations >= asked + 9)
    assert tier.state().breaker == "open"
    monkeypatch.setattr(Quiet, "down", False)
    until(lambda: tier.state().breaker == "closed")
    tier.set("key", b"value", None)
    assert tier.get("key") == b"value"
    assert tier.state().faults == 1


def test_only_the_first_line_of_an_error_is_logged(
    quiet: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise RuntimeError("the row is too long" + "!" * 500 + "\nDETAIL: (a paid answer)")

    monkeypatch.setattr(Quiet, "_lost", fail)
    tier_of("default").set("key", b"value", None)
    (record,) = caplog.records
    assert "the row is too long!" in record.getMessage()
    assert "paid" not in record.getMessage()
    assert len(record.getMessage()) < 400


@pytest.mark.parametrize(
    ("ttl", "asked"),
    [(None, None), (0.001, 2), (1, 2), (1.5, 3), (86_400, 86_401), (1e9, None), (1e300, None), (math.inf, None)],
)
def test_whole_seconds_are_never_fewer(ttl: float | None, asked: int | None) -> None:
    assert whole_seconds(ttl) == asked


@pytest.mark.parametrize("alias", ["default", "nowhere"])
def test_what_is_no_tier_of_bytes(alias: str) -> None:
    with (
        override_settings(CACHES={"default": {"BACKEND": "llmcache.backends.MemoryCache"}}),
        pytest.raises(ConfigurationError, match=alias),
    ):
        tier_of(alias)
