"""A project whose routers say that everything lies elsewhere: llmcache's rows lie in ``DATABASE`` all the same."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from pydantic import BaseModel, create_model

import llmcache
from llmcache import corrections, housekeeping
from llmcache.models import CacheEntry, Correction, Invalidation, SchemaVersion, WarmingPlan
from llmcache.testing.sandbox import Sandbox
from llmcache.warming import plans
from llmcache.warming.door import warm
from llmcache.warming.work import work
from tests.conftest import llmcache_settings

pytestmark = pytest.mark.django_db
ADMIN = "/admin/llmcache"


class Person(BaseModel):
    """A person."""

    name: str


class Elsewhere:
    """A project with a replica that is no database of this process, and rules of its own for relations."""

    def db_for_read(self, model: Any, **_: Any) -> str | None:
        return "elsewhere" if model._meta.app_label == "llmcache" else None

    db_for_write = db_for_read

    def allow_relation(self, *_: Any, **__: Any) -> bool:
        return False


@pytest.fixture
def ledger(sandbox: Sandbox, settings: Any) -> Iterator[str]:
    """The alias under which llmcache's rows lie, which no router names."""
    sandbox.answers["Ada"] = {"name": "Ada"}
    settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]
    with llmcache_settings(KINDS={"Person": {"type": Person}}):
        yield connection.alias


def ask() -> str:
    found = llmcache.extract_with_info("Ada", Person)
    return f"{found.outcome} {found.value.name}"


def test_invalidations_and_corrections(ledger: str) -> None:
    key = llmcache.extract_with_info("Ada", Person).key
    assert llmcache.invalidate(kind="Person", dry_run=True).entries == 1
    made = llmcache.invalidate(kind="Person", reason="wrong")
    assert "wrong" in str(llmcache.explain("Ada", Person))
    assert llmcache.undo(made)
    assert ask() == "hit Ada"
    stands = corrections.correct(key, '{"name": "Eve"}')
    assert stands.invalidation.reason == "corrected"
    assert [ask(), ask()] == ["hit Eve"] * 2
    # As it is read by somebody who has only the row.
    assert corrections.withdraw(Correction.objects.using(ledger).get())
    assert ask() == "hit Ada"
    assert corrections.pin(key)
    assert housekeeping.keep_house(2.0).failed == {}


def test_a_form_and_the_one_before(ledger: str) -> None:
    llmcache.extract("Ada", Person, tags=["vip"])
    assert llmcache.flush()
    llmcache.extract("Ada", create_model("Person", name=(str, ...), age=(int, 0)), tags=["vip"])
    assert llmcache.flush()
    assert SchemaVersion.objects.using(ledger).filter(previous__isnull=False).count() == 1
    assert llmcache.invalidate(tag="vip", dry_run=True).entries == 2


def test_the_pages(ledger: str, admin_client: Client) -> None:
    stands = corrections.pin(llmcache.extract_with_info("Ada", Person).key)
    entry = CacheEntry.objects.using(ledger).get()
    form = SchemaVersion.objects.using(ledger).get()
    form.pk, form.fingerprint, form.previous_id = None, "0" * 64, form.pk  # type: ignore[attr-defined]
    form.save(using=ledger)
    rows = (entry, stands, form, Invalidation.objects.using(ledger).get())
    for row in rows:
        name = row._meta.model_name
        for page in (f"{ADMIN}/{name}/", f"{ADMIN}/{name}/{row.pk}/change/"):
            assert admin_client.get(page).status_code == 200, page
    assert admin_client.post(f"{ADMIN}/correction/{stands.pk}/withdraw/").status_code == 302
    assert not Invalidation.objects.using(ledger).get().active


def test_warming(ledger: str) -> None:
    plan = WarmingPlan.objects.using(ledger).create(name="Ada", source="texts", texts="Ada", kind="Person")
    run = plans.run_plan(plan)
    assert work(run.uid).warmed == 1
    assert warm(["Ada"], kind="Person").live == 1
    assert ask() == "hit Ada"
