"""Input that cannot be used: an error that names the argument and says what to do, before anything is sent."""

import asyncio
import subprocess
import sys
import traceback
import typing
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.testing.sandbox import Sandbox
from tests.conftest import JournalReader, llmcache_settings


class Person(BaseModel):
    """A person."""

    name: str


class Unresolved(BaseModel):
    """Refers to what is not there."""

    other: "NotDefinedAnywhere"  # type: ignore[name-defined]  # noqa: F821


CONTENTS: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (None, TypeError, "content= must be a str"),
    "bytes": (b"Ada", TypeError, r"content\.decode\(\)"),
    "bytearray": (bytearray(b"Ada"), TypeError, r"content\.decode\(\)"),
    "int": (1, TypeError, "content= must be a str"),
    "generator": ((word for word in ["Ada"]), TypeError, "content= must be a str"),
    "empty": ("", ValueError, "empty"),
    "lone surrogate": ("Ada \ud800", ValueError, "surrogate at character 4"),
    "over the limit": ("x" * (2**20 + 1), ValueError, "MAX_TEXT_BYTES"),
    "over the limit in bytes": ("é" * (2**19 + 1), ValueError, "MAX_TEXT_BYTES"),
    "100 MB": ("x" * 100_000_000, ValueError, "MAX_TEXT_BYTES"),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("warm", [False, True])
def test_a_content_that_cannot_be_used(name: str, warm: bool, sandbox: Sandbox, journal: JournalReader) -> None:
    content, builtin, says = CONTENTS[name]
    if warm:
        llmcache.extract("Grace", Person)  # so that the quick way of a hit is tried first
    before = sandbox.received
    with pytest.raises(llmcache.InvalidRequest, match=says) as caught:
        llmcache.extract(content, Person)
    assert isinstance(caught.value, builtin)
    assert sandbox.received == before
    assert len(journal.records()) == 2 * before
    assert "xxxx" not in str(caught.value)


TYPES: dict[str, tuple[Any, str]] = {
    "an instance": (Person(name="Ada"), "instance of Person"),
    "a dict value": ({"name": str}, "value of type dict"),
    "a str": ("Person", "value of type str"),
    "None": (None, "not a type"),
    "a number": (5, "not a type"),
    "a list value": ([Person], "value of type list"),
    "a function": (lambda: 1, "value of type function"),
    "a callable type": (Callable[[int], int], "cannot be used"),
    "an arbitrary class": (type("Thing", (), {}), "cannot be used"),
    "an unresolved reference": (Unresolved, "NotDefinedAnywhere"),
    "an unresolved reference inside": (list["AlsoNotDefined"], "AlsoNotDefined"),  # type: ignore[name-defined]  # noqa: F821
}


@pytest.mark.parametrize("name", TYPES)
def test_a_response_type_that_cannot_be_used(name: str, sandbox: Sandbox) -> None:
    response_model, says = TYPES[name]
    with pytest.raises(llmcache.UnsupportedType, match=says) as caught:
        llmcache.extract("Ada", response_model)
    assert isinstance(caught.value, TypeError)
    assert sandbox.received == 0


def test_typings_own_typed_dict_works_or_says_where_to_take_another(sandbox: Sandbox) -> None:
    row = typing.TypedDict("row", {"a": int})  # noqa: UP013
    if sys.version_info >= (3, 12):
        assert set(llmcache.extract("Ada", row)) == {"a"}
    else:
        with pytest.raises(llmcache.UnsupportedType, match="typing_extensions"):
            llmcache.extract("Ada", row)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "negative ttl": ({"ttl": -1}, "ttl="),
    "nan ttl": ({"ttl": float("nan")}, "ttl="),
    "infinite ttl": ({"ttl": float("inf")}, "None for no expiry"),
    "bool ttl": ({"ttl": True}, "ttl="),
    "str ttl": ({"ttl": "60"}, "got a str"),
    "absurd ttl": ({"ttl": timedelta(days=999_999_999)}, "ttl="),
    "zero timeout": ({"timeout": 0}, "above zero"),
    "negative timeout": ({"timeout": -1}, "above zero"),
    "no timeout": ({"timeout": None}, "timeout="),
    "int tenant": ({"tenant": 1}, "tenant= must be a str"),
    "empty tenant": ({"tenant": ""}, "tenant= must have 1 to"),
    "surrogate tenant": ({"tenant": "\ud800"}, "surrogate"),
    "int subject": ({"subject": 1}, "subject="),
    "str tags": ({"tags": "ab"}, "tags= must be a list"),
    "int in tags": ({"tags": [1]}, "tags= must be a str"),
    "too many tags": ({"tags": list(map(str, range(1_001)))}, "1001 tags"),
    "bool variant": ({"variant": True}, "variant="),
    "float variant": ({"variant": 1.5}, "variant="),
    "int version": ({"version": 2}, "version="),
    "empty kind": ({"kind": ""}, "kind="),
    "long kind": ({"kind": "x" * 101}, "kind="),
    "int system": ({"system": 1}, "system="),
    "surrogate system": ({"system": "\ud800"}, "system="),
    "int model": ({"model": 1}, "model="),
    "cache word": ({"cache": "of"}, "'use', 'refresh', 'bypass', 'only'"),
    "cache True": ({"cache": True}, "cache="),
    "retries": ({"max_retries": -1}, "max_retries="),
    "reasks": ({"max_reasks": 1.0}, "max_reasks="),
    "unkeyed str": ({"unkeyed": "user"}, "unkeyed="),
    "unkeyed unknown": ({"unkeyed": ["seed"]}, "'seed'"),
    "misspelt ttl": ({"ttll": 5}, "did you mean ttl="),
    "misspelt tenant": ({"tenannt": "a"}, "did you mean tenant="),
    "misspelt timeout": ({"timout": 5}, "did you mean timeout="),
    "messages": ({"messages": []}, "messages="),
    "response_format": ({"response_format": {}}, "response_format="),
    "stream": ({"stream": True}, "stream="),
    "tools": ({"tools": []}, "tools="),
    "n": ({"n": 2}, "n="),
    "extra_body": ({"extra_body": {}}, "extra_body="),
    "extra_headers": ({"extra_headers": {}}, "extra_headers="),
    "extra_query": ({"extra_query": {}}, "extra_query="),
    "an object": ({"seed": object()}, "seed= is no JSON"),
    "nan": ({"temperature": float("nan")}, "temperature= is no JSON"),
    "bytes inside": ({"stop": [b"x"]}, "stop= is no JSON"),
    "surrogate inside": ({"stop": ["\ud800"]}, "stop= is no JSON"),
    "a set": ({"stop": {"x"}}, "stop= is no JSON"),
    "unkeyed object": ({"user": object()}, "user= is no JSON"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_cannot_be_used(name: str, sandbox: Sandbox) -> None:
    options, says = OPTIONS[name]
    with pytest.raises(llmcache.InvalidRequest, match=says):
        llmcache.extract("Ada", Person, **options)
    assert sandbox.received == 0


def test_a_parameter_that_holds_itself_is_no_json(sandbox: Sandbox) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(llmcache.InvalidRequest, match="logit_bias= is no JSON"):
        llmcache.extract("Ada", Person, logit_bias=endless)


def test_keys_of_a_parameter_must_be_str(sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="logit_bias= is no JSON"):
        llmcache.extract("Ada", Person, logit_bias={50256: -100})


@pytest.mark.parametrize("model", ["gpt-5-mini", "/gpt", "openai/", "nowhere/gpt-5"])
def test_a_model_without_a_known_provider(model: str, sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.ConfigurationError):
        llmcache.extract("Ada", Person, model=model)


def test_extract_in_a_running_loop_names_the_way_out(sandbox: Sandbox) -> None:
    llmcache.extract("Ada", Person)

    async def view(text: str) -> None:
        llmcache.extract(text, Person)

    for text in ("Ada", "Grace"):  # a hit as well as a miss: what works once must not fail the next time
        with pytest.raises(llmcache.AsyncContext, match=r"Await llmcache\.aextract\(\)"):
            asyncio.run(view(text))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import llmcache; llmcache.extract('x', int)", "DJANGO_SETTINGS_MODULE"),
        (
            "from django.conf import settings; settings.configure(); import llmcache; llmcache.extract('x', int)",
            "django.setup()",
        ),
        (
            (
                "from django.conf import settings; settings.configure(); import django; django.setup(); "
                "import llmcache; llmcache.extract('x', int)"
            ),
            "INSTALLED_APPS",
        ),
    ],
)
def test_a_call_before_django_is_set_up(program: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PATH": ""}, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("llmcache.exceptions.ConfigurationError")
    assert says in last


@pytest.mark.parametrize(
    "settings",
    [{"TLL": 5}, {"TTL": -1}, {"MODEL": "gpt"}, {"TIMEOUT": 0}, {"PROVIDERS": []}, {"JOURNAL": "relative"}],
    ids=str,
)
def test_settings_that_cannot_be_used_stop_the_first_call(settings: dict[str, Any]) -> None:
    with llmcache_settings(**settings), pytest.raises(llmcache.ConfigurationError, match=next(iter(settings))):
        llmcache.extract("Ada", Person)


def test_no_error_of_ours_shows_the_text(sandbox: Sandbox) -> None:
    for content, options in (("Canary \ud800", {}), ("Canary" * 200_000, {}), ("Canary", {"ttl": "Canary"})):
        with pytest.raises(llmcache.InvalidRequest) as caught:
            llmcache.extract(content, Person, **options)
        told = "".join(traceback.format_exception(caught.value)[-1:])
        assert "CanaryCanary" not in told
        assert "Canary \ud800" not in told
