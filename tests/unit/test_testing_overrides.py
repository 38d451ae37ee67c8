"""``override_llmcache``: merges, nests, and says what it cannot use."""

import asyncio
import unittest
from typing import Any

import pytest
from django.conf import settings
from django.test import SimpleTestCase, TestCase, override_settings

import llmcache
from llmcache import conf
from llmcache.testing import override_llmcache


def now() -> tuple[float | None, int]:
    found = conf.current()
    return found.ttl, found.max_retries


def test_it_keeps_what_it_does_not_name_and_puts_back_what_it_does() -> None:
    before = settings.LLMCACHE
    with override_llmcache(TTL=5, MAX_RETRIES=7):
        assert now() == (5.0, 7)
        assert {**settings.LLMCACHE, **before} == {**before, "TTL": 5, "MAX_RETRIES": 7} | before
        assert settings.LLMCACHE["JOURNAL"] == before["JOURNAL"]
    assert settings.LLMCACHE is before


def test_it_merges_into_what_is_in_force_when_it_begins() -> None:
    made = override_llmcache(TTL=5)
    with override_llmcache(MAX_RETRIES=7):
        with made:
            assert now() == (5.0, 7)
        with override_llmcache(MAX_RETRIES=8), made:
            assert now() == (5.0, 8)
        assert now()[1] == 7


def test_it_works_over_no_settings_at_all_and_under_djangos() -> None:
    with override_settings(), override_settings():
        del settings.LLMCACHE
        with override_llmcache(TTL=5):
            assert settings.LLMCACHE == {"TTL": 5}
        assert not hasattr(settings, "LLMCACHE")
    with override_llmcache(TTL=5), override_settings(LLMCACHE={"MAX_RETRIES": 7}):
        assert now() == (conf.read({}).ttl, 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TTLL": 5}, "did you mean 'TTL'"),
        ({"ttl": 5}, "did you mean 'TTL'"),
        ({"MAX_RETRY": 5}, "did you mean 'MAX_RETRIES'"),
        ({"TTL": "long"}, r"LLMCACHE\['TTL'\] must be a number of seconds"),
    ],
)
def test_what_it_cannot_use_is_an_error_at_entry(changes: dict[str, Any], said: str) -> None:
    before = settings.LLMCACHE
    made = override_llmcache(**changes)
    with pytest.raises(llmcache.ConfigurationError, match=said), made:
        pytest.fail("not reached")
    assert settings.LLMCACHE is before


def test_what_is_in_force_cannot_be_used() -> None:
    with (
        override_settings(LLMCACHE=5),
        pytest.raises(llmcache.ConfigurationError, match="must be a dict"),
        override_llmcache(TTL=5),
    ):
        pytest.fail("not reached")


def test_it_decorates_functions_and_coroutine_functions() -> None:
    @override_llmcache(TTL=5)
    def plain(more: int) -> tuple[Any, ...]:
        return (*now(), more)

    @override_llmcache(TTL=6)
    async def coroutine(more: int) -> tuple[Any, ...]:
        await asyncio.sleep(0)
        return (*now(), more)

    retries = now()[1]
    assert plain(1) == (5.0, retries, 1)
    assert plain(2) == (5.0, retries, 2)
    assert asyncio.run(coroutine(3)) == (6.0, retries, 3)
    assert now()[0] not in (5.0, 6.0)


def run(case: type[unittest.TestCase]) -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun
    assert not result.errors, result.errors[0][1]
    assert not result.failures, result.failures[0][1]


def seen_by(*decorators: Any, base: type[SimpleTestCase] = SimpleTestCase) -> tuple[type[SimpleTestCase], list[Any]]:
    """Return a class of two tests with decorators, the innermost first, and what its tests see in force."""
    seen: list[Any] = []

    class Case(base):  # pyright: ignore[reportGeneralTypeIssues]
        def test_plain(self) -> None:
            seen.append(now())

        async def test_async(self) -> None:
            seen.append(now())

    case: Any = Case
    for decorator in decorators:
        case = decorator(case)
    return case, seen


def test_it_decorates_classes() -> None:
    retries = now()[1]
    case, seen = seen_by(override_llmcache(TTL=5))
    run(case)
    assert seen == [(5.0, retries)] * 2
    with override_llmcache(MAX_RETRIES=7):
        run(case)
    assert seen[2:] == [(5.0, 7)] * 2
    assert now() == (conf.current().ttl, retries)


def test_decorators_of_a_class_add_up() -> None:
    case, seen = seen_by(override_llmcache(TTL=5), override_llmcache(MAX_RETRIES=7), override_llmcache(TTL=6))
    run(case)
    assert seen == [(6.0, 7)] * 2


def test_a_class_adds_to_djangos_own_override() -> None:
    for order in (1, -1):
        case, seen = seen_by(*[override_settings(LLMCACHE={"MAX_RETRIES": 7}), override_llmcache(TTL=5)][::order])
        run(case)
        assert seen == [(5.0, 7)] * 2


def test_a_subclass_inherits_and_wins() -> None:
    parent, _ = seen_by(override_llmcache(TTL=5, MAX_RETRIES=7))
    plain, seen_plain = seen_by(base=parent)
    changed, seen_changed = seen_by(override_llmcache(TTL=6), base=parent)
    for _ in range(2):
        for case in (changed, plain, parent):
            run(case)
    assert set(seen_plain) == {(5.0, 7)}
    assert set(seen_changed) == {(6.0, 7)}


@pytest.mark.django_db
def test_it_is_in_force_where_a_class_makes_its_data() -> None:
    seen: list[Any] = []

    @override_llmcache(TTL=5)
    class Case(TestCase):
        @classmethod
        def setUpTestData(cls) -> None:
            seen.append(now()[0])

        def test_one(self) -> None:
            seen.append(now()[0])

    run(Case)
    assert seen == [5.0, 5.0]


def test_a_class_that_cannot_be_decorated_is_refused() -> None:
    with pytest.raises(TypeError, match="SimpleTestCase"):
        override_llmcache(TTL=5)(unittest.TestCase)


def test_a_class_with_changes_that_cannot_be_used_does_not_run() -> None:
    case, seen = seen_by(override_llmcache(TTLL=5))
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert seen == []
    assert "did you mean 'TTL'" in result.errors[0][1]


def test_entries_of_the_test_are_there_before_within_and_after(llmcache_fake: Any) -> None:
    llmcache_fake.answer(int, 5)
    outcomes = [llmcache.extract_with_info("five", int).outcome]
    with override_llmcache(MAX_RETRIES=7):
        outcomes.append(llmcache.extract_with_info("five", int).outcome)
    outcomes.append(llmcache.extract_with_info("five", int).outcome)
    assert outcomes == ["miss", "hit", "hit"]
