"""The commands among processes: Ctrl-C, a reader that has gone, a sandbox that serves, a database server."""

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from pytest_django import DjangoDbBlocker

import llmcache
from llmcache.testing.sandbox import Sandbox
from project.demo.types import Ingredient
from tests.conftest import llmcache_settings
from tests.flows.newcomer import ROOT, environment, manage
from tests.flows.test_commands_doctor import findings, nobody
from tests.ledgers import ALIAS, known

_SECONDS = 60.0


@contextlib.contextmanager
def started(var: Path, *arguments: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a command, with pipes; what it writes to standard error is read at its end."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(var, **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.mark.django_db
def test_an_import_that_is_interrupted_keeps_what_it_has_and_can_be_run_again(
    var: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    file = tmp_path / "entries.jsonl"
    with llmcache_settings(NAMESPACE="theirs", KINDS={}):
        for text in ("2 stalks celery", "1 cup sugar"):
            llmcache.extract(text, Ingredient)
        call_command("llmcache_export", f"--output={file}", "--answers", "--requests", stderr=io.StringIO())
    lines = file.read_text().splitlines(keepends=True)
    where = {"LLMCACHE_DEMO_SANDBOX": sandbox.base_url}
    with started(var, "llmcache_import", "-", "--json", **where) as importing:
        assert importing.stdin is not None
        assert importing.stdout is not None
        assert importing.stderr is not None
        # Of a line that is damaged it says so: then what comes before it is in.
        importing.stdin.write(lines[0] + lines[1] + "{\n")
        importing.stdin.flush()
        assert "standard input:3: is no JSON" in importing.stderr.readline()
        importing.send_signal(signal.SIGINT)
        # Perhaps it waits for a line.
        with contextlib.suppress(BrokenPipeError):
            importing.stdin.write("\n")
            importing.stdin.flush()
        assert importing.wait(_SECONDS) == 130
        assert "Run it again: what is there already is left as it is." in importing.stderr.read()
        assert json.loads(importing.stdout.read())["imported"] == 1
    again = manage(var, "llmcache_import", str(file), "--json", **where)
    assert (again.returncode, again.stderr) == (0, "")
    told = json.loads(again.stdout)
    assert (told["imported"], told["known"], told["whole"]) == (1, 1, True)
    assert sandbox.calls == 2


def test_a_reader_that_has_gone_is_no_error(var: Path) -> None:
    with started(var, "llmcache_stats") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Long before anything is said.
        process.stdout.close()
        assert (process.wait(_SECONDS), process.stderr.read()) == (0, "")


def test_a_sandbox_serves_until_ctrl_c(var: Path) -> None:
    with started(var, "llmcache_sandbox", "--port=0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        lines = iter(process.stdout.readline, "}\n")
        pasted: dict[str, dict[str, object]] = {}
        exec("".join(line for line in lines if line.strip() and "settings:" not in line) + "}", pasted)
        settings = pasted["LLMCACHE"]
        url = str(settings["PROVIDERS"]["openai"]["base_url"])  # type: ignore[index]
        assert url in first
        assert settings["ALLOW_PROVIDER_CALLS"] == "loopback"
        connection = HTTPConnection(url.removeprefix("http://").removesuffix("/v1"), timeout=_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/sandbox/state")
            assert json.loads(connection.getresponse().read())["calls"] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(_SECONDS) == 0
        assert process.stderr.read() == "The sandbox has ended after 0 calls.\n"


def test_a_database_elsewhere_is_asked_for_its_time_and_told_when_it_is_down(
    postgresql_tables: dict[str, Any], django_db_blocker: DjangoDbBlocker, sandbox: Sandbox
) -> None:
    with django_db_blocker.unblock(), known(postgresql_tables), llmcache_settings(DATABASE=ALIAS):
        found = findings()
        assert found["database"] == [("ok", "'reports', PostgreSQL", "")]
        assert found["migrations"][0][0] == "ok"
    gone = {**postgresql_tables, "HOST": "127.0.0.1", "PORT": nobody()}
    with django_db_blocker.unblock(), known(gone), llmcache_settings(DATABASE=ALIAS):
        found = findings(status=1)
        assert "'reports' does not answer: OperationalError" in found["database"][0][1]
        assert "Calls go on, and wait in the journal." in found["database"][0][2]
