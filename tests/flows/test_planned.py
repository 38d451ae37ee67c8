"""Invalidations that are planned ahead: when they hold, for whom, and how they are called off."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone
from pydantic import BaseModel
from pytest_django import DjangoDbBlocker

import llmcache
from llmcache import planned
from llmcache.admin_pages.invalidation_form import InvalidationForm
from llmcache.exceptions import InvalidRequest
from llmcache.models import Invalidation, PlannedInvalidation
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.ledgers import ALIAS, known

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers["Ada"] = {"name": "Ada"}
    with llmcache_settings(KINDS={}):
        yield sandbox


def ask(**options: Any) -> str:
    return llmcache.extract_with_info("Ada", Person, **options).outcome


def let_it_be_due(uid: str | None, ago: timedelta = timedelta(seconds=1)) -> None:
    """Let the time of a plan have come, as if it had been made for another."""
    assert PlannedInvalidation.objects.filter(uid=uid).update(due_at=timezone.now() - ago) == 1


def test_it_holds_from_its_time_on_once_and_for_every_condition() -> None:
    ask(tenant="acme", subject="ann", tags=["a"])
    at = timezone.now() + HOUR
    told = llmcache.invalidate(tenant="acme", subject="ann", tag="a", kind="Person", at=at, reason="prices", user="eve")
    assert (told.due_at, told.entries) == (at, None)
    assert ask(tenant="acme", subject="ann", tags=["a"]) == "hit"
    # Nobody can bring it into force too early.
    assert planned.bring_into_force(str(told.id)) is False
    assert planned.bring_all_into_force() == 0
    assert not Invalidation.objects.exists()
    let_it_be_due(told.id)
    assert ask(tenant="acme", subject="ann", tags=["a"]) == "hit"
    assert planned.bring_into_force(str(told.id)) is True
    assert ask(tenant="acme", subject="ann", tags=["a"]) == "miss"
    assert ask(tenant="acme", subject="ann", tags=["a"]) == "hit"
    assert planned.bring_into_force(str(told.id)) is False
    assert planned.bring_all_into_force() == 0
    row = Invalidation.objects.get()
    assert (row.uid, row.reason, row.made_by, row.active) == (told.id, "prices", "eve", True)
    # Not the time at which it was planned: what was asked for until now has been void since now.
    assert row.made_at > at - HOUR


def test_what_was_stored_after_the_plan_is_void_too() -> None:
    """Nobody has seen an invalidation that was not in force."""
    told = llmcache.invalidate(kind="Person", at=timezone.now() + HOUR)
    assert ask() == "miss"
    let_it_be_due(told.id)
    assert planned.bring_all_into_force() == 1
    assert [ask(), ask()] == ["miss", "hit"]


def test_it_is_called_off_before_and_undone_after() -> None:
    ask()
    first, second = (llmcache.invalidate(everything=True, at=timezone.now() + HOUR) for _ in range(2))
    assert llmcache.undo(first, user="ann") is True
    assert llmcache.undo(str(first.id)) is False
    let_it_be_due(first.id)
    let_it_be_due(second.id)
    assert planned.bring_into_force(str(first.id)) is False
    assert planned.bring_all_into_force() == 1
    assert PlannedInvalidation.objects.get(uid=first.id).called_off_by == "ann"
    assert llmcache.undo(second) is True
    assert llmcache.undo(second) is False
    assert ask() == "hit"


def test_a_time_that_is_over_is_now() -> None:
    ask()
    told = llmcache.invalidate(kind="Person", at=timezone.now() - HOUR)
    assert told.due_at is None
    assert ask() == "miss"
    assert not PlannedInvalidation.objects.exists()


def test_a_project_without_time_zones_plans_too(settings: Any) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Kolkata"
    at = datetime.now(UTC) + HOUR
    told = llmcache.invalidate(kind="Person", at=at)
    assert told.due_at == at
    assert planned.bring_all_into_force() == 0
    assert InvalidationForm({"kind": "Person", "at": f"{datetime.now() + HOUR:%Y-%m-%d %H:%M:%S}"}).is_valid()  # noqa: DTZ005
    let_it_be_due(told.id)
    assert planned.bring_all_into_force() == 1
    assert llmcache.undo(told) is True


def test_what_is_rolled_back_was_never_planned() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        llmcache.invalidate(kind="Person", at=timezone.now() + HOUR)
        raise ZeroDivisionError
    assert not PlannedInvalidation.objects.exists()


@pytest.mark.parametrize(
    "at",
    [datetime(2030, 1, 1), 12, "2030-01-01", datetime.max.replace(tzinfo=UTC)],  # noqa: DTZ001
    ids=["naive", "number", "str", "far"],
)
def test_what_is_no_time_is_refused(at: Any) -> None:
    with pytest.raises(InvalidRequest, match="at= must be"):
        llmcache.invalidate(kind="Person", at=at)


@pytest.mark.parametrize("uid", ["", "ab" * 16, "\0" * 32, 7, None], ids=ascii)
def test_an_id_of_no_plan_is_refused(uid: Any) -> None:
    with pytest.raises(InvalidRequest):
        planned.bring_into_force(uid)


def test_those_of_another_project_are_nobodys_business() -> None:
    told = llmcache.invalidate(kind="Person", at=timezone.now() + HOUR)
    let_it_be_due(told.id)
    PlannedInvalidation.objects.update(namespace="another")
    assert planned.bring_all_into_force() == 0
    with pytest.raises(InvalidRequest):
        planned.bring_into_force(str(told.id))
    with pytest.raises(InvalidRequest):
        llmcache.undo(told)


@pytest.fixture
def server(postgresql_tables: dict[str, Any], django_db_blocker: DjangoDbBlocker, provider: Sandbox) -> Iterator[None]:
    """A PostgreSQL, where what is written is committed; its rows go with the test."""
    with django_db_blocker.unblock(), known(postgresql_tables), llmcache_settings(DATABASE=ALIAS):
        try:
            yield
        finally:
            for model in (PlannedInvalidation, Invalidation):
                model.objects.using(ALIAS).all().delete()


def test_of_all_who_bring_it_into_force_or_call_it_off_one_does(server: None) -> None:
    for calls_off in (0, 3):
        told = llmcache.invalidate(kind="Person", at=timezone.now() + HOUR)
        PlannedInvalidation.objects.using(ALIAS).filter(uid=told.id).update(due_at=timezone.now())
        work: list[Callable[[], bool]] = [partial(planned.bring_into_force, str(told.id))] * 6
        work[:calls_off] = [partial(llmcache.undo, told)] * calls_off
        start, done = threading.Barrier(6), list[bool]()

        def run(each: Callable[[], bool], start: threading.Barrier = start, done: list[bool] = done) -> None:
            try:
                start.wait(10)
                done.append(each())
            finally:
                connections[ALIAS].close()

        threads = [threading.Thread(target=run, args=(each,)) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        rows = Invalidation.objects.using(ALIAS).filter(uid=told.id)
        in_force = rows.filter(active=True).count()
        if calls_off:
            # Called off before, or undone after.
            assert in_force == 0
            assert done.count(True) == 1 + rows.count()
        else:
            assert (in_force, done.count(True)) == (1, 1)
        assert len(done) == 6
