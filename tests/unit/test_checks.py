"""The system checks: what is wrong is said before the first call, with what to do."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.test import override_settings

from llmcache.checks import TAG, check_llmcache, check_tables
from llmcache.models import WarmingPlan
from tests.conftest import llmcache_settings

SECRET = base64.b64encode(bytes(range(32, 64))).decode()
GOOD: dict[str, Any] = {"PROVIDERS": {"openai": {"api_key": "x"}}}


def found(**changes: Any) -> list[tuple[str | None, str, str]]:
    with llmcache_settings(**{**GOOD, **changes}):
        return [(message.id, str(message.msg), str(message.hint)) for message in check_llmcache()]


def test_good_settings_are_silent() -> None:
    assert found() == []


def test_no_settings_at_all_want_a_key_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with override_settings(LLMCACHE={}):
        assert [message.id for message in check_llmcache()] == ["llmcache.W001"]


@pytest.mark.parametrize(
    ("key", "near"),
    [("TLL", "TTL"), ("TIMOUT", "TIMEOUT"), ("max_retries", "MAX_RETRIES"), ("DISKPATH", "DISK_PATH")],
)
def test_an_unknown_key_names_the_nearest(key: str, near: str) -> None:
    ((check, message, _),) = found(**{key: 1})
    assert check == "llmcache.E001"
    assert repr(key) in message
    assert repr(near) in message


def test_an_unknown_key_without_a_neighbour() -> None:
    ((check, message, _),) = found(XYZZY=1)
    assert (check, message) == ("llmcache.E001", "LLMCACHE has the unknown key 'XYZZY'.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TTL", -1),
        ("TTL", True),
        ("TTL", "60"),
        ("TTL", float("nan")),
        ("TIMEOUT", None),
        ("TIMEOUT", 0),
        ("MAX_RETRIES", -1),
        ("MAX_RETRIES", 1.0),
        ("MAX_REASKS", True),
        ("DATABASE", ""),
        ("DATABASE", None),
        ("JOURNAL_MAX_BYTES", 100),
        ("LEDGER_SYNC", 1),
        ("ON_LEDGER_FULL", "drop"),
        ("MODEL", "gpt-5"),
        ("MODEL", None),
        ("TIERS", "default"),
        ("TIERS", []),
        ("TIERS", ["a", "a"]),
        ("MEMORY_BYTES", -1),
        ("DISK_PATH", "relative"),
        ("DISK_PATH", ""),
        ("JOURNAL", 5),
        ("JOURNAL_FSYNC", 1),
        ("TIME_ZONE", ""),
        ("TIME_ZONE", "Europe"),
        ("TIME_ZONE", "Europe/Bielefeld"),
        ("TIME_ZONE", "../../etc/passwd"),
        ("TIME_ZONE", "/etc/localtime"),
        ("TIME_ZONE", "\0"),
        ("TIME_ZONE", "x" * 10_000),
        ("TIME_ZONE", 1),
        ("KEY_SECRETS", "secret"),
        ("KEY_SECRETS", {"1": SECRET}),
        ("KEY_SECRETS", [SECRET]),
        ("KEY_SECRETS", [("1",)]),
        ("KEY_SECRETS", [(1, SECRET)]),
        ("KEY_SECRETS", [("No Good", SECRET)]),
        ("KEY_SECRETS", [("x" * 17, SECRET)]),
        ("KEY_SECRETS", [("1", None)]),
        ("KEY_SECRETS", [("1", SECRET.encode())]),
        ("KEY_SECRETS", [("1", "not base64 at all, but long enough for anything")]),
        ("KEY_SECRETS", [("1", "é" * 43)]),
        ("KEY_SECRETS", [("1", base64.b64encode(bytes(range(31))).decode())]),
        ("KEY_SECRETS", [("1", base64.b64encode(bytes(range(65))).decode())]),
        ("KEY_SECRETS", [("1", base64.b64encode(b"x" * 32).decode())]),
        ("KEY_SECRETS", [("1", SECRET), ("2", SECRET)]),
        ("KEY_SECRETS", [("1", SECRET), ("1", base64.b64encode(bytes(range(64, 96))).decode())]),
        ("TENANT", "current"),
        ("TENANT", "shop tenants.current"),
        ("TENANT", 1),
        ("TENANT", asyncio.sleep),
        ("TENANT_REQUIRED", 1),
        ("TENANT_REQUIRED", None),
        ("NAMESPACE", "No Good"),
        ("VERSION", 2),
        ("MAX_TEXT_BYTES", 0),
        ("MAX_FILE_BYTES", 0),
        ("MAX_VALUE_BYTES", "1"),
        ("PROVIDERS", []),
        ("PROVIDERS", {"openai": None}),
        ("PROVIDERS", {"openai": {"apikey": "x"}}),
        ("PROVIDERS", {"openai": {"api_key": ""}}),
        ("PROVIDERS", {"openai": {"base_url": "ftp://x"}}),
        ("PROVIDERS", {"open ai": {}}),
        ("PROVIDERS", {"openai": {"api": "response"}}),
        ("PROVIDERS", {"openai": {"output": None}}),
        ("PROVIDERS", {"mine": {"call": "ask"}}),
        ("PROVIDERS", {"mine": {"acall": 5}}),
        ("PROVIDERS", {"mine": {"call": "a.b", "api_key": "x"}}),
    ],
)
def test_a_value_that_cannot_be_used(name: str, value: Any) -> None:
    ((check, message, hint),) = found(**{name: value})
    assert check == "llmcache.E002"
    assert message.startswith(f"LLMCACHE[{name!r}]")
    assert hint.startswith("It takes")
    assert SECRET[:8] not in message + hint


@pytest.mark.parametrize("place", ["SECRET_KEY", "SECRET_KEY_FALLBACKS"])
@pytest.mark.parametrize("key", [SECRET, base64.b64decode(SECRET).decode("ascii")])
def test_a_secret_that_is_djangos_own(place: str, key: str) -> None:
    other = ("2", base64.b64encode(bytes(range(64, 96))).decode())
    assert found(KEY_SECRETS=[other, ("1", SECRET)]) == []
    with override_settings(**{place: key if place == "SECRET_KEY" else ["x", key]}):
        ((check, message, hint),) = found(KEY_SECRETS=[other, ("1", SECRET)])
    assert check == "llmcache.E009"
    assert "'1'" in message
    assert SECRET[:8] not in message + hint


def test_a_deployment_without_secrets_is_told_what_that_means() -> None:
    def told(**changes: Any) -> list[str | None]:
        with llmcache_settings(**{**GOOD, **changes}):
            return [each.id for each in run_checks(tags=[TAG], include_deployment_checks=True)]

    assert told() == ["llmcache.W011"]
    assert told(KEY_SECRETS=[("1", SECRET)]) == []
    assert told(KEY_SECRETS=[("1", "short")]) == ["llmcache.E002"]


def test_settings_that_are_no_dict() -> None:
    with override_settings(LLMCACHE=["TTL"]):
        assert [message.id for message in check_llmcache()] == ["llmcache.E002"]


def test_an_alias_that_is_not_there() -> None:
    ((check, message, _),) = found(TIERS=["nowhere"])
    assert check == "llmcache.E003"
    assert "'nowhere'" in message
    assert "default" in message


def test_a_model_of_a_provider_that_is_not_there() -> None:
    ((check, message, _),) = found(MODEL="antropic/claude")
    assert check == "llmcache.E004"
    assert "'antropic'" in message


def test_a_missing_key_is_a_warning_that_names_it() -> None:
    ((check, message, _),) = found(PROVIDERS={})
    assert check == "llmcache.W001"
    assert "OPENAI_API_KEY" in message


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    checks = found(JOURNAL=blocker / "journal", DISK_PATH=blocker / "disk")
    assert [check for check, _, _ in checks] == ["llmcache.W002", "llmcache.W003"]
    assert "LLMCACHE['JOURNAL']" in checks[0][2]
    assert "LLMCACHE['DISK_PATH']" in checks[1][2]


def test_a_disk_tier_of_caches_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    disk = {"BACKEND": "llmcache.backends.DiskCache", "LOCATION": str(blocker / "disk")}
    with override_settings(CACHES={"default": disk, "llm": disk}):
        ((check, _, hint),) = found(TIERS=["llm"])
    assert check == "llmcache.W003"
    assert "CACHES['llm']['LOCATION']" in hint


DJANGO = "django.core.cache.backends"
LOCMEM, DUMMY = {"BACKEND": f"{DJANGO}.locmem.LocMemCache"}, {"BACKEND": f"{DJANGO}.dummy.DummyCache"}
MEMORY = {"BACKEND": "llmcache.backends.MemoryCache"}
DATABASE = {"BACKEND": f"{DJANGO}.db.DatabaseCache", "LOCATION": "cached"}
FILE = {"BACKEND": f"{DJANGO}.filebased.FileBasedCache", "LOCATION": "/tmp/llmcache-nowhere"}
LARGE = {"OPTIONS": {"MAX_ENTRIES": 10**6}}
REDIS = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        ({"memory": MEMORY, "llm": LOCMEM}, ["W007"]),
        ({"llm": LOCMEM}, ["W007"]),
        ({"memory": MEMORY, "llm": DUMMY}, ["W008"]),
        ({"memory": MEMORY}, ["W009"]),
        ({"memory": MEMORY, "llm": DATABASE}, ["W010", "W013"]),
        ({"memory": MEMORY, "llm": FILE}, ["W010", "W013"]),
        ({"memory": MEMORY, "llm": {**DATABASE, **LARGE}}, ["W013"]),
        ({"memory": MEMORY, "llm": {**FILE, **LARGE}}, ["W013"]),
        ({"memory": MEMORY, "llm": REDIS}, []),
    ],
    ids=str,
)
def test_a_poor_tier_is_named(caches: dict[str, dict[str, Any]], expected: list[str]) -> None:
    with override_settings(CACHES={"default": LOCMEM, **caches}):
        checks = found(TIERS=list(caches))
    assert [check for check, _, _ in checks] == [f"llmcache.{each}" for each in expected]
    named = ("'llm'", "memory", "a tier")
    assert all(any(name in message for name in named) and hint != "None" for _, message, hint in checks)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"LEASE": 3}, None),
        ({"LEASE": 30, "TIMEOUT": 30}, None),
        ({"LEASE": 3, "TIMEOUT": 2}, None),
        ({"LEASE": 2.9}, "taken for dead"),
        ({"LEASE": 30.5, "TIMEOUT": 30}, "above LLMCACHE['TIMEOUT'], 30 s"),
    ],
    ids=str,
)
def test_a_lease_that_ends_too_soon_or_too_late(given: dict[str, float], words: str | None) -> None:
    told = found(**given)
    assert [check for check, _, _ in told] == ([] if words is None else ["llmcache.W016"])
    assert all(str(words) in message for _, message, _ in told)


@pytest.mark.parametrize("engine", ["django.db.backends.postgresql", "django.contrib.gis.db.backends.postgis"])
def test_a_database_that_can_hold_who_asks_is_enough(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"memory": MEMORY, "llm": {**FILE, **LARGE}}
    monkeypatch.setitem(connections.settings, "ledger", {**connections.settings["default"], "ENGINE": engine})
    with override_settings(CACHES={"default": LOCMEM, **settings}):
        assert found(TIERS=list(settings), DATABASE="ledger") == []


@pytest.mark.parametrize(
    ("default", "expected"),
    [(LOCMEM, []), (DUMMY, []), (MEMORY, []), (DATABASE, ["W010", "W013"]), (REDIS, [])],
    ids=str,
)
def test_the_projects_cache_as_the_default_tier(
    default: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with override_settings(CACHES={"default": default}):
        assert [check for check, _, _ in found(DISK_PATH=None)] == [f"llmcache.{each}" for each in expected]


def test_the_folder_is_of_no_concern_where_the_projects_cache_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    with override_settings(CACHES={"default": REDIS}):
        assert found(DISK_PATH=None) == []
    with override_settings(CACHES={"default": LOCMEM}):
        assert [check for check, _, _ in found(DISK_PATH=None)] == ["llmcache.W003"]


def test_a_cache_whose_folder_cannot_be_made_is_a_fault_and_no_wrong_setting(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    broken = {"BACKEND": "diskcache.DjangoCache", "LOCATION": str(blocker / "folder")}
    with override_settings(CACHES={"default": LOCMEM, "llm": broken}):
        (check, message, _), (other, _, _) = found(TIERS=["llm"])
    assert (check, other) == ("llmcache.W003", "llmcache.W013")
    assert str(blocker) in message


@pytest.mark.parametrize("prefix", ["p" * 200, "two words"])
def test_keys_that_memcached_does_not_take(prefix: str) -> None:
    cache = {"BACKEND": f"{DJANGO}.memcached.PyMemcacheCache", "LOCATION": "127.0.0.1:1", "KEY_PREFIX": prefix}
    with override_settings(CACHES={"default": LOCMEM, "llm": cache}):
        ((check, message, _),) = found(TIERS=["llm"])
    assert check == "llmcache.E003"
    assert "KEY_PREFIX" in message


def test_an_alias_whose_backend_is_not_there() -> None:
    with override_settings(CACHES={"default": {"BACKEND": "nowhere.Cache"}}):
        assert [check for check, _, _ in found(TIERS=["default"])] == ["llmcache.E003"]


def test_an_address_of_the_environment_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "api.openai.com/v1")
    assert [check for check, _, _ in found()] == ["llmcache.E006"]


def test_a_misspelt_name_of_the_setting() -> None:
    from django.conf import settings

    with override_settings(LLMCAHCE={}):
        del settings.LLMCACHE
        assert "llmcache.W004" in [message.id for message in check_llmcache()]


def test_a_key_is_not_shown(tmp_path: Path) -> None:
    secret = "sk-canary"
    messages = found(PROVIDERS={"openai": {"api_key": secret, "typo": "x"}})
    assert secret not in repr(messages)
    from llmcache import conf

    assert secret not in repr(conf.read({"PROVIDERS": {"openai": {"api_key": secret}}}))


@pytest.mark.django_db  # newer versions of Django open the database for a check
def test_checks_are_registered() -> None:
    with llmcache_settings(TTL=-1), pytest.raises(SystemCheckError, match="E002"):
        call_command("check")


def test_a_database_that_is_not_there_is_named() -> None:
    ((check, message, _),) = found(DATABASE="ledger")
    assert check == "llmcache.E007"
    assert "'ledger'" in message
    assert "default" in message


def test_writing_through_has_no_effect_on_sqlite() -> None:
    assert [check for check, _, _ in found(LEDGER_SYNC=True)] == ["llmcache.W005"]


@pytest.mark.django_db(transaction=True)
def test_tables_that_are_not_migrated_are_named_when_the_database_is_checked() -> None:
    assert check_tables(databases=["default"]) == []
    call_command("migrate", "llmcache", "zero", verbosity=0)
    try:
        assert [message.id for message in check_tables(databases=["default"])] == ["llmcache.W006"]
        assert check_tables() == []
        assert check_tables(databases=["other"]) == []
    finally:
        call_command("migrate", "llmcache", verbosity=0)


# -- tasks


SCHEDULED = {"house": {"task": "llmcache.tasks.keep_house", "schedule": 60.0}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"REFRESH": "celery", "KINDS": {"Ticket": {"type": dict[str, str]}}}, []),
        ({"KINDS": {"Ticket": {"type": dict[str, str], "refresh": "celery"}}}, []),
        ({"REFRESH": "celery", "KINDS": {}}, ["W015"]),
        ({"KINDS": {"Ticket": {"refresh": "celery"}}}, ["W015"]),
        ({"REFRESH": "celery", "KINDS": {"Ticket": {"type": dict[str, str]}}, "KEEP_REQUESTS": "no"}, ["W015"]),
    ],
    ids=str,
)
def test_refreshing_by_task_needs_what_a_task_can_make_again(changes: dict[str, Any], expected: list[str]) -> None:
    with override_settings(CELERY_BEAT_SCHEDULE=SCHEDULED):
        assert [check for check, _, _ in found(**changes)] == [f"llmcache.{each}" for each in expected]
    unscheduled = [check for check, _, _ in found(**changes)]
    assert unscheduled == [*(f"llmcache.{each}" for each in expected), "llmcache.W014"]


@pytest.mark.parametrize("schedule", [None, [], {"a": 1}, {"a": {"task": "other"}}], ids=str)
def test_what_is_no_schedule_of_ours_is_none(schedule: Any) -> None:
    good = {"REFRESH": "celery", "KINDS": {"Ticket": {"type": dict[str, str]}}}
    with override_settings(CELERY_BEAT_SCHEDULE=schedule):
        ((check, _, hint),) = found(**good)
    assert check == "llmcache.W014"
    assert "beat_schedule()" in hint


@pytest.mark.django_db
def test_plans_need_somebody_who_runs_them() -> None:
    def checks() -> list[str | None]:
        return [each.id for each in check_tables(databases=["default"])]

    plan = WarmingPlan.objects.create(name="nightly", source="texts", kind="Ticket", crontab="30 3 * * *")
    assert checks() == ["llmcache.W014"]
    with override_settings(CELERY_BEAT_SCHEDULE=SCHEDULED):
        assert checks() == []
    WarmingPlan.objects.filter(pk=plan.pk).update(enabled=False)
    assert checks() == []
