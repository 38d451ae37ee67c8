"""LangChain's ``set_llm_cache`` in the tiers: real chat models over HTTP, and what its own caches get wrong."""

import asyncio
import json
import logging
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, ValidationError, create_model
from redis import Redis

import llmcache
from llmcache.contrib.langchain import DjangoCache
from llmcache.exceptions import ConfigurationError, InvalidRequest, TenantMissing
from llmcache.testing.sandbox import Sandbox, faults
from tests.cache_servers import RedisServer
from tests.neighbours.conftest import TEXT, MovedClock, caches, in_a_child, llmcache_settings


class Ticket(BaseModel):
    title: str = Field(alias="Title")
    urgent: bool


def chat(sandbox: Sandbox, cache: Any = None, **options: Any) -> ChatOpenAI:
    """Return a chat model that asks the sandbox."""
    given = {"model": "gpt-5-mini", "base_url": sandbox.base_url, "api_key": "sandbox", "max_retries": 0}
    return ChatOpenAI(**{**given, "cache": cache or DjangoCache(), **options})


@pytest.fixture
def in_all_models() -> Iterator[DjangoCache]:
    """The cache of all models that have none of their own."""
    cache = DjangoCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


def of_wire(message: AIMessage) -> dict[str, Any]:
    """Return a message without what LangChain changes at a hit: its id, and that the tokens cost nothing."""
    fields = message.model_dump(exclude={"id"})
    fields["usage_metadata"].pop("total_cost", None)
    return fields


@pytest.mark.parametrize("where", ["memory and disk", "redis"])
def test_the_second_call_is_answered_from_the_tiers(
    where: str, sandbox: Sandbox, in_all_models: DjangoCache, request: pytest.FixtureRequest
) -> None:
    if where == "redis":
        request.getfixturevalue("shared")
    made = chat(sandbox, cache=True)
    first, second = made.invoke(TEXT), made.invoke(TEXT)
    assert sandbox.calls == 1
    assert of_wire(second) == of_wire(first)
    assert second.usage_metadata["total_tokens"] == first.usage_metadata["total_tokens"] > 0
    second.content = "mine"
    second.response_metadata.clear()
    assert of_wire(chat(sandbox, cache=True).invoke(TEXT)) == of_wire(first)
    assert sandbox.calls == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("where", ["memory and disk", "redis", "database"])
def test_an_awaited_call_too(where: str, sandbox: Sandbox, request: pytest.FixtureRequest) -> None:
    if where == "redis":
        request.getfixturevalue("shared")

    async def twice(alias: str | None) -> list[Any]:
        made = chat(sandbox, DjangoCache(alias))
        return [await made.ainvoke(TEXT), await made.ainvoke(TEXT), *await made.abatch([TEXT] * 3)]

    if where == "database":
        with caches(rows={"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "rows"}):
            call_command("createcachetable", verbosity=0)
            answers = asyncio.run(twice("rows"))
    else:
        answers = asyncio.run(twice(None))
    assert all(of_wire(each) == of_wire(answers[0]) for each in answers)
    assert sandbox.calls == 1


def test_a_store_that_hangs_holds_up_no_loop(sandbox: Sandbox, shared: RedisServer) -> None:
    async def rounds_during(awaited: Any) -> int:
        """Return how often the loop comes round while something is awaited."""
        task, rounds = asyncio.ensure_future(awaited), 0
        while not task.done():
            await asyncio.sleep(0.001)
            rounds += 1
        await task
        return rounds

    async def through() -> int:
        cache = DjangoCache()
        await cache.aupdate("p", "m", [Generation(text="a")])
        assert await cache.alookup("p", "m") == [Generation(text="a")]
        shared.freeze()
        try:
            # The store is given a quarter of a second, and then left alone.
            return await rounds_during(cache.alookup("p", "m"))
        finally:
            shared.thaw()

    # A loop that waited for it would come round once or twice.
    assert asyncio.run(through()) > 5


@pytest.mark.parametrize("first", ["alookup", "aupdate"])
def test_the_first_awaited_call_imports_nothing_in_the_loop(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an alias needs may take a second to import."""
    name = f"backend_of_{first}"
    (tmp_path / f"{name}.py").write_text(
        "import threading\n"
        "from django.core.cache.backends.locmem import LocMemCache as Cache\n"
        "imported_by = threading.get_ident()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with caches(own={"BACKEND": f"{name}.Cache"}):
        cache = DjangoCache("own")
        given = ("p", "m") if first == "alookup" else ("p", "m", [Generation(text="a")])
        asyncio.run(getattr(cache, first)(*given))
        assert sys.modules[name].imported_by != threading.get_ident()


USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "input_token_details": {"cache_read": 2}}
CALL = {"name": "search", "args": {"q": [1, 2.5, None, {"lc": 1}]}, "id": "c1", "type": "tool_call"}
HOSTILE = {"lc": 1, "type": "constructor", "id": ["langchain_core", "prompts", "PromptTemplate"], "kwargs": {}}
SECRET = {"lc": 1, "type": "secret", "id": ["HOME"]}
MESSAGES = {
    "plain": AIMessage("hello", id="run-1", usage_metadata=USAGE, response_metadata={"model_name": "m"}),
    "tool calls": AIMessage("", tool_calls=[CALL], invalid_tool_calls=[{**CALL, "args": "{", "error": "cut"}]),
    "blocks": AIMessage([{"type": "text", "text": "hi"}, {"type": "reasoning", "summary": []}], name="bot"),
    "what looks like an object": AIMessage(
        "x", additional_kwargs={"a": HOSTILE, "b": SECRET}, response_metadata=HOSTILE
    ),
    "chunk": AIMessageChunk("part", usage_metadata=USAGE, tool_call_chunks=[]),
    "surrogate": AIMessage("\ud800"),
    "empty": AIMessage(""),
    "extra": AIMessage("x", mood="good"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_come_back_equal(name: str) -> None:
    message, cache = MESSAGES[name], DjangoCache()
    kind = ChatGenerationChunk if isinstance(message, AIMessageChunk) else ChatGeneration
    info = {"finish_reason": "stop", "logprobs": [{"token": "h", "p": -0.1}], "n": None}
    generations = [kind(message=message, generation_info=info), kind(message=message)]
    cache.update("prompt", "model", generations)
    found = cache.lookup("prompt", "model")
    assert found == generations
    assert [type(each) for each in found] == [kind, kind]
    assert repr(found) == repr(generations)


def test_texts_of_older_models_come_back_equal() -> None:
    cache = DjangoCache()
    generations = [Generation(text="a", generation_info={"x": 1}), GenerationChunk(text="b")]
    asyncio.run(cache.aupdate("prompt", "model", generations))
    assert asyncio.run(cache.alookup("prompt", "model")) == generations == cache.lookup("prompt", "model")
    model = FakeListLLM(responses=["one", "two"], cache=cache)
    assert [model.invoke("p"), model.invoke("p")] == ["one", "one"]


def test_what_would_not_come_back_equal_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    class Own(AIMessage):
        pass

    cache = DjangoCache()
    odd = [
        AIMessage("x", additional_kwargs={"when": threading.Lock}),
        AIMessage("x", additional_kwargs={"pair": (1, 2)}),
        AIMessage("x", response_metadata={"p": float("nan")}),
        Own("x"),
        HumanMessage("x"),
    ]
    with caplog.at_level(logging.WARNING, "llmcache.call"):
        for number, message in enumerate(odd):
            for _ in range(2):
                cache.update(str(number), "m", [ChatGeneration(message=message)])
                assert cache.lookup(str(number), "m") is None
        cache.update("none", "m", [])
    assert cache.lookup("none", "m") is None
    # Once for each reason.
    assert len(caplog.records) == 5


def test_structured_answers_come_back_as_objects(sandbox: Sandbox) -> None:
    text = f"{TEXT}. Answer in JSON."
    sandbox.answers = {text: '{"Title": "fire", "urgent": true}'}
    for method in ("json_schema", "function_calling", "json_mode"):
        made = chat(sandbox).with_structured_output(Ticket, method=method, include_raw=True)
        before = sandbox.calls
        first, second = made.invoke(text), made.invoke(text)
        assert first["parsing_error"] is second["parsing_error"] is None, method
        assert first["parsed"] == second["parsed"] == Ticket(Title="fire", urgent=True)
        assert type(second["parsed"]) is Ticket
        assert sandbox.calls == before + 1


def test_what_differs_is_asked_for_by_itself(sandbox: Sandbox) -> None:
    made = chat(sandbox)
    different: list[Any] = [
        *(lambda: made.invoke(TEXT), lambda: made.invoke("The printer is wet")),
        lambda: made.invoke([SystemMessage("Be brief."), HumanMessage(TEXT)]),
        *(lambda: made.invoke(TEXT, stop=["x"]), lambda: made.invoke(TEXT, temperature=0)),
        *(lambda: chat(sandbox, model="gpt-5").invoke(TEXT), lambda: chat(sandbox, seed=1).invoke(TEXT)),
        lambda: made.bind_tools([Ticket]).invoke(TEXT),
    ]
    for _ in range(2):
        for call in different:
            call()
    assert sandbox.calls == len(different)


def test_langchain_names_a_class_and_not_its_schema(sandbox: Sandbox) -> None:
    """Of what is asked for by ``json_schema`` the key has the class's name alone: say when it has changed."""

    def answer(**fields: Any) -> Any:
        changed = create_model("Ticket", __module__="shop.types", **fields)
        return chat(sandbox).with_structured_output(changed, method="json_schema").invoke(TEXT)

    answer(title=(str, ...))
    with pytest.raises(ValidationError):
        answer(title=(str, ...), email=(str, ...))
    assert sandbox.calls == 1
    with llmcache_settings(KINDS={"langchain": {"version": "2"}}):
        assert answer(title=(str, ...), email=(str, ...)).email
    assert sandbox.calls == 2


def test_two_texts_that_are_one_together_are_two_keys() -> None:
    cache = DjangoCache()
    cache.update("ab", "c", [Generation(text="1")])
    assert [cache.lookup("a", "bc"), cache.lookup("abc", ""), cache.lookup("", "abc")] == [None] * 3


@pytest.mark.parametrize("fault", [faults.truncated(), faults.content_filter(), faults.refusal()], ids=lambda f: f.name)
def test_only_whole_answers_are_kept(fault: Any, sandbox: Sandbox) -> None:
    sandbox.fail(fault, times=1)
    made = chat(sandbox)
    made.invoke(TEXT)
    made.invoke(TEXT)
    made.invoke(TEXT)
    assert sandbox.calls == 2


@pytest.mark.parametrize("version", [None, "v0", "responses/v1", "v1"])
@pytest.mark.parametrize("fault", [faults.truncated(), faults.content_filter(), faults.refusal()], ids=lambda f: f.name)
def test_only_whole_answers_of_the_responses_api_are_kept(fault: Any, version: str | None, sandbox: Sandbox) -> None:
    sandbox.fail(fault, times=1)
    made = chat(sandbox, use_responses_api=True, output_version=version)
    for _ in range(3):
        made.invoke(TEXT)
    assert sandbox.calls == 2


REFUSED = {"type": "refusal", "refusal": "I cannot help"}


@pytest.mark.parametrize(
    "told",
    [
        *({"finish_reason": each} for each in ("RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE")),
        *({"stopReason": each} for each in ("max_tokens", "guardrail_intervened")),
        *({"stop_reason": each} for each in ("refusal", "pause_turn", "model_context_window_exceeded")),
        *({"status": each} for each in ("incomplete", "failed", "in_progress")),
        *({"finish_reason": each} for each in ("length", "MAX_TOKENS", "SAFETY", "something new")),
        {"done_reason": "length"},
        {"status": "completed", "incomplete_details": {"reason": "max_output_tokens"}},
    ],
    ids=lambda told: "-".join(map(str, next(iter(told.items())))),
)
def test_what_a_provider_says_is_not_whole_is_not_kept(told: dict[str, Any]) -> None:
    cache = DjangoCache()
    cache.update("message", "m", [ChatGeneration(message=AIMessage("half", response_metadata=told))])
    cache.update("info", "m", [Generation(text="whole"), Generation(text="half", generation_info=told)])
    assert (cache.lookup("message", "m"), cache.lookup("info", "m")) == (None, None)


def test_what_was_declined_in_a_block_is_not_kept() -> None:
    cache = DjangoCache()
    for block in (REFUSED, {"type": "non_standard", "value": REFUSED}, {"type": "text", "text": "", "refusal": "No"}):
        cache.update("p", "m", [ChatGeneration(message=AIMessage([{"type": "text", "text": "a"}, block]))])
        assert cache.lookup("p", "m") is None


@pytest.mark.parametrize(
    "told",
    [
        *({"finish_reason": each} for each in ("stop", "STOP", "tool_calls", "function_call", "COMPLETE", "", None)),
        *({"stop_reason": each} for each in ("end_turn", "tool_use", "stop_sequence", "eos_token")),
        *({"stopReason": "end_turn"}, {"done_reason": "stop"}, {"status": "completed", "incomplete_details": None}),
        {"stop_reason": 50256},
        {},
    ],
    ids=lambda told: "-".join(map(str, next(iter(told.items()), ()))) or "nothing",
)
def test_what_has_ended_well_is_kept(told: dict[str, Any]) -> None:
    cache, blocks = DjangoCache(), [{"type": "text", "text": "a"}, {"type": "non_standard", "value": {"b": 1}}, "c"]
    whole = [ChatGeneration(message=AIMessage(blocks, response_metadata=told), generation_info=told)]
    cache.update("p", "m", whole)
    assert cache.lookup("p", "m") == whole


def test_time_limits_hold(sandbox: Sandbox, clock: MovedClock) -> None:
    short, forever, usual = (chat(sandbox, DjangoCache(kind=str(ttl), ttl=ttl)) for ttl in (60, None, 0))
    for _ in range(2):
        for made in (short, forever, usual):
            made.invoke(TEXT)
    assert sandbox.calls == 4
    clock.move(61)
    for made in (short, forever):
        made.invoke(TEXT)
    assert sandbox.calls == 5
    by_kind = chat(sandbox, DjangoCache())
    by_kind.invoke(TEXT)
    clock.move(8 * 86_400)
    by_kind.invoke(TEXT)
    forever.invoke(TEXT)
    assert sandbox.calls == 7


def test_two_processes_pay_once(sandbox: Sandbox, shared: RedisServer) -> None:
    told = in_a_child(lambda: chat(sandbox).invoke(TEXT).content)
    assert repr(chat(sandbox).invoke(TEXT).content) == told
    assert sandbox.calls == 1


@pytest.mark.django_db
def test_clear_is_about_its_own_answers_alone(sandbox: Sandbox, shared: RedisServer) -> None:
    with Redis.from_url(shared.url) as redis:
        redis.set("of-somebody-else", "x")
        made, other = chat(sandbox, cache := DjangoCache()), chat(sandbox, DjangoCache(kind="other"))
        made.invoke(TEXT)
        other.invoke(TEXT)
        cache.clear()
        assert redis.get("of-somebody-else") == b"x"
    made.invoke(TEXT)
    other.invoke(TEXT)
    assert sandbox.calls == 3
    with pytest.raises(InvalidRequest, match="invalidate"):
        cache.clear(pattern="*")


@pytest.mark.django_db(transaction=True)
def test_clear_awaited(sandbox: Sandbox) -> None:
    async def through() -> None:
        made = chat(sandbox, cache := DjangoCache())
        await made.ainvoke(TEXT)
        await cache.aclear()
        await made.ainvoke(TEXT)
        await made.ainvoke(TEXT)

    asyncio.run(through())
    assert sandbox.calls == 2


@pytest.mark.django_db
def test_an_answer_under_way_is_void_on_arrival() -> None:
    cache = DjangoCache(tags=["support"])
    assert cache.lookup("p", "m") is None
    llmcache.invalidate(tag="support")
    cache.update("p", "m", [Generation(text="old")])
    assert cache.lookup("p", "m") is None
    cache.update("p", "m", [Generation(text="new")])
    assert cache.lookup("p", "m") == [Generation(text="new")]


@pytest.mark.django_db(transaction=True)
def test_looks_of_tasks_do_not_meet() -> None:
    """Of two tasks that look for the same, the one that has looked before an invalidation stores nothing good."""
    cache, looked, goes_on = DjangoCache(), asyncio.Event(), asyncio.Event()

    async def early() -> None:
        await cache.alookup("p", "m")
        looked.set()
        await goes_on.wait()
        await cache.aupdate("p", "m", [Generation(text="old")])

    async def through() -> Any:
        # What both tasks have of this context is not to be changed by one for the other.
        await cache.alookup("of both", "m")
        first = asyncio.create_task(early())
        await looked.wait()
        await cache.aclear()
        await asyncio.create_task(cache.alookup("p", "m"))
        goes_on.set()
        await first
        return await cache.alookup("p", "m")

    assert asyncio.run(through()) is None


def test_tenants_never_meet(sandbox: Sandbox) -> None:
    for tenant in ("a", "b", None, "a", "b", None):
        chat(sandbox, DjangoCache(tenant=tenant)).invoke(TEXT)
    assert sandbox.calls == 3
    with llmcache_settings(TENANT=lambda: "a"):
        chat(sandbox).invoke(TEXT)
        asyncio.run(chat(sandbox).ainvoke(TEXT))
    assert sandbox.calls == 3
    with llmcache_settings(TENANT_REQUIRED=True), pytest.raises(TenantMissing):
        chat(sandbox).invoke(TEXT)


def test_what_is_damaged_is_asked_for_anew(sandbox: Sandbox, shared: RedisServer) -> None:
    made = chat(sandbox)
    first = made.invoke(TEXT)
    with Redis.from_url(shared.url) as redis:
        for number, damage in enumerate((b"\x80\x04K\x01.", b"7", b"", "list"), 2):
            for name in list(redis.scan_iter(f"*{llmcache.engine.process.current().namespace}*")):
                value = redis.get(name)
                redis.delete(name)
                if damage == "list":
                    redis.lpush(name, value)
                else:
                    redis.set(name, damage)
            assert made.invoke(TEXT).content == first.content
            assert sandbox.calls == number


def test_entries_are_signed_where_the_project_has_a_secret(sandbox: Sandbox, shared: RedisServer) -> None:
    made, known = chat(sandbox), [(name, secrets.token_urlsafe(32)) for name in ("a", "b")]
    for number, mine in enumerate(([], known[:1], known[1:]), 1):
        with llmcache_settings(KEY_SECRETS=mine):
            made.invoke(TEXT)
            made.invoke(TEXT)
        assert sandbox.calls == number


@pytest.mark.django_db
def test_what_another_version_has_written_is_a_miss() -> None:
    from llmcache.contrib.langchain import _key
    from llmcache.contrib.shelf import Made

    cache = DjangoCache()
    for written in ('{"a": 1}', "[1]", '[{"class": "PromptTemplate", "text": "", "info": null}]', '[{"class": []}]'):
        cache._shelf.put(_key("p", "m"), Made(written.encode()))
        assert cache.lookup("p", "m") is None
    cache._shelf.put(_key("p", "m"), Made(json.dumps([{"class": "Generation", "text": "x", "info": None}]).encode()))
    assert cache.lookup("p", "m") == [Generation(text="x")]
    assert llmcache.stats().hits == 1


def test_a_store_that_is_down_fails_no_call(sandbox: Sandbox, shared: RedisServer) -> None:
    made = chat(sandbox)
    made.invoke(TEXT)
    shared.stop()
    try:
        made.invoke(TEXT)
        asyncio.run(made.ainvoke(TEXT))
        assert sandbox.calls == 3
    finally:
        shared.start()


@pytest.mark.django_db
def test_hits_are_counted_and_tell_what_they_have_saved(sandbox: Sandbox) -> None:
    made = chat(sandbox, DjangoCache(provider="openai"))
    made.invoke(TEXT)
    bill = sandbox.bill_pico_usd
    for _ in range(3):
        made.invoke(TEXT)
    stats = llmcache.stats(by="kind")["langchain"]
    assert (stats.hits, stats.misses, stats.saved_usd * 10**12) == (3, 1, bill * 3)
    assert list(llmcache.stats(by="model")) == ["openai/gpt-5-mini-2026-01-01"]


def test_settings_of_no_use_are_told() -> None:
    with pytest.raises(ConfigurationError, match="CACHES"):
        DjangoCache("nowhere").lookup("p", "m")
    with llmcache.bypass():
        cache = DjangoCache()
        cache.update("p", "m", [Generation(text="x")])
    assert cache.lookup("p", "m") is None
