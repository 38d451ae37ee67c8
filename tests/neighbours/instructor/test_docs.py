"""The examples of the documentation that are about Instructor run."""

import sys
from types import ModuleType
from typing import Any

import instructor
import pytest
from pydantic import BaseModel

import llmcache
from llmcache import conf
from llmcache.testing.sandbox import Sandbox
from tests.neighbours.conftest import TEXT, llmcache_settings
from tests.neighbours.documented import examples
from tests.neighbours.instructor.clients import upstream


class Ticket(BaseModel):
    title: str
    urgent: bool


@pytest.fixture
def at_the_sandbox(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Let every provider that an example names be the sandbox."""

    def from_provider(name: str, **options: Any) -> Any:
        made = instructor.from_openai(upstream(sandbox), **options)
        made.kwargs["model"] = name.partition("/")[2]
        return made

    monkeypatch.setattr(instructor, "from_provider", from_provider)
    return sandbox


@pytest.mark.django_db
def test_of_the_cache(at_the_sandbox: Sandbox) -> None:
    names: dict[str, Any] = {"text": TEXT, "Ticket": Ticket}
    (cached,) = examples("Instructor's cache")
    exec(compile(cached, "neighbours.md", "exec"), names)
    assert at_the_sandbox.calls == 1
    options, clearing = examples("What holds for both")
    exec(compile(options, "neighbours.md", "exec"), names)
    exec(compile(clearing, "neighbours.md", "exec"), names)
    assert list(llmcache.stats(by="kind")) == ["instructor"]


def test_of_the_provider(at_the_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    asking, used = examples("An Instructor client as a provider")
    module = ModuleType("shop.llm")
    exec(compile(asking, "shop/llm.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.llm", module)
    told, called = used.split("\n\n")
    names: dict[str, Any] = {"llmcache": llmcache, "text": TEXT, "Ticket": Ticket}
    exec(compile(told, "neighbours.md", "exec"), names)
    assert conf.problems(names["LLMCACHE"]) == []
    providers = names["LLMCACHE"]["PROVIDERS"]
    # Tests call nobody who is not on this machine.
    providers["anthropic"]["base_url"] = at_the_sandbox.base_url
    with llmcache_settings(PROVIDERS=providers):
        exec(compile(called, "neighbours.md", "exec"), names)
        exec(compile(called, "neighbours.md", "exec"), names)
    assert names["ticket"].title
    assert at_the_sandbox.calls == 1
    assert at_the_sandbox.requests[-1].body["max_tokens"] == 1_000
