"""The pages about batches and cached functions: their examples run, in their order."""

import asyncio
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.base import ContentFile
from pydantic import BaseModel, create_model

import llmcache
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import llmcache_settings
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


def test_the_examples_about_content_run(sandbox: Sandbox) -> None:
    class Bill(BaseModel):
        """What was paid."""

        total: float

    sandbox.answers |= {"Read this receipt:": {"total": 12.5}, "Yes.": {"total": 14}}
    photo = ContentFile(b"\x89PNG\r\n\x1a\n", "photo.png")
    receipts = SimpleNamespace(objects=SimpleNamespace(get=lambda **_: SimpleNamespace(photo=photo)))
    names: dict[str, Any] = {"Receipt": receipts, "Bill": Bill}
    for _ in range(2):
        for block in blocks((DOCS / "content.md").read_text()):
            exec(compile(block, "content.md", "exec"), names)
        assert (names["bill"].total, names["answer"].total) == (12.5, 14)
    assert sandbox.calls == 2


def test_the_examples_about_types_run(sandbox: Sandbox) -> None:
    (example,) = blocks((DOCS / "types.md").read_text())
    for _ in range(2):
        exec(compile(example, "types.md", "exec"), {"text": "Dear Ada"})
    formats = [request.body["response_format"]["json_schema"] for request in sandbox.requests]
    wrapped = [list(each["schema"]["properties"]) == ["value"] for each in formats]
    assert wrapped == [False, True, True, True, True, True, True]
    # The second time its classes are other ones, with the same names and schemas.
    assert [each["strict"] for each in formats] == [True, True, True, True, False, False, True]


@pytest.mark.django_db
def test_the_examples_about_samples_run(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("spam", "fine", "spam"):
        sandbox.fail(faults.says(f'{{"label":"{label}"}}'))
    names: dict[str, Any] = {"text": "Dear Ada", "Verdict": create_model("Verdict", label=(str, ...))}
    sandbox.answers["Dear Ada"] = {"label": "spam"}
    first, more, awaited = blocks((DOCS / "samples.md").read_text())
    exec(compile(first, "samples.md", "exec"), names)
    assert capsys.readouterr().out.startswith("spam, by 4 of 5 for ")
    exec(compile(more, "samples.md", "exec"), names)
    exec(compile(awaited, "samples.md", "exec"), names)
    assert sum(asyncio.run(names["vote"]("Dear Ada")).values()) == 3
    assert sandbox.calls == 8


def test_the_examples_about_providers_run(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.answers["Help!"] = {"title": "Help"}
    settings, calls, function, its_settings = blocks((DOCS / "providers.md").read_text())
    names: dict[str, Any] = {"text": "Help!", "Ticket": Ticket}
    exec(compile(settings, "providers.md", "exec"), names)
    here = {"base_url": sandbox.base_url, "api_key": "sandbox"}
    with llmcache_settings(PROVIDERS={alias: {**of, **here} for alias, of in names["LLMCACHE"]["PROVIDERS"].items()}):
        for _ in range(2):
            exec(compile(calls, "providers.md", "exec"), names)
        llmcache.extract("Help!", Ticket, model="small/any")
    asked = ["input", "tools", "response_format"]
    assert [name in request.body for name, request in zip(asked, sandbox.requests, strict=True)] == [True] * 3
    said = {"text": '{"title": "Help"}', "usage": {"input_tokens": 50, "output_tokens": 10}, "model": "small"}
    names["client"] = SimpleNamespace(complete=lambda *_, **__: said)
    exec(compile(function, "providers.md", "exec"), names)
    monkeypatch.setitem(sys.modules, "myapp", SimpleNamespace(llm=None, __path__=[]))
    monkeypatch.setitem(sys.modules, "myapp.llm", SimpleNamespace(ask=names["ask"], __spec__=None))
    told = its_settings.partition("\n\n")
    exec(compile(told[0], "providers.md", "exec"), names)
    with llmcache_settings(**names["LLMCACHE"]):
        exec(compile(told[2], "providers.md", "exec"), names)
        found = llmcache.extract_with_info("Help!", Ticket, model="mine/small")
    assert (found.outcome, found.value.title, found.cost_avoided_usd) == ("hit", "Help", Decimal("0.000009"))
