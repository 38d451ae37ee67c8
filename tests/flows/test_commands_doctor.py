"""``manage.py llmcache_doctor``: what is there, what answers, and what to do; also where nothing does."""

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings

from llmcache import diagnosis
from llmcache.engine import process
from llmcache.money.journal import Journal
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.conftest import llmcache_settings
from tests.flows.test_commands import Terminal
from tests.waiting import until
from tests.web import hanging_cache

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    with llmcache_settings(KINDS={}):
        yield sandbox


def findings(*arguments: str, status: int = 0, seconds: float = 60.0) -> dict[str, list[tuple[str, str, str]]]:
    """Return by what was looked at what was found: the state, what was told, and what to do.

    ``seconds``: how long is waited for what hangs; on a busy machine everything else may be slow, too.
    """
    out = io.StringIO()
    ended = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "DEADLINE_SECONDS", seconds)
        try:
            call_command("llmcache_doctor", "--json", *arguments, stdout=out, stderr=out)
        except CommandError as error:
            ended = error.returncode
    told = json.loads(out.getvalue())
    found: dict[str, list[tuple[str, str, str]]] = {}
    for each in told["findings"]:
        found.setdefault(each["what"], []).append((each["state"], each["told"], each["todo"]))
    wrong = [each for each in told["findings"] if each["state"] == "wrong"]
    assert (ended, told["wrong"]) == (status, len(wrong)), wrong
    return found


def nobody() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def over(backend: str, location: Any) -> Any:
    return override_settings(CACHES={"default": {"BACKEND": backend, "LOCATION": location}})


DJANGO_REDIS = "django.core.cache.backends.redis.RedisCache"


def test_where_all_is_well_it_says_what_is_there_and_how_fast(
    provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = findings()
    assert list(found) == [
        *("settings", "clock", "tier memory", "tier disk", "leases", "database", "migrations", "invalidation log"),
        *("journal", "provider openai"),
    ]
    assert {each[0] for states in found.values() for each in states} <= {"ok", "note"}
    assert "written, read and deleted" in found["tier disk"][0][1]
    assert found["leases"] == [("ok", "in the tier 'disk'", "")]
    assert "takes connections; nothing was asked" in found["provider openai"][0][1]
    assert provider.received == 0


def test_what_is_only_worth_knowing_is_shown_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "transaction_mode", "DEFERRED")
    state, _, todo = findings()["database"][1]
    assert (state, "['transaction_mode'] to 'IMMEDIATE'" in todo) == ("note", True)
    screen = Terminal()
    monkeypatch.setattr(diagnosis, "DEADLINE_SECONDS", 60.0)
    call_command("llmcache_doctor", stdout=screen)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 110
    assert any(line.startswith("note ") for line in lines)
    assert any(line.lstrip().startswith("-> ") for line in lines)


def test_of_a_redis_it_says_what_it_evicts_and_leaves_nothing_there(redis_server: RedisServer) -> None:
    plain = redis.Redis.from_url(redis_server.url)
    keys = plain.dbsize()
    with over(DJANGO_REDIS, redis_server.url), llmcache_settings(TIERS=["default"]):
        (works, sort), leases = findings()["tier default"], findings()["leases"]
        assert (works[0], leases) == ("ok", [("ok", "in the tier 'default'", "")])
        assert (sort[0], "without a limit, noeviction, 0 evicted" in sort[1]) == ("note", True)
        plain.config_set("maxmemory", 2**30)
        try:
            assert "it takes no new answer" in findings(status=1)["tier default"][1][1]
            plain.config_set("maxmemory-policy", "volatile-lru")
            assert "never evicted" in findings()["tier default"][1][1]
            plain.config_set("maxmemory-policy", "allkeys-lfu")
            assert findings()["tier default"][1][0] == "ok"
        finally:
            plain.config_set("maxmemory-policy", "noeviction")
            plain.config_set("maxmemory", 0)
    assert plain.dbsize() == keys
    plain.close()


def test_what_is_down_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    down = {"openai": {"base_url": f"http://127.0.0.1:{nobody()}/v1", "api_key": "sandbox"}}
    with (
        over(DJANGO_REDIS, f"redis://127.0.0.1:{nobody()}/0"),
        llmcache_settings(TIERS=["default"], PROVIDERS=down, JOURNAL=tmp_path / "file" / "journal"),
    ):
        found = findings(status=1)
        for what, told in {
            "tier default": "does not keep what is written (ConnectionError); it is left alone until it answers",
            "provider openai": "cannot be reached: ConnectionRefusedError",
            "journal": "calls are noted in memory only",
        }.items():
            assert (found[what][0][0], told in found[what][0][1], bool(found[what][0][2])) == ("wrong", True, True)


def test_a_server_that_stands_still_is_waited_for_only_so_long(redis_server: RedisServer) -> None:
    with over(DJANGO_REDIS, redis_server.url), llmcache_settings(TIERS=["default"]):
        redis_server.freeze()
        try:
            found = findings(status=1)
        finally:
            redis_server.thaw()
        # Whoever looks whether it is back has a connection, and is to close it.
        until(lambda: process.current().tiers.states()[0].breaker == "closed")
    assert "TimeoutError" in found["tier default"][0][1]
    assert found["database"][0][0] == "ok"


def test_a_cache_that_never_answers_holds_up_nothing_else() -> None:
    hanging_cache.released.clear()
    try:
        with over("tests.web.hanging_cache.HangingCache", ""), llmcache_settings(TIERS=["default"]):
            found = findings(status=1, seconds=0.5)
    finally:
        hanging_cache.released.set()
    assert found["tier default"][0][:2] == ("wrong", "does not answer within 0.5 s")
    assert found["clock"][0][0] == "ok"


def test_settings_that_cannot_be_used_are_told_and_nothing_else() -> None:
    with llmcache_settings(TTL="soon", TIRES=[]):
        found = findings(status=1)
    assert list(found) == ["settings"]
    assert sorted(told.split(":")[0] for _, told, _ in found["settings"]) == ["llmcache.E001", "llmcache.E002"]
    with llmcache_settings(TIERS=["nowhere"]):
        assert "llmcache.E003" in findings(status=1)["settings"][0][1]
    without = {"openai": {"base_url": "http://127.0.0.1:9/v1"}}
    with llmcache_settings(PROVIDERS=without, ALLOW_PROVIDER_CALLS=False):
        assert findings()["provider openai"] == [
            ("note", "127.0.0.1 is not to be called here (ALLOW_PROVIDER_CALLS)", "")
        ]


def test_journals_of_dead_processes_are_told() -> None:
    now = process.current()
    folder = now.journal.folder
    assert folder is not None
    journal = Journal(folder, now.namespace)
    journal.started("3b8a1f6e-0f0e-4f4e-9a52-5c5b1f8f3a11", {"kind": "Person", "why": "not_found"})
    assert "1 files of living processes, none of dead ones" in findings()["journal"][1][1]
    journal.close()
    assert "1 files of dead processes wait, 1 kB" in findings()["journal"][1][1]


def test_celery_is_looked_at_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery import Celery

    down = Celery("toy", broker=f"redis://127.0.0.1:{nobody()}/0", set_as_current=False)
    monkeypatch.setattr("celery.current_app", down)
    assert "the broker does not answer" in findings("--celery", status=1)["celery"][0][1]
    monkeypatch.setattr("celery.current_app", Celery("toy", broker="memory://", set_as_current=False))
    assert findings("--celery")["celery"][0][0] == "ok"
    assert "celery" not in findings()


@pytest.mark.django_db(transaction=True)
def test_tables_that_are_missing_are_told() -> None:
    loader = MigrationLoader(connection)
    (leaf,) = (name for app, name in loader.graph.leaf_nodes() if app == "llmcache")
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("llmcache", leaf)
    try:
        found = findings(status=1)
    finally:
        recorder.record_applied("llmcache", leaf)
    assert found["migrations"][0][:2] == ("wrong", "1 are not applied")
    assert "manage.py migrate llmcache" in found["migrations"][0][2]
