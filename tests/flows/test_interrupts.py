"""Calls that are interrupted, slow, or told odd things by the provider's side."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.engine.ports import run
from llmcache.providers.openai_provider import OpenAIProvider
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader


class Person(BaseModel):
    """A person."""

    name: str


class Nothing(BaseModel):
    """A model without fields."""


def test_an_interrupt_while_the_provider_is_asked_ends_the_line_in_doubt(
    sandbox: Sandbox, journal: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OpenAIProvider.call

    def interrupted(self: OpenAIProvider, *args: Any, **options: Any) -> Any:
        real(self, *args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(OpenAIProvider, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llmcache.extract("Ada", Person)
    monkeypatch.undo()
    assert sandbox.calls == 1
    started, failed = journal.records()
    assert (started.event, failed.event, failed.call_id) == ("started", "failed", started.call_id)
    assert (failed.facts["error"], failed.facts["in_doubt"], failed.facts["cost"]) == ("interrupted", True, None)


def test_a_slow_provider_is_waited_for(sandbox: Sandbox) -> None:
    sandbox.fail(faults.slow(0.3))
    found = llmcache.extract_with_info("Ada", Person)
    assert (found.outcome, found.attempts) == ("miss", 1)
    assert found.latency_ms >= 300


def test_retry_after_as_a_date(sandbox: Sandbox, no_backoff: list[float]) -> None:
    when = datetime.now(UTC) + timedelta(seconds=20)
    sandbox.fail(faults.rate_limited(retry_after=format_datetime(when, usegmt=True)))
    llmcache.extract("Ada", Person)
    assert len(no_backoff) == 1
    assert 0 < no_backoff[0] <= 20


def test_an_error_page_of_html(sandbox: Sandbox) -> None:
    sandbox.fail(faults.server_error(502, html=True), times=None)
    with pytest.raises(llmcache.ProviderUnavailable) as caught:
        llmcache.extract("Ada", Person, max_retries=0)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "content",
    ['{"name": "Ada"} {"name": "Eve"}', 'Here it is: {"name": "Ada"}', '{"name": "Ada",}', "[" * 100_000, "N/A"],
)
def test_an_answer_that_is_almost_json_is_not_kept(content: str, sandbox: Sandbox) -> None:
    sandbox.fail(faults.says(content))
    with pytest.raises(llmcache.ValidationFailed):
        llmcache.extract("Ada", Person, max_reasks=0)
    assert llmcache.extract_with_info("Ada", Person).outcome == "miss"


def test_a_call_without_time_leaves_nothing_behind(sandbox: Sandbox, journal: JournalReader) -> None:
    with pytest.raises(llmcache.ProviderTimeout) as caught:
        llmcache.extract("Ada", Person, timeout=1e-9)
    assert caught.value.attempts == 0
    assert (journal.records(), sandbox.received) == ([], 0)


def test_a_model_without_fields(sandbox: Sandbox) -> None:
    assert llmcache.extract("  ", Nothing) == Nothing()


@pytest.mark.parametrize("function", [llmcache.extract_with_info, llmcache.extract_with_completion])
def test_each_function_says_so_in_a_running_loop(function: Any, sandbox: Sandbox) -> None:
    import asyncio

    async def view() -> None:
        function("Ada", Person)

    with pytest.raises(llmcache.AsyncContext, match=function.__name__):
        asyncio.run(view())


def test_the_runner_refuses_a_policy_that_suspends() -> None:
    class Once:
        def __await__(self) -> Any:
            yield

    async def policy() -> None:
        await Once()

    with pytest.raises(RuntimeError, match="suspended"):
        run(policy())
