"""The asynchronous functions: what they give, when they read their arguments, and where their work is done."""

import asyncio
import gc
import inspect
import sys
import threading
from contextvars import ContextVar
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from pydantic import BaseModel, field_validator

import llmcache
from llmcache.engine import background, process
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader, MovedClock, llmcache_settings

TWINS = (llmcache.aextract, llmcache.aextract_with_info, llmcache.aextract_with_completion)


class Person(BaseModel):
    """A person."""

    name: str
    tags: list[str] = []


def background_calls() -> int:
    """Return how many calls are on their way in the background loop."""
    return len(background._errands)


def test_a_miss_then_hits_in_memory_and_on_disk(
    sandbox: Sandbox, journal: JournalReader, forget_memory: Any, clock: MovedClock
) -> None:
    sandbox.answers["Ada"] = {"name": "Ada", "tags": ["first"]}
    miss = asyncio.run(llmcache.aextract_with_info("Ada", Person))
    assert (miss.value, miss.outcome, miss.reason, miss.attempts) == (
        Person(name="Ada", tags=["first"]), "miss", "not_found", 1,
    )  # fmt: skip
    assert (miss.tier, miss.cost_avoided_usd) == (None, Decimal(0))
    assert [record.event for record in journal.all_records()] == ["started", "settled", "stored"]
    clock.move(10)
    hit = asyncio.run(llmcache.aextract_with_info("Ada", Person))
    assert (hit.value, hit.outcome, hit.tier, hit.attempts) == (miss.value, "hit", "memory", 0)
    assert 10 <= hit.age_seconds < 20
    assert hit.value is not miss.value
    forget_memory()
    assert asyncio.run(llmcache.aextract_with_info("Ada", Person)).tier == "disk"
    assert asyncio.run(llmcache.aextract("Ada", Person)) == miss.value
    assert (hit.key, sandbox.calls) == (miss.key, 1)


def test_one_cache_for_both_kinds_of_calls(sandbox: Sandbox) -> None:
    first = llmcache.extract_with_info("Ada", Person, tenant="acme", temperature=0.5)
    then = asyncio.run(llmcache.aextract_with_info("Ada", Person, tenant="acme", temperature=0.5))
    assert (then.outcome, then.key, then.value) == ("hit", first.key, first.value)
    asyncio.run(llmcache.aextract("Eve", Person))
    assert llmcache.extract_with_info("Eve", Person).outcome == "hit"
    assert sandbox.calls == 2


def test_the_completion_on_a_miss_and_on_hits(sandbox: Sandbox, forget_memory: Any, drop_supplements: Any) -> None:
    value, completion = asyncio.run(llmcache.aextract_with_completion("Ada", Person))
    assert Person.model_validate_json(completion.choices[0].message.content) == value
    forget_memory()
    again = asyncio.run(llmcache.aextract_with_completion("Ada", Person))
    assert again == (value, completion) == llmcache.extract_with_completion("Ada", Person)
    assert asyncio.run(llmcache.aextract_with_info("Ada", Person)).completion == completion
    drop_supplements()
    assert sandbox.calls == 1
    assert asyncio.run(llmcache.aextract_with_info("Ada", Person)).outcome == "hit"
    asyncio.run(llmcache.aextract_with_completion("Ada", Person))
    assert sandbox.calls == 2


def test_an_extractor_has_them_with_its_defaults(sandbox: Sandbox) -> None:
    extractor = llmcache.Extractor(tenant="acme", seed=7)
    asyncio.run(extractor.aextract("Ada", Person))
    assert sandbox.requests[0].body["seed"] == 7
    assert asyncio.run(extractor.aextract("Ada", Person)) == llmcache.extract("Ada", Person, tenant="acme", seed=7)
    assert asyncio.run(extractor.aextract_with_info("Ada", Person)).outcome == "hit"
    assert isinstance(asyncio.run(extractor.aextract_with_completion("Ada", Person))[0], Person)
    assert sandbox.calls == 1


def test_bypass_only_and_zero_ttl(sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.NotCached):
        asyncio.run(llmcache.aextract("Ada", Person, cache="only"))
    assert asyncio.run(llmcache.aextract_with_info("Ada", Person, cache="bypass")).outcome == "bypass"
    assert asyncio.run(llmcache.aextract_with_info("Ada", Person, ttl=0)).reason == "ttl_zero"
    assert asyncio.run(llmcache.aextract_with_info("Ada", Person, timeout=timedelta(seconds=30))).outcome == "miss"
    assert asyncio.run(llmcache.aextract("Ada", Person, cache="only")) == llmcache.extract("Ada", Person)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_they_are_known_as_coroutine_functions(twin: Any) -> None:
    assert iscoroutinefunction(twin)
    assert iscoroutinefunction(getattr(llmcache.Extractor(), twin.__name__))
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(twin)
    assert inspect.signature(twin).parameters == inspect.signature(getattr(llmcache, twin.__name__[1:])).parameters


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_what_is_wrong_is_raised_where_the_call_is_awaited(twin: Any, sandbox: Sandbox) -> None:
    async def gathered() -> list[Any]:
        return await asyncio.gather(
            twin("", Person), twin("Ada", Person, timeout="x"), twin(b"", Person), twin("Ada", object()),
            twin("Ada", Person, ttll=1), return_exceptions=True,
        )  # fmt: skip

    found = [type(error) for error in asyncio.run(gathered())]
    assert found == [
        llmcache.InvalidText, llmcache.InvalidRequest, llmcache.UnsupportedType, llmcache.UnsupportedType,
        llmcache.InvalidRequest,
    ]  # fmt: skip
    assert sandbox.received == 0


@pytest.mark.parametrize("timeout", [1e6, timedelta(days=11)])
def test_a_timeout_almost_beyond_all_bounds(timeout: Any, sandbox: Sandbox) -> None:
    assert isinstance(asyncio.run(llmcache.aextract("Ada", Person, timeout=timeout)), Person)


def test_what_cannot_be_copied_is_refused_where_it_is_awaited(sandbox: Sandbox) -> None:
    coroutine = llmcache.aextract("Ada", Person, stop=[threading.Lock()])
    with pytest.raises(llmcache.InvalidRequest, match="stop= is no JSON"):
        asyncio.run(coroutine)


def test_a_hit_in_memory_needs_no_other_thread(sandbox: Sandbox) -> None:
    llmcache.extract("Ada", Person)
    coroutine = llmcache.aextract("Ada", Person)
    # It is answered by one step, with no event loop at all.
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert isinstance(ended.value.value, Person)


def test_a_hit_whose_validator_fails_fails_where_it_is_awaited(sandbox: Sandbox) -> None:
    class Moody(BaseModel):
        """Fails when told to."""

        name: str

        @field_validator("name")
        @classmethod
        def check(cls, value: str) -> str:
            if moods:
                raise RuntimeError("a database is down")
            return value

    moods: list[int] = []
    asyncio.run(llmcache.aextract("Ada", Moody))
    moods.append(1)
    coroutine = llmcache.aextract("Ada", Moody)
    with pytest.raises(RuntimeError, match="a database is down"):
        asyncio.run(coroutine)


@pytest.mark.parametrize("function", [llmcache.extract, llmcache.extract_with_info, llmcache.extract_with_completion])
def test_a_synchronous_function_in_a_running_loop_names_its_twin(function: Any, sandbox: Sandbox) -> None:
    async def view() -> None:
        function("Ada", Person)

    llmcache.extract("Ada", Person)
    with pytest.raises(llmcache.AsyncContext, match=rf"llmcache\.a{function.__name__}\(\)"):
        asyncio.run(view())


def test_a_synchronous_call_in_a_validator_of_an_asynchronous_one(sandbox: Sandbox) -> None:
    class Asking(BaseModel):
        """Asks for another thing."""

        name: str

        @field_validator("name")
        @classmethod
        def ask(cls, value: str) -> str:
            llmcache.extract("Grace", Person)
            return value

    with pytest.raises(llmcache.AsyncContext, match="aextract"):
        asyncio.run(llmcache.aextract("Ada", Asking))


current_user: ContextVar[str] = ContextVar("current_user")


def test_the_context_is_the_one_of_the_call(sandbox: Sandbox) -> None:
    class Seeing(BaseModel):
        """Notes whose context its validator runs in, and changes it."""

        name: str

        @field_validator("name")
        @classmethod
        def see(cls, value: str) -> str:
            seen.append((current_user.get(), threading.current_thread().name))
            current_user.set("changed in the copy")
            return value

    async def main() -> None:
        current_user.set("ada")
        coroutine = llmcache.aextract("Ada", Seeing)
        current_user.set("eve")
        await coroutine
        assert current_user.get() == "eve"

    seen: list[tuple[str, str]] = []
    asyncio.run(main())
    assert seen == [("ada", "llmcache-loop")]


def test_arguments_are_read_at_the_call(sandbox: Sandbox) -> None:
    stop, tags = ["END"], {"red"}

    async def main() -> llmcache.Extraction[Person]:
        coroutine = llmcache.aextract_with_info("Ada", Person, stop=stop, tags=tags)
        stop.append("changed")
        tags.add("changed")
        return await coroutine

    found = asyncio.run(main())
    assert sandbox.requests[0].body["stop"] == ["END"]
    assert llmcache.extract_with_info("Ada", Person, stop=["END"], tags={"red"}).key == found.key


def test_retries_and_questions_asked_again(sandbox: Sandbox, journal: JournalReader) -> None:
    sandbox.fail(faults.rate_limited(retry_after=0))
    sandbox.fail(faults.wrong_json())
    found = asyncio.run(llmcache.aextract_with_info("Ada", Person))
    assert (found.outcome, found.attempts, sandbox.received) == ("miss", 3, 3)
    events = [(record.event, record.facts.get("why")) for record in journal.records()]
    assert events == [
        ("started", "not_found"), ("failed", None), ("started", "retry"), ("settled", None), ("rejected", None),
        ("started", "reask"), ("settled", None),
    ]  # fmt: skip
    assert "mend these" in sandbox.requests[-1].body["messages"][-1]["content"]


def test_from_synchronous_code(sandbox: Sandbox) -> None:
    assert async_to_sync(llmcache.aextract)("Ada", Person) == llmcache.extract("Ada", Person)

    async def main() -> Person:
        return await sync_to_async(llmcache.extract)("Ada", Person)

    assert asyncio.run(main()) == llmcache.extract("Ada", Person)
    assert sandbox.calls == 1


def test_200_event_loops_one_after_the_other(sandbox: Sandbox) -> None:
    async def twice(number: int) -> None:
        text = f"text {number % 50}"
        assert await llmcache.aextract(text, Person) == await llmcache.aextract(text, Person)

    for number in range(200):
        asyncio.run(twice(number))
    assert sandbox.received == 50
    assert [thread.name for thread in threading.enumerate()].count("llmcache-loop") == 1
    assert background_calls() == 0


def test_a_coroutine_that_is_never_awaited_costs_nothing(sandbox: Sandbox) -> None:
    def forget() -> None:
        llmcache.aextract("Ada", Person)
        gc.collect()

    with pytest.warns(RuntimeWarning, match="never awaited"):
        forget()
    assert (sandbox.received, background_calls()) == (0, 0)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("fault", [faults.wrong_json, faults.server_error, faults.garbage, faults.refusal])
def test_the_text_is_not_in_an_error_report(fault: Any, known: bool, sandbox: Sandbox) -> None:
    if known:
        # A call with these arguments was answered: the next asks the tiers in its own loop.
        llmcache.extract("Ada", Person, max_retries=0, max_reasks=0)
    sandbox.fail(fault(), times=None)
    try:
        asyncio.run(llmcache.aextract("".join(["Can", "ary"]), Person, max_retries=0, max_reasks=0))
    except llmcache.LLMCacheError:
        reporter = ExceptionReporter(RequestFactory().get("/"), *sys.exc_info())
    frames = reporter.get_traceback_frames()
    assert len(frames) > 6
    assert [frame["function"] for frame in frames if "Canary" in repr(frame["vars"])] == []


def test_settings_are_read_at_the_call(sandbox: Sandbox, journal: JournalReader) -> None:
    coroutine = llmcache.aextract("Ada", Person)
    with llmcache_settings(PROVIDERS={"openai": {"base_url": "http://127.0.0.1:1/v1", "api_key": "x"}}):
        asyncio.run(coroutine)
    assert sandbox.received == 1
    assert [record.event for record in journal.records()] == ["started", "settled"]


def test_a_runtime_that_is_closed_meanwhile_is_the_calls_own_to_the_end(
    sandbox: Sandbox, journal: JournalReader
) -> None:
    async def main() -> llmcache.Extraction[Person]:
        task = asyncio.create_task(llmcache.aextract_with_info("Ada", Person))
        await asyncio.to_thread(sandbox.wait_until_received, 1)
        process.install(None)
        sandbox.release()
        return await task

    namespace = process.current().namespace
    sandbox.hold()
    assert asyncio.run(main()).outcome == "miss"
    assert process.current().namespace == namespace
    assert {record.event for record in journal.all_records()} == {"started", "settled", "stored"}
