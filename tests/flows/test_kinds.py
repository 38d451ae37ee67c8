"""What a project says of one kind of answers."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.core import checks
from pydantic import BaseModel

import llmcache
from llmcache import conf, kinds
from llmcache.engine import process
from llmcache.exceptions import ConfigurationError
from llmcache.testing.sandbox import Sandbox
from tests.conftest import MovedClock, llmcache_settings


class Person(BaseModel):
    """A person."""

    age: int


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = {"age": 36}
    return sandbox


def told(**options: Any) -> tuple[str, str | None]:
    found = llmcache.extract_with_info("Ada", Person, **options)
    return found.outcome, found.reason


def by_age(value: Person) -> object:
    """Tell a TTL."""
    return value.age * 10


def in_words(value: Person) -> object:
    """Tell what is no TTL."""
    return "a while"


def failing(value: Person) -> object:
    """Tell nothing."""
    raise KeyError("Ada")


async def later(value: Person) -> object:
    """Tell too late."""
    return 5


def of_kind(**settings: Any) -> Any:
    return llmcache_settings(KINDS={"Person": settings})


def test_a_ttl_for_one_kind(provider: Sandbox, clock: MovedClock) -> None:
    with of_kind(ttl=timedelta(minutes=1)), clock.kept():
        llmcache.extract("Ada", Person)
        llmcache.extract("Ada", Person, kind="other")
        clock.move(61)
        assert told(kind="other") == ("hit", None)
        assert told() == ("miss", "not_found")


def test_what_a_call_says_goes_before(provider: Sandbox, clock: MovedClock) -> None:
    with of_kind(ttl=60, stale_ttl=60, cache="bypass"), clock.kept():
        assert told(ttl=1_000, cache="use") == ("miss", "not_found")
        clock.move(61)
        assert told(ttl=1_000, cache="use") == ("hit", None)
        assert told(cache="only")[0] == "stale"
        with pytest.raises(llmcache.NotCached):
            told(cache="only", stale_ttl=0)
        assert told() == ("bypass", "bypass")


def test_lowering_it_works_at_once(provider: Sandbox, clock: MovedClock) -> None:
    llmcache.extract("Ada", Person)
    clock.move(61)
    with of_kind(ttl=60), clock.kept():
        assert told()[0] == "miss"


def test_a_kind_of_no_age_and_one_that_is_not_kept(provider: Sandbox, clock: MovedClock) -> None:
    with of_kind(ttl=None), clock.kept():
        llmcache.extract("Ada", Person)
        clock.move(399 * 86_400)
        assert told() == ("hit", None)
    with of_kind(ttl=0), clock.kept():
        assert told() == ("bypass", "ttl_zero")


def test_stale_for_no_time_although_others_are(provider: Sandbox, clock: MovedClock) -> None:
    with llmcache_settings(STALE_TTL=1_000, TTL=60, KINDS={"Person": {"stale_ttl": 0}}), clock.kept():
        llmcache.extract("Ada", Person)
        llmcache.extract("Ada", Person, kind="other")
        clock.move(61)
        assert told() == ("miss", "not_found")
        assert told(kind="other", cache="only") == ("stale", None)


def test_a_version_for_one_kind_makes_its_requests_new(provider: Sandbox) -> None:
    def key(**options: Any) -> str:
        return llmcache.extract_with_info("Ada", Person, **options).key

    mine, other = key(), key(kind="other")
    with of_kind(version=""):
        assert key() == mine
    with of_kind(version="2"):
        assert key(kind="other") == other
        bumped = key()
    with llmcache_settings(VERSION="2"):
        project = key()
    with llmcache_settings(VERSION="2", KINDS={"Person": {"version": "2"}}):
        both = key()
    assert len({mine, bumped, project, both}) == 4


# -- a TTL that follows from the value


@pytest.mark.parametrize("tell", [by_age, f"{__name__}.by_age", lambda value: timedelta(seconds=360)])
@pytest.mark.parametrize("awaited", [False, True])
def test_a_ttl_derived_from_the_value(tell: Any, awaited: bool, provider: Sandbox, clock: MovedClock) -> None:
    with of_kind(ttl=tell), clock.kept():
        if awaited:
            asyncio.run(_aextract())
        else:
            llmcache.extract("Ada", Person)
        found = llmcache.extract_with_info("Ada", Person)
        assert (found.outcome, found.ttl_left_seconds) == ("hit", pytest.approx(360, abs=2))
        clock.move(361)
        assert told() == ("miss", "not_found")
        # A call's own goes before it, for who reads and who writes.
        assert told(ttl=5_000) == ("hit", None)
        clock.move(100)
        assert told(ttl=50)[0] == "miss"


async def _aextract() -> None:
    await llmcache.aextract("Ada", Person)


def test_an_answer_that_lasts_for_no_time_is_not_kept(provider: Sandbox) -> None:
    with of_kind(ttl=lambda value: 0):
        assert told() == ("miss", "not_found")
        assert told() == ("miss", "not_found")
    assert provider.calls == 2


@pytest.mark.parametrize(
    ("tell", "said"),
    [
        (failing, "raised KeyError"),
        (in_words, "returned what is neither seconds nor a timedelta nor None"),
        (lambda value: -1, "returned what is neither seconds nor a timedelta nor None"),
        (lambda value: float("nan"), "returned what is neither seconds nor a timedelta nor None"),
        (lambda value: True, "returned what is neither seconds nor a timedelta nor None"),
    ],
)
def test_one_that_raises_or_tells_nonsense_loses_no_answer(
    tell: Any,
    said: str,
    provider: Sandbox,
    clock: MovedClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kinds, "_warned", set())
    with llmcache_settings(TTL=500, KINDS={"Person": {"ttl": tell}}), clock.kept():
        with caplog.at_level(logging.WARNING, logger="llmcache.call"):
            assert told() == ("miss", "not_found")
            assert told(cache="refresh") == ("miss", "refresh")
        assert llmcache.extract_with_info("Ada", Person).ttl_left_seconds == pytest.approx(500, abs=2)
    # Once, and without what was read from the text.
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"LLMCACHE['KINDS']['Person']['ttl'] {said}: its answers are kept for LLMCACHE['TTL']."
    assert "Ada" not in line


# -- settings


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], " must be a dict of kinds, e.g. {'Ticket': {'ttl': 3600}}"),
        ({1: {}}, " has a kind that is no str, or empty"),
        ({"": {}}, " has a kind that is no str, or empty"),
        ({"Person": 60}, "['Person'] must be a dict with any of ttl, stale_ttl, refresh, cache, version, type"),
        ({"Person": {"tll": 60}}, "['Person'] has the unknown key 'tll'; did you mean 'ttl'?"),
        (
            {"Person": {"ttl": -1}},
            (
                "['Person']['ttl'] must be a number of seconds or a timedelta, zero or more, or None for no expiry; or "
                "a function that is given the value and returns one of these, and is not async"
            ),
        ),
        ({"Person": {"stale_ttl": None}}, "['Person']['stale_ttl'] must be a number of seconds or a timedelta, "),
        ({"Person": {"refresh": "cron"}}, "['Person']['refresh'] must be 'thread' or 'call' or 'celery'"),
        ({"Person": {"cache": "no"}}, "['Person']['cache'] must be 'use' or 'refresh' or 'bypass' or 'only'"),
        ({"Person": {"version": 2}}, "['Person']['version'] must be a string of at most 200 printable characters"),
        ({"Person": {"type": "Ticket!"}}, "['Person']['type'] must be a response type, or its dotted path"),
        ({"Person": {"type": None}}, "['Person']['type'] must be a response type, or its dotted path"),
    ],
)
def test_what_cannot_be_used_is_named(value: Any, message: str) -> None:
    (problem,) = conf.problems({"KINDS": value})
    assert problem.message.startswith(f"LLMCACHE['KINDS']{message}")


def test_an_async_function_is_refused() -> None:
    (problem,) = conf.problems({"KINDS": {"Person": {"ttl": later}}})
    assert "is not async" in problem.message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "tests.flows.test_kinds.Nobody"}, "which cannot be imported: ImportError"),
        ({"type": "nowhere.Nobody"}, "which cannot be imported: ModuleNotFoundError"),
        ({"ttl": "tests.flows.test_kinds.nobody"}, "which cannot be imported: ImportError"),
        ({"ttl": "tests.flows.test_kinds.later"}, "which is not a plain function"),
        ({"type": "tests.flows.test_kinds.by_age"}, "['type'] cannot be used."),
    ],
)
def test_a_path_that_leads_nowhere_is_a_check(given: Any, said: str, provider: Sandbox) -> None:
    with of_kind(**given):
        found = [each for each in checks.run_checks(tags=["llmcache"]) if each.id == "llmcache.E010"]
        assert len(found) == 1
        assert said in found[0].msg


def test_a_ttl_that_cannot_be_imported_ends_the_call_before_it_costs(provider: Sandbox) -> None:
    with of_kind(ttl="tests.flows.test_kinds.nobody"), pytest.raises(ConfigurationError, match="cannot be imported"):
        llmcache.extract("Ada", Person)
    assert provider.calls == 0


def test_the_registered_type_by_path_and_by_itself(provider: Sandbox) -> None:
    with llmcache_settings(KINDS={"a": {"type": Person}, "b": {"type": f"{__name__}.Person"}, "c": {"ttl": 1}}):
        settings = process.current().settings
        found = [kinds.registered_type(settings, kind) for kind in ("a", "b", "c", "d")]
    assert found == [Person, Person, None, None]
