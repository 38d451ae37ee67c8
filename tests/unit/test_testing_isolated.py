"""``IsolatedMixin``: each test of a class is one of its own, where nothing else makes it so."""

import unittest

import pytest
from django.test import SimpleTestCase, TransactionTestCase

import llmcache
from llmcache.engine import isolation
from llmcache.testing import IsolatedMixin, assert_provider_calls, fake


def ask(calls: int) -> None:
    with fake() as provider, assert_provider_calls(calls):
        provider.answer(int, 5)
        assert llmcache.extract("five", int) == 5


def result_of(case: type[unittest.TestCase]) -> unittest.TestResult:
    isolation.end_test()  # as under Django's own runner, where pytest's plugin has begun none
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun == 2
    assert not isolation.has_begun()
    return result


def run(case: type[unittest.TestCase]) -> None:
    result = result_of(case)
    assert not result.errors, result.errors[0][1]
    assert not result.failures, result.failures[0][1]


class Case:
    """Two tests that both have to ask, once: set-up, test and clean-up are one test."""

    def setUp(self) -> None:
        ask(1)
        self.addCleanup(ask, 0)  # pyright: ignore[reportAttributeAccessIssue]

    def tearDown(self) -> None:
        ask(0)

    def test_plain(self) -> None:
        ask(0)

    async def test_async(self) -> None:
        with assert_provider_calls(0):
            assert await llmcache.aextract("five", int) == 5


def test_simple_test_cases() -> None:
    class Isolated(IsolatedMixin, Case, SimpleTestCase):
        pass

    run(Isolated)


def test_unittests_own_async_test_cases() -> None:
    class Isolated(IsolatedMixin, unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self) -> None:
            with fake() as provider, assert_provider_calls(1):
                provider.answer(int, 5)
                assert await llmcache.aextract("five", int) == 5

        async def test_one(self) -> None:
            with assert_provider_calls(0):
                assert await llmcache.aextract("five", int) == 5

        async def test_two(self) -> None:
            await self.test_one()

    run(Isolated)


@pytest.mark.django_db(transaction=True)
def test_transaction_test_cases() -> None:
    class Isolated(IsolatedMixin, Case, TransactionTestCase):
        available_apps = ("llmcache",)

    run(Isolated)


def test_without_it_tests_of_a_class_without_transactions_share() -> None:
    class Shared(Case, SimpleTestCase):
        pass

    result = result_of(Shared)
    assert "0 provider calls were made where 1 were expected" in result.failures[-1][1]
