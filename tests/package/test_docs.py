"""The papers and the code say the same."""

import asyncio
import json
import re
import shlex
import sys
from collections.abc import Callable
from datetime import date, timedelta
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
from celery.local import Proxy
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db.models import F
from django.test import RequestFactory

import llmcache
from llmcache import conf, exceptions, housekeeping, tasks
from llmcache.engine.schemas import Seen
from llmcache.explaining import explanations
from llmcache.schema_history.versions import write_seen
from llmcache.testing.sandbox import Sandbox
from llmcache.warming.runs import prepare
from tests import mutations
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.simulator import mutants

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(text: str) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.django_db
def test_the_readmes_examples_run(sandbox: Sandbox) -> None:
    """In the page's order, as a reader would type them; only what the page speaks of as the reader's own is given."""
    text = "The printer is on fire"
    names: dict[str, Any] = {"INSTALLED_APPS": [], "text": text, "email": SimpleNamespace(body=text)}
    first, *others = blocks(README)
    for block in [*others, first]:
        exec(compile(block, "README.md", "exec"), names)
    assert names["INSTALLED_APPS"] == ["llmcache"]
    for _ in range(2):
        response = names["inbox"](RequestFactory().get("/inbox/", {"text": text}))
        assert response.status_code == 200
        assert set(json.loads(response.content)) == {"title", "urgent"}
    assert names["ticket"] == llmcache.extract(text, names["Ticket"])
    assert names["completion"].model == "gpt-5-mini-2026-01-01"


@pytest.mark.django_db
def test_the_examples_about_money_run() -> None:
    names: dict[str, Any] = {"llmcache": llmcache, "timedelta": timedelta, "date": date, "DATABASES": {"default": {}}}
    kept, since, prices, database, estimate = blocks((ROOT / "docs" / "money.md").read_text())
    exec(compile(kept, "money.md", "exec"), names)
    assert names["stats"].coverage is None
    names["llmcache"] = SimpleNamespace(stats=lambda **_: {"Ticket": names["stats"]})
    exec(compile(since, "money.md", "exec"), names)
    names["llmcache"] = llmcache
    for block in (prices, database, estimate):
        exec(compile(block, "money.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    assert names["estimate"].monthly_saved_usd == 30


@pytest.mark.django_db
def test_the_examples_about_invalidating_run(sandbox: Sandbox) -> None:
    names: dict[str, Any] = {"text": "The printer is on fire", "request": RequestFactory().get("/")}
    names["request"].user = SimpleNamespace(get_username=lambda: "ann")
    exec("from pydantic import BaseModel\nclass Ticket(BaseModel):\n    title: str", names)
    conditions, dry, back, ahead = blocks((ROOT / "docs" / "invalidation.md").read_text())
    for block in (conditions, dry, back, ahead):
        exec(compile(block, "invalidation.md", "exec"), names)
    assert names["concerned"].entries == 0
    assert llmcache.undo(names["mistake"]) is False
    assert names["planned"].due_at.year == 2030


def test_the_page_about_celery_says_what_holds() -> None:
    page = (ROOT / "docs" / "celery.md").read_text()
    app, package, settings, routes, stale = blocks(page)
    for block in (app, package, routes):
        compile(block, "celery.md", "exec")
    names: dict[str, Any] = {}
    for block in (settings, stale):
        exec(compile(block, "celery.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    own = {f"llmcache.tasks.{name}" for name, value in vars(tasks).items() if isinstance(value, Proxy)}
    assert set(re.findall(r"^\| `(llmcache\.tasks\.\w+)`", page, flags=re.MULTILINE)) == own
    assert {entry["task"] for entry in names["CELERY_BEAT_SCHEDULE"].values()} <= own
    # Steps of house-keeping are told in their order.
    told = re.findall(r"^\d\. ", page, flags=re.MULTILINE)
    assert len(told) == len(housekeeping.STEPS)


@pytest.mark.django_db
def test_the_examples_about_correcting_run(sandbox: Sandbox) -> None:
    settings, calls, more = blocks((ROOT / "docs" / "corrections.md").read_text())
    names: dict[str, Any] = {"text": "The printer is on fire", "llmcache": llmcache}
    exec(compile(settings, "corrections.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    exec("from pydantic import BaseModel\nclass Ticket(BaseModel):\n    title: str", names)
    with llmcache_settings(KINDS={"Ticket": {"type": names["Ticket"]}}):
        names["key"] = llmcache.extract_with_info(names["text"], names["Ticket"]).key
        exec(compile(calls, "corrections.md", "exec"), names)
        assert names["made"].note == "It said water."
        assert llmcache.extract_with_info(names["text"], names["Ticket"]).origin == "provider"
        exec(compile(more, "corrections.md", "exec"), names)


@pytest.mark.django_db
def test_the_examples_about_schema_changes_run() -> None:
    page = (ROOT / "docs" / "schema-changes.md").read_text()
    names: dict[str, Any] = {}
    (kinds,) = blocks(page)
    exec(compile(kinds, "schema-changes.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    typed = re.findall(r"^python manage\.py (.*)$", page, flags=re.MULTILINE)
    assert len(typed) == 4
    write_seen([Seen("Ticket", digit * 64, "{}", 1.0, 1.0) for digit in "ab"], using="default")
    for line in typed:
        out = StringIO()
        call_command(*line.split(), stdout=out)
        assert out.getvalue()


@pytest.mark.django_db
def test_the_examples_about_freshness_run(sandbox: Sandbox) -> None:
    names: dict[str, Any] = {"text": "The printer is on fire"}
    exec("from pydantic import BaseModel\nclass Ticket(BaseModel):\n    title: str", names)
    settings, calls, info, by_kind, asking = blocks((ROOT / "docs" / "freshness.md").read_text())
    exec(compile(settings, "freshness.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    exec(compile(calls, "freshness.md", "exec"), names)
    exec(compile(info, "freshness.md", "exec"), names)
    assert names["info"].outcome == "hit"
    exec(compile(by_kind, "freshness.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    assert names["as_long_as_it_holds"](SimpleNamespace(closed=False)) == 600
    exec(compile(asking, "freshness.md", "exec"), names)
    assert sandbox.calls == 5


@pytest.mark.django_db
def test_the_examples_about_streams_run(sandbox: Sandbox, rf: RequestFactory) -> None:
    text = "Chop onions"
    sandbox.answers[text] = {"title": "Onion soup", "steps": ["Chop the onions"]}
    names: dict[str, Any] = {"text": text}
    model = "from pydantic import BaseModel\nclass {}(BaseModel):\n    {}"
    for name, fields in (("Recipe", "title: str\n    steps: list[str]"), ("Ingredient", "name: str")):
        exec(model.format(name, fields), names)
    for example in blocks((ROOT / "docs" / "streams.md").read_text()):
        exec(compile(example, "streams.md", "exec"), names)

    async def titles() -> list[str]:
        return [title async for title in names["titles"](text)]

    assert asyncio.run(titles())[-1] == "Onion soup"

    async def events() -> bytes:
        response = await names["recipe"](rf.get("/", {"text": text}))
        return b"".join([part async for part in response])

    assert asyncio.run(events()).endswith(b"event: end\ndata: {}\n\n")
    assert b"".join(names["ingredients"](rf.get("/", {"text": text}))).endswith(b"event: end\ndata: {}\n\n")
    assert sandbox.calls == 2


@pytest.mark.django_db
def test_the_examples_about_misses_run(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "explain.md").read_text()
    names: dict[str, Any] = {"text": "The printer is on fire", "llmcache": llmcache}
    exec("from pydantic import BaseModel\nclass Ticket(BaseModel):\n    title: str", names)
    sandbox.answers[names["text"]] = {"title": "Fire"}
    llmcache.extract(names["text"], names["Ticket"], system="Be brief")
    printed, fields = blocks(page)
    exec(compile(printed, "explain.md", "exec"), names)
    shown = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)[0]
    said = capsys.readouterr().out
    # But for keys, times and the count of hits it is as shown.
    head, rest = said.splitlines()[0], [line.split()[:2] for line in said.splitlines()[3:5]]
    assert head == shown.splitlines()[0]
    assert rest == [line.split()[:2] for line in shown.splitlines()[3:5]]
    llmcache.extract(names["text"], names["Ticket"])
    exec(compile(fields, "explain.md", "exec"), names)
    assert names["explanation"].verdict == "hit"


def lines_of(page: str, command: str) -> list[list[str]]:
    """Return the words of each line of a page that calls a command, after the command's name."""
    typed = re.findall(rf"python manage\.py {command} (.*)$", page, flags=re.MULTILINE)
    return [shlex.split(line) for line in typed if ">>" not in line]


@pytest.mark.django_db
def test_the_examples_about_warming_run(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "warming.md").read_text()
    names: dict[str, Any] = {}
    exec("from pydantic import BaseModel\nclass Ticket(BaseModel):\n    title: str", names)
    rows = User.objects.annotate(body=F("username"))
    mail = SimpleNamespace(objects=SimpleNamespace(filter=lambda **_: rows))
    for name, told in (("types", {"Ticket": names["Ticket"]}), ("models", {"Mail": mail}), ("warming", {"Mail": mail})):
        module = ModuleType(f"helpdesk.{name}")
        vars(module).update(told)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "helpdesk", ModuleType("helpdesk"))
    User.objects.create(username="The server is down")
    a_list, item, dry, queryset, budget, kinds, function, registry, plan, value = blocks(page)
    for block in (a_list, item, dry, queryset, budget):
        exec(compile(block, "warming.md", "exec"), names)
    assert (names["before"].to_ask, names["found"].live, sandbox.calls) == (0, 3, 5)
    assert capsys.readouterr().out.splitlines()[0].startswith("3 0 0 0")
    exec(compile(function, "warming.md", "exec"), vars(sys.modules["helpdesk.warming"]))
    for block in (kinds, registry, plan):
        exec(compile(block, "warming.md", "exec"), names)
        assert conf.problems(names["LLMCACHE"]) == []
    monkeypatch.chdir(tmp_path)
    Path("mails.jsonl").write_text('"The server is down"\n{"content": "Where is my invoice?", "tenant": "acme"}\n')
    Path("mails.csv").write_text("body,customer\nWhere is my bill?,acme\n")
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"How do I pay?\n")))
    with llmcache_settings(PRICES=SANDBOX_PRICES, **names["LLMCACHE"]):
        for words in lines_of(page, "llmcache_warm"):
            going = [] if "RUN" not in words else [prepare(["Open at eight?"], kind="Ticket").uid]
            call_command("llmcache_warm", *[going[0] if word == "RUN" else word for word in words], stdout=StringIO())
        assert sandbox.calls == 9
        exec(compile(value, "warming.md", "exec"), names)
    assert "0 warmed, 0 hit since" in capsys.readouterr().out


def test_every_verdict_and_component_of_an_explanation_is_documented() -> None:
    page = (ROOT / "docs" / "explain.md").read_text()
    first = [row.split(" | ")[0] for row in re.findall(r"^\| (`.*)$", page, flags=re.MULTILINE)]
    named = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted([*get_args(explanations.Verdict), *explanations.COMPONENTS])


def test_the_readme_gets_a_newcomer_to_the_first_hit_in_ten_lines() -> None:
    start = README.index("In your own project")
    end = README.index("No other setting is needed")
    typed = [line for block in blocks(README[start:end]) for line in block.splitlines()]
    code = [line for line in typed if line.strip() and not line.startswith("#")]
    assert len(code) <= 10


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| .*? \| (.*?) \| ", page, flags=re.MULTILINE))
    assert list(rows) == [option.name for option in conf.OPTIONS]


def test_every_check_is_documented() -> None:
    source = (ROOT / "llmcache" / "checks.py").read_text()
    page = (ROOT / "docs" / "settings.md").read_text()
    ids = set(re.findall(r"llmcache\.[EW]\d{3}", source)) | {"llmcache.E001", "llmcache.E002"}
    assert set(re.findall(r"llmcache\.[EW]\d{3}", page)) == ids


def errors() -> dict[str, type[llmcache.LLMCacheError]]:
    """Return the tree's classes by name, less its root."""
    return {
        name: value
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, exceptions.LLMCacheError) and name != "LLMCacheError"
    }


def test_every_error_is_documented_exported_and_has_a_code_of_its_own() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)`", page, flags=re.MULTILINE))
    assert rows == {name: error.code for name, error in errors().items()}
    assert len(set(rows.values())) == len(rows)
    assert set(errors()) <= set(llmcache.__all__)


def races() -> dict[str, tuple[str, str]]:
    """Return of each race what is done about it, and the tests and mutants that are named."""
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| R\d+ .*", page, flags=re.MULTILINE)]
    assert [row[0] for row in rows] == [f"R{number}" for number in range(1, len(rows) + 1)]
    return {number: (done, " ".join(named)) for number, _, done, *named in rows}


def test_every_race_has_a_test_that_exists_or_cannot_occur() -> None:
    assert len(races()) == 46
    for number, (done, named) in races().items():
        tests = re.findall(r"`(tests/\w+/\w+\.py)::(\w+)`", named)
        assert tests or done.startswith("Cannot occur"), number
        for path, function in tests:
            assert re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE), function


def test_every_mutant_is_named_with_the_race_that_it_is_about() -> None:
    named = {name for _, told in races().values() for name in re.findall(r"`([a-z-]+)`", told)}
    # Of what is no race.
    assert named == mutations.MUTANTS.keys() - {"tenant-out-of-the-key"}
    simulated = {name for _, told in races().values() for name in re.findall(r"\*([a-z-]+)\*", told)}
    assert simulated <= set(mutants.MUTANTS)


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_public_name_has_a_docstring() -> None:
    for name in llmcache.__all__:
        value: Callable[..., Any] = getattr(llmcache, name)
        assert value.__doc__, name
