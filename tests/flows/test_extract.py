"""The main job: a text becomes typed data, and a repeat is answered from the cache."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader, MovedClock, llmcache_settings


class Person(BaseModel):
    """A person."""

    name: str
    tags: list[str] = []


ADA = {"name": "Ada", "tags": ["first"]}


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    sandbox.answers["Ada"] = ADA
    return sandbox


def test_a_repeat_is_answered_from_memory_and_is_a_fresh_object(provider: Sandbox) -> None:
    first, second = llmcache.extract("Ada", Person), llmcache.extract("Ada", Person)
    assert (first, second, provider.calls) == (Person(**ADA), Person(**ADA), 1)
    first.tags.append("changed by its caller")
    assert llmcache.extract("Ada", Person) == Person(**ADA)


def test_another_process_is_answered_from_disk(provider: Sandbox, forget_memory: Any) -> None:
    llmcache.extract("Ada", Person)
    forget_memory()
    found = llmcache.extract_with_info("Ada", Person)
    assert (found.outcome, found.tier, provider.calls) == ("hit", "disk", 1)
    assert llmcache.extract_with_info("Ada", Person).tier == "memory"


def test_info_says_how_it_came_about(provider: Sandbox) -> None:
    miss, hit = llmcache.extract_with_info("Ada", Person), llmcache.extract_with_info("Ada", Person)
    assert (miss.outcome, miss.reason, miss.tier, miss.attempts) == ("miss", "not_found", None, 1)
    assert (hit.outcome, hit.reason, hit.tier, hit.attempts, hit.usage) == ("hit", None, "memory", 0, None)
    charge = provider.charges()[0]
    assert miss.usage is not None
    assert (miss.usage.input_tokens, miss.usage.cache_read_tokens, miss.usage.output_tokens) == (
        charge["input_tokens"],
        charge["cache_read_tokens"],
        charge["output_tokens"],
    )
    assert hit.key == miss.key
    assert hit.origin == "provider"
    assert 0 <= hit.age_seconds < 60
    assert hit.ttl_left_seconds is not None
    assert hit.ttl_left_seconds <= 7 * 86_400
    assert hit.completion == miss.completion


def test_the_completion_is_the_providers_own_type_also_on_a_hit(provider: Sandbox, forget_memory: Any) -> None:
    value, completion = llmcache.extract_with_completion("Ada", Person)
    assert isinstance(completion, ChatCompletion)
    assert Person.model_validate_json(completion.choices[0].message.content or "") == value
    assert llmcache.extract_with_completion("Ada", Person) == (value, completion)
    forget_memory()
    assert llmcache.extract_with_completion("Ada", Person) == (value, completion)
    assert provider.calls == 1


def test_a_completion_that_was_evicted_is_a_miss_for_those_who_want_it(
    provider: Sandbox, drop_supplements: Any
) -> None:
    llmcache.extract("Ada", Person)
    drop_supplements()
    assert llmcache.extract_with_info("Ada", Person).outcome == "hit"
    assert llmcache.extract_with_info("Ada", Person).completion is None
    _, completion = llmcache.extract_with_completion("Ada", Person)
    assert isinstance(completion, ChatCompletion)
    assert provider.calls == 2


def test_bypass_touches_no_tier(provider: Sandbox) -> None:
    assert llmcache.extract_with_info("Ada", Person, cache="bypass").outcome == "bypass"
    assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
    assert llmcache.extract_with_info("Ada", Person, cache="bypass").outcome == "bypass"
    assert provider.calls == 3


def test_only_never_asks(provider: Sandbox) -> None:
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("Ada", Person, cache="only")
    llmcache.extract("Ada", Person)
    assert llmcache.extract("Ada", Person, cache="only") == Person(**ADA)
    assert provider.calls == 1


def test_ttl_bounds_the_age_for_writer_and_reader(provider: Sandbox, clock: MovedClock, forget_memory: Any) -> None:
    llmcache.extract("Ada", Person, ttl=100)
    clock.move(99)
    assert llmcache.extract_with_info("Ada", Person, ttl=None).outcome == "hit"
    assert llmcache.extract_with_info("Ada", Person, ttl=98).outcome == "miss"  # a reader who wants it younger
    clock.move(99)
    forget_memory()
    assert llmcache.extract_with_info("Ada", Person, ttl=None).tier is None  # written by one who wanted 98
    clock.move(390 * 86_400)
    assert llmcache.extract_with_info("Ada", Person, ttl=None).outcome == "hit"
    forget_memory()
    hit = llmcache.extract_with_info("Ada", Person, ttl=None)
    assert (hit.tier, hit.ttl_left_seconds) == ("disk", None)


def test_an_entry_found_on_disk_lives_in_memory_for_what_it_has_left(
    provider: Sandbox, clock: MovedClock, forget_memory: Any
) -> None:
    llmcache.extract("Ada", Person, ttl=timedelta(seconds=100))
    clock.move(60)
    forget_memory()
    assert llmcache.extract_with_info("Ada", Person).tier == "disk"
    clock.move(39)
    assert llmcache.extract_with_info("Ada", Person).tier == "memory"
    clock.move(2)
    assert llmcache.extract_with_info("Ada", Person).outcome == "miss"


def test_lowering_the_ttl_in_settings_works_at_once(provider: Sandbox, clock: MovedClock) -> None:
    llmcache.extract("Ada", Person)
    clock.move(3_600)
    assert llmcache.extract_with_info("Ada", Person).outcome == "hit"
    with llmcache_settings(TTL=1_800), clock.kept():
        assert llmcache.extract_with_info("Ada", Person).outcome == "miss"


def test_ttl_zero_asks_and_does_not_store(provider: Sandbox) -> None:
    found = llmcache.extract_with_info("Ada", Person, ttl=0)
    assert (found.outcome, found.reason) == ("bypass", "ttl_zero")
    assert llmcache.extract_with_info("Ada", Person).outcome == "miss"


def test_tenants_never_meet(provider: Sandbox) -> None:
    for tenant in ("a", "b", None, "A", " a"):
        assert llmcache.extract_with_info("Ada", Person, tenant=tenant).outcome == "miss"
        assert llmcache.extract_with_info("Ada", Person, tenant=tenant).outcome == "hit"


def test_an_extractor_has_defaults_that_a_call_overrides(provider: Sandbox) -> None:
    acme = llmcache.Extractor(tenant="acme", temperature=0)
    assert acme.extract("Ada", Person) == Person(**ADA)
    assert provider.requests[-1].body["temperature"] == 0
    assert llmcache.extract_with_info("Ada", Person, tenant="acme", temperature=0).outcome == "hit"
    assert acme.extract_with_info("Ada", Person, tenant="other").outcome == "miss"
    acme.extract("Ada", Person, temperature=1)
    assert provider.requests[-1].body["temperature"] == 1
    with pytest.raises(llmcache.InvalidRequest, match="tenant"):
        llmcache.Extractor(tennant="acme")


def test_the_body_has_no_hidden_prompt_and_every_parameter(provider: Sandbox) -> None:
    llmcache.extract("Ada", Person, system="Read names.", seed=3, new_thing={"b": 1, "a": [None]}, user="u1")
    body = provider.requests[-1].body
    assert body["messages"] == [{"role": "system", "content": "Read names."}, {"role": "user", "content": "Ada"}]
    assert body["model"] == "gpt-5-mini"
    assert (body["seed"], body["new_thing"], body["user"]) == (3, {"b": 1, "a": [None]}, "u1")
    assert body["response_format"]["json_schema"]["strict"] is True
    assert body["response_format"]["json_schema"]["name"] == "Person"
    assert set(body) == {"messages", "model", "response_format", "seed", "new_thing", "user"}


@pytest.mark.parametrize(
    "content", [mark_safe("Ada"), lazystr("Ada"), type("Text", (str,), {"__str__": lambda _: "?"})("Ada")]
)
def test_a_kind_of_str_is_its_text(content: Any, provider: Sandbox) -> None:
    llmcache.extract("Ada", Person)
    assert llmcache.extract_with_info(content, Person).outcome == "hit"


def test_a_text_with_nul_and_unusual_characters_is_sent_as_it_is(provider: Sandbox) -> None:
    text = " \0\u202eZoe\u0308\r\n\t\U0001f600"
    llmcache.extract(text, Person)
    assert provider.requests[-1].body["messages"][0]["content"] == text
    assert llmcache.extract_with_info(text, Person).outcome == "hit"


def test_the_sdks_types_come_back_with_what_they_do_not_know(provider: Sandbox) -> None:
    _, completion = llmcache.extract_with_completion("Ada", Person)
    assert completion.system_fingerprint == "sandbox-not-a-model"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_without_a_key_hits_answer_and_a_miss_says_what_is_missing(
    provider: Sandbox, journal: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    llmcache.extract("Ada", Person)
    before = len(journal.records())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with llmcache_settings(PROVIDERS={"openai": {"base_url": provider.base_url}}):
        assert llmcache.extract("Ada", Person) == Person(**ADA)
        with pytest.raises(llmcache.ConfigurationError, match="api_key"):
            llmcache.extract("Grace", Person)
    assert len(journal.records()) == before


def test_the_environments_key_and_address_are_read_at_use(provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with llmcache_settings(PROVIDERS={}):
        with pytest.raises(llmcache.ConfigurationError, match="OPENAI_API_KEY"):
            llmcache.extract("Ada", Person)
        monkeypatch.setenv("OPENAI_API_KEY", "sandbox")
        assert llmcache.extract("Ada", Person) == Person(**ADA)


def test_another_provider_does_not_take_openais_variables(provider: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    with llmcache_settings(PROVIDERS={"other": {}}), pytest.raises(llmcache.ConfigurationError, match="base_url"):
        llmcache.extract("Ada", Person, model="other/m")
    there = {"other": {"base_url": provider.base_url}}
    with llmcache_settings(PROVIDERS=there), pytest.raises(llmcache.ConfigurationError, match="'other'"):
        llmcache.extract("Ada", Person, model="other/m")
    assert provider.received == 0


def test_counts_have_exactly_one_outcome_for_each_call(provider: Sandbox) -> None:
    llmcache.extract("Ada", Person)
    llmcache.extract("Ada", Person)
    llmcache.extract_with_info("Ada", Person)
    llmcache.extract("Ada", Person, cache="bypass")
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("Grace", Person, cache="only")
    model = "openai/gpt-5-mini"
    assert process.current().counts.total() == {
        ("Person", model, None, "miss"): 1,
        ("Person", model, "memory", "hit"): 2,
        ("Person", model, None, "bypass"): 1,
        ("Person", model, None, "error"): 1,
    }


def test_an_entry_that_does_not_pass_validation_is_a_miss(provider: Sandbox) -> None:
    class Strict(BaseModel):
        """A person."""

        name: str
        tags: list[str] = []

    llmcache.extract("Ada", Person, kind="person")
    Strict.__name__ = "Person"
    accepted = {"yes": False}

    def check(value: "Strict") -> "Strict":
        if not accepted["yes"]:
            raise ValueError("not today")
        return value

    from pydantic import model_validator

    picky = type("Person", (Strict,), {"__doc__": "A person.", "check": model_validator(mode="after")(check)})
    with pytest.raises(llmcache.ValidationFailed):
        llmcache.extract("Ada", picky, kind="person", max_reasks=0)
    accepted["yes"] = True
    found = llmcache.extract_with_info("Ada", picky, kind="person")
    assert found.outcome == "hit"  # the same request: the answer that was there passes now
    assert provider.calls == 2


def test_two_types_of_one_name_share_a_kind_and_are_told_apart_once(
    provider: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.unit import key_types

    for prompt in ("one", "two", "three"):
        llmcache.extract("Ada", Person, system=prompt)
        llmcache.extract("Ada", key_types.Person, system=prompt)
    warnings = [record.getMessage() for record in caplog.records if "share the kind" in record.getMessage()]
    assert len(warnings) == 1
    assert "tests.flows.test_extract.Person" in warnings[0]
    assert "tests.unit.key_types.Person" in warnings[0]


def test_a_response_type_outside_strict_mode_says_so_once(provider: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="llmcache.call"):
        llmcache.extract("one 1", dict[str, int])
        llmcache.extract("two 2", dict[str, int])
    assert len([record for record in caplog.records if "without strict mode" in record.getMessage()]) == 1
    assert provider.requests[-1].body["response_format"]["json_schema"]["strict"] is False


def test_a_memory_tier_alone_keeps_the_completion_too(provider: Sandbox) -> None:
    caches = {"llm": {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "alone"}}
    with override_settings(CACHES={"default": caches["llm"], **caches}), llmcache_settings(TIERS=["llm"]):
        value, completion = llmcache.extract_with_completion("Ada", Person)
        assert llmcache.extract_with_completion("Ada", Person) == (value, completion)
        found = llmcache.extract_with_info("Ada", Person)
        assert (found.tier, found.completion) == ("llm", completion)
    assert provider.calls == 1


def test_aliases_of_caches_are_tiers(provider: Sandbox, tmp_path: Any) -> None:
    caches = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "fast": {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "fast"},
        "first": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "first")},
        "second": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "second"), "KEY_PREFIX": "p"},
    }
    with override_settings(CACHES=caches):
        with llmcache_settings(TIERS=["second"]):
            assert llmcache.extract_with_info("Ada", Person).outcome == "miss"
            assert llmcache.extract_with_info("Ada", Person).tier == "second"
        with llmcache_settings(TIERS=["fast", "first", "second"]):
            assert llmcache.extract_with_info("Ada", Person).tier == "second"
            assert llmcache.extract_with_info("Ada", Person).tier == "fast"
        with llmcache_settings(TIERS=["first"]):
            assert llmcache.extract_with_info("Ada", Person).tier == "first"
    assert provider.calls == 1


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        (["nowhere"], "not in CACHES"),
        (["broken"], "cannot be made"),
        (["disk", "fast"], "Put it first"),
    ],
)
def test_a_tier_that_cannot_be_one_is_a_configuration_error(aliases: list[str], says: str, tmp_path: Any) -> None:
    caches = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "broken": {"BACKEND": "django.core.cache.backends.nowhere.NoCache"},
        "fast": {"BACKEND": "llmcache.backends.MemoryCache"},
        "disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path)},
    }
    with (
        override_settings(CACHES=caches),
        llmcache_settings(TIERS=aliases),
        pytest.raises(llmcache.ConfigurationError, match=says),
    ):
        llmcache.extract("Ada", Person)


def test_a_failing_provider_leaves_hits_alone(provider: Sandbox) -> None:
    llmcache.extract("Ada", Person)
    provider.fail(faults.server_error(500), times=None)
    assert llmcache.extract("Ada", Person) == Person(**ADA)
