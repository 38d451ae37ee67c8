"""The pages about batches and cached functions: their examples run, in their order."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.testing.sandbox import Sandbox
from tests.package.test_docs import blocks

DOCS = Path(__file__).parents[2] / "docs"
TEXTS = ["The printer is on fire", "The roof leaks", "The printer is on fire"]


class Ticket(BaseModel):
    """A ticket."""

    title: str


@pytest.mark.django_db
def test_the_examples_about_batches_run(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.answers |= {text: {"title": text} for text in TEXTS}
    rows = [SimpleNamespace(body=text, customer="acme", sender="ann", mailbox=7) for text in TEXTS]
    emails = SimpleNamespace(objects=SimpleNamespace(filter=lambda **_: rows))
    names: dict[str, Any] = {"texts": TEXTS, "Ticket": Ticket, "Email": emails}
    plain, fields, errors, progress, awaited = blocks((DOCS / "batches.md").read_text())
    exec(compile(plain, "batches.md", "exec"), names)
    assert [each.title for each in names["tickets"]] == TEXTS
    assert sorted(names["tickets"].outcomes) == ["collapsed", "miss", "miss"]
    exec(compile(fields, "batches.md", "exec"), names)
    assert llmcache.extract_with_info(
        TEXTS[1], Ticket, tenant="acme", subject="ann", tags=["mailbox:7"], ttl=3600
    ).outcome.startswith("hit")
    exec(compile(errors, "batches.md", "exec"), names)
    exec(compile(progress, "batches.md", "exec"), names)
    assert "3 of 3" in capsys.readouterr().out
    exec(compile(awaited, "batches.md", "exec"), names)
    asyncio.run(names["read"](TEXTS))
    assert all(text in capsys.readouterr().out for text in ["The roof leaks"])
    # Two plain, two of a tenant, and "Fire!".
    assert sandbox.calls == 5


@pytest.mark.django_db
def test_the_examples_about_cached_functions_run(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"Ticket": Ticket, "Report": SimpleNamespace}
    first, options, calls, key, generator = blocks((DOCS / "decorator.md").read_text())
    exec(compile(first, "decorator.md", "exec"), names)
    assert (capsys.readouterr().out, sandbox.calls) == ("CacheInfo(hits=1, misses=1, maxsize=None, currsize=1)\n", 1)
    exec(compile(options, "decorator.md", "exec"), names)
    assert names["summary"]("ann", "Hello big World") == ["Hello", "World"]
    exec(compile(calls, "decorator.md", "exec"), names)
    assert names["summary"].cache_info().currsize == 0
    exec(compile(key, "decorator.md", "exec"), names)
    report = SimpleNamespace(pk=1, updated_at=datetime(2026, 1, 1, tzinfo=UTC), text="One. Two.")
    assert names["headline"](report) == names["headline"](report) == "One"
    assert names["headline"].cache_info()[:2] == (1, 1)
    exec(compile(generator, "decorator.md", "exec"), names)
    assert (names["again"], len(names["again"]), sandbox.calls) == (names["first"], 2, 3)
