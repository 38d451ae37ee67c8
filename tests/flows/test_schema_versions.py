"""Rows of schema versions: what calls bring into them."""

from typing import Any

import pytest
from pydantic import BaseModel, create_model

import llmcache
from llmcache.engine import process
from llmcache.engine.schemas import Seen
from llmcache.models import SchemaVersion
from llmcache.schema_history.versions import write_seen
from llmcache.testing.sandbox import Sandbox
from tests.conftest import MovedClock

pytestmark = pytest.mark.django_db


def ticket(**fields: Any) -> type[BaseModel]:
    return create_model("Ticket", __base__=BaseModel, **fields)


@pytest.fixture(autouse=True)
def answers(sandbox: Sandbox) -> None:
    sandbox.answers.update({"a text": {"name": "a", "urgent": False}, "another": {"name": "b", "urgent": True}})


def test_a_form_is_one_row_however_often_it_is_asked_for() -> None:
    for text in ("a text", "another", "a text"):
        llmcache.extract(text, ticket(name=(str, ...)))
    assert llmcache.flush()
    assert llmcache.flush()
    row = SchemaVersion.objects.get()
    assert row.response_type == "Ticket"
    assert '"name"' in row.schema
    assert (row.previous, row.changes) == (None, [])


def test_a_new_form_knows_the_one_before_and_what_has_changed() -> None:
    llmcache.extract("a text", ticket(name=(str, ...)))
    llmcache.extract("a text", ticket(name=(str, ...), urgent=(bool, ...)))
    assert llmcache.flush()
    new, old = SchemaVersion.objects.order_by("-first_seen_at")
    assert new.previous == old
    assert [(each["path"], each["change"]) for each in new.changes] == [
        ("properties.urgent", "added"),
        ("required", "changed"),
    ]


def test_entries_and_calls_name_their_schema() -> None:
    from llmcache.models import CacheEntry, ProviderCall

    llmcache.extract("a text", ticket(name=(str, ...)))
    assert llmcache.flush()
    fingerprint = SchemaVersion.objects.get().fingerprint
    assert CacheEntry.objects.get().schema == ProviderCall.objects.get().schema == fingerprint


def test_an_old_form_that_comes_again_moves_only_when_it_was_last_seen(clock: MovedClock) -> None:
    old, new = ticket(name=(str, ...)), ticket(name=(str, ...), urgent=(bool, ...))
    for form in (old, new, old):
        llmcache.extract("a text", form, ttl=0)
        clock.ahead += 7_200
    assert llmcache.flush()
    first, second = SchemaVersion.objects.order_by("first_seen_at")
    assert first.last_seen_at > second.last_seen_at
    assert second.previous == first
    assert first.previous is None


def test_two_processes_that_saw_the_same_form_make_one_row() -> None:
    seen = [Seen("Ticket", "f" * 64, '{"type": "object"}', 100.0, 200.0)]
    write_seen(seen, using="default")
    write_seen([Seen("Ticket", "f" * 64, '{"type": "object"}', 90.0, 150.0)], using="default")
    assert SchemaVersion.objects.get().last_seen_at.timestamp() == 200.0


def test_the_order_of_a_schemas_keys_is_kept() -> None:
    llmcache.extract("a text", ticket(name=(str, ...), urgent=(bool, ...)))
    assert llmcache.flush()
    (form,) = process.current().schemas.seen()
    assert SchemaVersion.objects.get().schema == form.schema
    assert form.schema.index('"name"') < form.schema.index('"urgent"')


def test_a_schema_that_cannot_be_read_is_no_obstacle() -> None:
    write_seen([Seen("Ticket", "a" * 64, "no json", 1.0, 1.0)], using="default")
    write_seen([Seen("Ticket", "b" * 64, '{"type": "object"}', 2.0, 2.0)], using="default")
    assert SchemaVersion.objects.get(fingerprint="b" * 64).changes[0]["path"] == "type"
