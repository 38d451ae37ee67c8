"""The examples of the documentation that are about LangChain run."""

from typing import Any

import pytest
from langchain_core.globals import set_llm_cache

from llmcache.testing.sandbox import Sandbox
from tests.neighbours.conftest import TEXT
from tests.neighbours.documented import examples


def test_of_the_cache(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sandbox")
    names: dict[str, Any] = {"text": TEXT}
    (cached,) = examples("LangChain's cache")
    try:
        exec(compile(cached, "neighbours.md", "exec"), names)
        assert sandbox.calls == 1
        for _ in range(2):
            names["brief"].invoke(TEXT)
        assert sandbox.calls == 2
    finally:
        set_llm_cache(None)
