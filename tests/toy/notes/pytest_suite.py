"""The project's tests as pytest has them, with and without a database; each would see what another left."""

import pytest
from asgiref.sync import async_to_sync

import llmcache
from llmcache.models import ProviderCall
from notes.alone import OUTCOMES, aassert_alone, aoutcomes, assert_alone, outcomes

THRICE = pytest.mark.parametrize("number", range(3))


@THRICE
@pytest.mark.django_db
def test_with_rows(number: int) -> None:
    assert_alone()


@THRICE
@pytest.mark.django_db(transaction=True)
def test_with_committed_rows(number: int) -> None:
    assert_alone()


@THRICE
def test_without_database(number: int) -> None:
    assert outcomes() == OUTCOMES
    assert not llmcache.flush()


@THRICE
@pytest.mark.django_db
def test_async_with_rows(number: int) -> None:
    async_to_sync(aassert_alone)()


@THRICE
def test_async_without_database(number: int) -> None:
    assert async_to_sync(aoutcomes)() == OUTCOMES


@pytest.fixture
def asked() -> list[str]:
    return outcomes()


@THRICE
@pytest.mark.django_db
def test_a_fixture_is_the_tests(number: int, asked: list[str]) -> None:
    assert asked == OUTCOMES
    llmcache.flush()
    assert ProviderCall.objects.count() == 1
