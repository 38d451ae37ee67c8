"""Settings that cannot be used: a check says which and what to do, and so does the first call; nothing is sent."""

import asyncio
import base64
import math
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core import mail
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django_redis.client import DefaultClient, ShardClient
from pydantic import BaseModel

import llmcache
from llmcache import conf, keys
from llmcache.checks import check_llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox, faults
from llmcache.tiers.base import get_many
from tests.cache_servers import RedisServer
from tests.conftest import llmcache_settings
from tests.contract.aliases import ALIAS, DJANGO_REDIS, in_caches

DJANGO = "django.core.cache.backends"
REDIS = f"{DJANGO}.redis.RedisCache"
LOCMEM = {"BACKEND": f"{DJANGO}.locmem.LocMemCache"}
MEMORY = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "refused"}
HERE = __name__


class Person(BaseModel):
    """A person."""

    name: str


def told() -> list[tuple[str | None, str]]:
    """Return what the checks say: ids and words."""
    return [(each.id, f"{each.msg} {each.hint or ''}") for each in check_llmcache()]


CALLS: dict[str, Callable[[], Any]] = {
    "sync": lambda: llmcache.extract("Ada", Person),
    "async": lambda: asyncio.run(_awaited()),
}


async def _awaited() -> Person:
    return await llmcache.aextract("Ada", Person)


def assert_refused(says: str, sandbox: Sandbox) -> None:
    """Fail unless both kinds of call raise these words, and send nothing."""
    for ask in CALLS.values():
        for _ in range(2):
            with pytest.raises(llmcache.ConfigurationError) as caught:
                ask()
            assert says in str(caught.value)
    assert sandbox.received == 0


# -- LLMCACHE

NUMBERS = [option.name for option in conf.OPTIONS if type(option.default) in (int, float)]


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, -math.inf, True, "1", [1], 10**30, None], ids=repr)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_limit_that_is_none(name: str, value: Any, sandbox: Sandbox) -> None:
    assert len(NUMBERS) >= 8
    if (name, value) == ("TTL", None):
        # The one that means something: answers do not expire.
        return
    with llmcache_settings(**{name: value}):
        ((check, message),) = told()
        assert check == "llmcache.E002"
        assert f"LLMCACHE['{name}'] must be" in message
        assert_refused(f"LLMCACHE['{name}'] must be", sandbox)


OF_A_PROVIDER: dict[str, tuple[dict[str, Any], str]] = {
    "api": ({"api": "response"}, "['api'] must be 'chat' or 'responses'; did you mean 'responses'?"),
    "api that is none": ({"api": ["chat"]}, "['api'] must be 'chat' or 'responses'"),
    "output": ({"output": "tool"}, "must be 'json_schema' or 'tools' or 'json_object'; did you mean 'tools'?"),
    "output that is none": ({"output": None}, "['output'] must be 'json_schema' or 'tools' or 'json_object'"),
    "name": ({"outputs": "tools"}, "has the unknown key 'outputs'; did you mean 'output'?"),
    "call": ({"call": "ask"}, "['call'] must be a function, or the dotted path of one"),
    "acall": ({"acall": 5}, "['acall'] must be a function, or the dotted path of one"),
    "both": ({"call": "a.b", "output": "tools"}, "has 'output' beside a function, which is asked in its own way"),
    "key": ({"acall": "a.b", "api_key": "k"}, "has 'api_key' beside a function"),
    "path": ({"call": "no.such.function"}, "cannot be imported: ModuleNotFoundError"),
}


@pytest.mark.parametrize("case", OF_A_PROVIDER)
def test_how_a_provider_is_asked(case: str, sandbox: Sandbox) -> None:
    options, says = OF_A_PROVIDER[case]
    at = {"base_url": sandbox.base_url, "api_key": "sandbox"}
    for alias, model in (("openai", "openai/gpt-5-mini"), ("mine", "openai/gpt-5-mini")):
        given = options if "call" in options or "acall" in options else {**at, **options}
        providers = {"openai": at, alias: given}
        with llmcache_settings(PROVIDERS=providers, MODEL=model):
            ((check, message),) = told()
            assert check == ("llmcache.E006" if case == "path" else "llmcache.E002")
            assert says in message
            if alias == "openai" or case != "path":
                assert_refused(says, sandbox)


class Odd:
    """Nothing that a setting takes."""

    def __repr__(self) -> str:
        return "<odd>"


@pytest.mark.parametrize("value", [Odd(), b"bytes", {"a": Odd()}, [Odd()], 1 + 2j], ids=repr)
@pytest.mark.parametrize("name", [option.name for option in conf.OPTIONS])
def test_a_value_of_another_type(name: str, value: Any, sandbox: Sandbox) -> None:
    with llmcache_settings(**{name: value}):
        ((check, message),) = told()
        assert check == "llmcache.E002"
        assert f"LLMCACHE['{name}']" in message
        with pytest.raises(llmcache.ConfigurationError, match=rf"LLMCACHE\['{name}'\]"):
            llmcache.extract("Ada", Person)
    assert sandbox.received == 0


def test_settings_are_followed_while_a_test_overrides_them(sandbox: Sandbox, tmp_path: Path) -> None:
    def seen(**options: Any) -> tuple[str, str | None]:
        found = llmcache.extract_with_info("Ada", Person, **options)
        return found.outcome, found.tier

    before = llmcache.extract_with_info("Ada", Person).key
    with llmcache_settings(VERSION="another"):
        assert llmcache.extract_with_info("Ada", Person).key != before
        assert llmcache.extract("Ada", Person) is not None
    assert (llmcache.extract_with_info("Ada", Person).key, seen()[0]) == (before, "hit")
    with llmcache_settings(TTL=0):
        assert [seen()[0], seen()[0]] == ["bypass", "bypass"]
    with llmcache_settings(MAX_TEXT_BYTES=2), pytest.raises(llmcache.InputTooLarge):
        llmcache.extract("Ada", Person)
    with llmcache_settings(ALLOW_PROVIDER_CALLS=False), pytest.raises(llmcache.ProviderCallsForbidden):
        llmcache.extract("Grace", Person)
    folder = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "other")}
    with in_caches(shared=folder), llmcache_settings(TIERS=[ALIAS]):
        assert [seen(), seen()] == [("miss", None), ("hit", ALIAS)]
        # The alias now means another folder.
        with override_settings(CACHES={"default": LOCMEM, ALIAS: {**folder, "LOCATION": str(tmp_path / "third")}}):
            assert seen() == ("miss", None)
        assert seen() == ("hit", ALIAS)
    assert seen()[0] == "hit"


# -- CACHES


def raising(key: str, prefix: str, version: int) -> str:
    raise LookupError("a canary")


def one_name(key: str, prefix: str, version: int) -> str:
    return f"{prefix}:{version}"


def no_name(key: str, prefix: str, version: int) -> Any:
    return hash(key)


def too_few(key: str) -> str:
    return key


def own_name(key: str, prefix: str, version: int) -> str:
    return f"{version}/{prefix}/{key}"


def stores(tmp_path: Path, server: RedisServer) -> dict[str, dict[str, Any]]:
    """Return an alias of each kind of tier."""
    return {
        "disk": {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(tmp_path / "disk")},
        "file": {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": str(tmp_path / "file")},
        "django-redis": {"BACKEND": DJANGO_REDIS, "LOCATION": server.url},
        "Redis": {"BACKEND": REDIS, "LOCATION": server.url},
    }


@pytest.mark.parametrize("store", ["disk", "file", "django-redis", "Redis"])
@pytest.mark.parametrize("function", ["raising", "one_name", "no_name", "too_few"])
def test_a_key_function_that_makes_no_names(
    function: str, store: str, sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> None:
    given = {**stores(tmp_path, redis_server)[store], "KEY_FUNCTION": f"{HERE}.{function}"}
    with in_caches(shared=given), llmcache_settings(TIERS=[ALIAS]):
        ((check, message),) = told()
        assert check == "llmcache.E003"
        assert "KEY_FUNCTION of CACHES['shared']" in message
        assert "canary" not in message
        assert_refused("KEY_FUNCTION of CACHES['shared']", sandbox)


names_fail = False


def failing(key: str, prefix: str, version: int) -> str:
    if names_fail:
        raise LookupError("a canary")
    return own_name(key, prefix, version)


@pytest.mark.parametrize("store", ["disk", "file", "django-redis", "Redis"])
def test_a_key_function_that_fails_later_fails_no_call(
    store: str,
    sandbox: Sandbox,
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a thread, say, where what it asks for is not there."""
    sandbox.answers["Ada"] = {"name": "Ada"}
    given = {**stores(tmp_path, redis_server)[store], "KEY_FUNCTION": f"{HERE}.failing"}
    with in_caches(shared=given), llmcache_settings(TIERS=[ALIAS]):
        assert [llmcache.extract_with_info("Ada", Person).outcome for _ in range(2)] == ["miss", "hit"]
        monkeypatch.setattr(f"{HERE}.names_fail", True)
        assert llmcache.extract("Ada", Person) == Person(name="Ada")
        assert asyncio.run(llmcache.aextract("Ada", Person)) == Person(name="Ada")
        (tier,) = process.current().tiers.below
        assert get_many(tier, ["key"]) == [None]
        tier.delete("key")
        assert (tier.state().reads, tier.state().writes, tier.state().breaker) == (False, False, "closed")
        monkeypatch.setattr(f"{HERE}.names_fail", False)
        assert llmcache.extract_with_info("Ada", Person).outcome == "hit"
        assert tier.state().reads
    process.install(None)


NO_TIERS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "an alias that is not there": (["nowhere"], {}, "names 'nowhere', which is not in CACHES"),
    "no backend": (["llm"], {}, "'llm', which cannot be made"),
    "a backend that is misspelt": (["llm"], {"BACKEND": f"{DJANGO}.redis.RedisCahce"}, "'llm', which cannot be made"),
    "a key function that is not there": (["llm"], {**LOCMEM, "KEY_FUNCTION": "nowhere.named"}, "'llm', which cannot"),
    "memory below": (["default", "llm"], MEMORY, "'llm', which is memory, below another tier"),
    "options that are misspelt": (["llm"], {**MEMORY, "OPTIONS": {"MAXBYTES": 5}}, "OPTIONS MAXBYTES"),
    "disk nowhere": (["llm"], {"BACKEND": "llmcache.backends.DiskCache"}, "LOCATION"),
    "disk in a folder that is relative": (
        ["llm"], {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": "x"}, "LOCATION",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_TIERS)
def test_an_alias_that_is_no_tier(name: str, sandbox: Sandbox) -> None:
    aliases, given, says = NO_TIERS[name]
    with override_settings(CACHES={"default": LOCMEM, "llm": given}), llmcache_settings(TIERS=aliases):
        found = [(check, message) for check, message in told() if check == "llmcache.E003"]
        assert len(found) == 1
        assert says in found[0][1]
        assert_refused(says, sandbox)


@pytest.mark.parametrize("backend", [DJANGO_REDIS, REDIS])
@pytest.mark.parametrize(
    "location", [None, "", [], "127.0.0.1:6379", "http://127.0.0.1", "redis://:canary/1@127.0.0.1:1/0"]
)
def test_a_redis_that_is_nowhere_is_named_by_a_check_and_calls_are_answered(
    location: Any, backend: str, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"BACKEND": backend} if location is None else {"BACKEND": backend, "LOCATION": location}
    with in_caches(shared=given), llmcache_settings(TIERS=[ALIAS]):
        ((check, message),) = told()
        assert check == "llmcache.E003"
        assert "CACHES['shared']" in message
        assert "LOCATION" in message
        assert "canary" not in message
        assert [llmcache.extract_with_info("Ada", Person).outcome for _ in range(2)] == ["miss", "miss"]
        (state,) = process.current().tiers.states()
        assert (state.reads, state.writes) == (False, False)
        process.install(None)
    assert "'shared' cannot be" in caplog.text
    assert "canary" not in caplog.text


class OwnCache(RedisCache):
    """A backend of the project's own, used through its own methods."""


class OwnClient(DefaultClient):
    """A client of the project's own for django-redis."""


class OwnShards(ShardClient):
    """One over shards."""


def client(name: str) -> dict[str, Any]:
    return {"BACKEND": DJANGO_REDIS, "OPTIONS": {"CLIENT_CLASS": name}}


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"BACKEND": REDIS}, False),
        ({"BACKEND": DJANGO_REDIS}, False),
        (client("django_redis.client.ShardClient"), False),
        (client("django_redis.client.HerdClient"), False),
        ({"BACKEND": f"{HERE}.OwnCache"}, True),
        (client(f"{HERE}.OwnClient"), True),
        (client(f"{HERE}.OwnShards"), False),
    ],
    ids=str,
)
def test_several_servers_of_which_some_may_lag_behind(given: dict[str, Any], warned: bool) -> None:
    # Two databases of no server: nobody connects.
    places = ["redis://127.0.0.1:1/1", "redis://127.0.0.1:1/2"]
    spellings: list[Any] = [places, ",".join(places)] if "OPTIONS" not in given else [places]
    of = {"TIERS": [ALIAS], "PROVIDERS": {"openai": {"api_key": "x"}}}
    for location in spellings:
        with in_caches(shared={**given, "LOCATION": location}), llmcache_settings(**of):
            found = told()
        assert [check for check, _ in found] == (["llmcache.W012"] if warned else [])
        assert all("CACHES['shared']" in message and "primary" in message for _, message in found)
    with in_caches(shared={**given, "LOCATION": places[:1]}), llmcache_settings(**of):
        assert told() == []


@pytest.mark.parametrize("timeout", [None, 0, -5, 1, "soon"], ids=repr)
@pytest.mark.parametrize("store", ["disk", "file", "django-redis", "Redis"])
def test_the_timeout_of_an_alias_is_not_that_of_an_answer(
    store: str, timeout: Any, sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> None:
    own = {"TIMEOUT": timeout, "KEY_PREFIX": f"mine-{os.urandom(4).hex()}", "VERSION": 7}
    given = {**stores(tmp_path, redis_server)[store], **own, "KEY_FUNCTION": f"{HERE}.own_name"}
    with in_caches(shared=given), llmcache_settings(TIERS=[ALIAS], TTL=600):
        # Files keep few entries, and no leases.
        assert not [message for check, message in told() if check not in ("llmcache.W010", "llmcache.W013")]
        found = llmcache.extract_with_info("Ada", Person)
        assert found.outcome == "miss"
        assert llmcache.extract_with_info("Ada", Person).outcome == "hit"
        name = keys.storage_key(process.current().namespace, bytes.fromhex(found.key))
        if "edis" in store:
            with redis.Redis.from_url(redis_server.url) as plain:
                # As the project's own function names it.
                assert 590_000 < plain.pttl(f"7/{own['KEY_PREFIX']}/{name}") <= 600_000
        else:
            assert type(caches[ALIAS].get(name)) is bytes
        process.install(None)
    assert sandbox.received == 1


# -- KEY_SECRETS


def secret() -> str:
    return secrets.token_urlsafe(32)


@pytest.mark.parametrize("kind", [str, str.encode], ids=["str", "bytes"])
@pytest.mark.parametrize("place", ["SECRET_KEY", "SECRET_KEY_FALLBACKS"])
def test_djangos_secret_is_none_of_ours_however_it_is_kept(place: str, kind: Callable[[str], Any]) -> None:
    mine = secret()
    padded = mine + "=" * (-len(mine) % 4)
    for key in (mine, padded, base64.urlsafe_b64decode(padded).decode("latin-1")):
        shared = base64.b64encode(key.encode()).decode() if key not in (mine, padded) else mine
        given = kind(key)
        with (
            override_settings(**{place: given if place == "SECRET_KEY" else [given]}),
            llmcache_settings(KEY_SECRETS=[("1", shared)]),
        ):
            ((check, message),) = [each for each in told() if each[0] != "llmcache.W001"]
            assert check == "llmcache.E009"
            assert mine[:8] not in message


def test_without_a_secret_key_the_checks_go_on(sandbox: Sandbox) -> None:
    """As ``collectstatic`` is run where an image is built."""
    with override_settings(SECRET_KEY=""):
        assert told() == []
        with llmcache_settings(KEY_SECRETS=[("1", secret())]):
            assert told() == []
        with llmcache_settings(KEY_SECRETS=[("1", "")]):
            assert [check for check, _ in told()] == ["llmcache.E002"]


# -- what is secret is shown nowhere

_asks: list[Callable[[], object]] = []


def view(request: HttpRequest) -> HttpResponse:
    """Do what the test says."""
    return HttpResponse(str(_asks[-1]()))


async def aview(request: HttpRequest) -> HttpResponse:
    """Do as ``view``, in an event loop."""
    return HttpResponse(str(await llmcache.aextract("Ada", Person, max_retries=0, max_reasks=0)))


urlpatterns = [path("view/", view), path("aview/", aview)]


def _raise() -> str:
    raise LookupError


def _fail() -> object:
    _ask()
    return {}["the view's own error"]


def _ask() -> object:
    return llmcache.extract("Ada", Person, max_retries=0, max_reasks=0)


SHOWN: dict[str, tuple[Callable[[], object], dict[str, Any], Callable[[], faults.Fault] | None]] = {
    "an error of the view's own": (_fail, {}, None),
    "a provider that fails": (_ask, {}, lambda: faults.server_error(503)),
    "a provider that knows no such key": (_ask, {}, faults.unauthorized),
    "a key that cannot be sent": (_ask, {}, None),
    "an answer that does not pass": (_ask, {}, faults.wrong_json),
    "a connection that is lost": (_ask, {}, faults.reset_mid_body),
    "a tenant that is not told": (_ask, {"TENANT": _raise}, None),
    "a setting of another type": (_ask, {"TTL": "soon"}, None),
    "a setting that is misspelt": (_ask, {"TLL": 5}, None),
    "an alias that is not there": (_ask, {"TIERS": ["nowhere"]}, None),
    "an alias that is misplaced": (_ask, {"TIERS": ["shared", "memory"]}, None),
    "a Redis that is down": (_fail, {"TIERS": ["shared"]}, None),
    "a model that is none": (lambda: llmcache.extract("Ada", Person, model="nowhere/m"), {}, None),
    "an option that is none": (lambda: llmcache.extract("Ada", Person, ttl=-1), {}, None),
    "a database that is not there": (llmcache.stats, {"DATABASE": "nowhere"}, None),
}


PAGES = [("/view/", name) for name in SHOWN] + [("/aview/", name) for name in SHOWN if SHOWN[name][0] is _ask]


@pytest.mark.parametrize("debug", [True, False], ids=["page", "mail"])
@pytest.mark.parametrize(("address", "name"), PAGES)
def test_no_page_and_no_mail_of_an_error_shows_a_secret(
    name: str, address: str, debug: bool, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    ask, changes, fault = SHOWN[name]
    if fault is not None:
        sandbox.fail(fault(), times=None)
    _asks.append(ask)
    key, older, newer = f"sk-{secret()}", secret(), secret()
    providers = {
        "openai": {"base_url": sandbox.base_url, "api_key": key},
        "other": {"base_url": sandbox.base_url, "api_key": f"{key}-of-another"},
    }
    if name == "a key that cannot be sent":
        providers["openai"]["api_key"] += "\n"
    given = {"PROVIDERS": providers, "KEY_SECRETS": [("2028", newer), ("2027", older)], **changes}
    served = {"ROOT_URLCONF": HERE, "MIDDLEWARE": [], "DEBUG": debug, "ADMINS": [("Ann", "ann@example.org")]}
    password = secret()
    store = {"BACKEND": DJANGO_REDIS, "LOCATION": f"redis://:{password}@127.0.0.1:1/0"}
    with in_caches(shared=store, memory=MEMORY), override_settings(**served), llmcache_settings(**given):
        response = Client(raise_request_exception=False).get(address)
    assert response.status_code == 500
    shown = [response.content.decode(), caplog.text]
    if not debug:
        (sent,) = mail.outbox
        shown += [str(sent.body), *(str(content) for content, _ in getattr(sent, "alternatives", []))]
    for each in shown:
        # Below, Django lists `CACHES`, and knows no secret in an address.
        assert password not in each.partition("Using settings module")[0]
    # The settings are on it, with stars.
    assert any("LLMCACHE" in each and sandbox.base_url in each for each in shown)
    for text in (key, older, newer):
        raw = base64.urlsafe_b64decode(text.removeprefix("sk-") + "=")
        for word in (text, text[4:24], raw.hex()[:24], repr(raw)[2:26]):
            assert not any(word in each for each in shown)


def test_the_command_that_prints_settings_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Django's own does so with every setting, as the settings reference says."""
    key = secret()
    with llmcache_settings(KEY_SECRETS=[("1", key)]):
        call_command("diffsettings")
    assert key in capsys.readouterr().out
