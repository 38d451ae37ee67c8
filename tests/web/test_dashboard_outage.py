"""The dashboard while the database is stopped, whichever it is: a notice, and nothing revealed."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import child_environment
from tests.services import Postgres

ROOT = Path(__file__).parents[2]
ADDRESSES = ("/llm/", "/llm/dashboard.json", "/admin/llmcache/dashboard/", "/admin/llmcache/dashboard/dashboard.json")
_SECONDS = 60.0

Answer = tuple[int, dict[str, str], str]
Get = Callable[..., Answer]


@contextlib.contextmanager
def served(databases: dict[str, Any], ledger: str, errors: Path) -> Iterator[Get]:
    """Serve the project over databases; gives what gets a page, as somebody who is logged in."""
    environment = child_environment(
        DJANGO_SETTINGS_MODULE="tests.web.outage_settings",
        OUTAGE_DATABASES=json.dumps(databases),
        OUTAGE_LEDGER=ledger,
        PYTHONPATH=str(ROOT),
    )
    with errors.open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.web.outage_server"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        line = server.stdout.readline().split()
        assert line, errors.read_text()
        port, session = int(line[0]), line[1]

        def get(address: str, *, logged_in: bool = True) -> Answer:
            with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=_SECONDS)) as connection:
                connection.request("GET", address, headers={"Cookie": f"sessionid={session}"} if logged_in else {})
                response = connection.getresponse()
                return response.status, dict(response.getheaders()), response.read().decode()

        yield get
        server.stdin.close()
        assert server.wait(_SECONDS) == 0, errors.read_text()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        server.stdin.close()


@pytest.mark.parametrize("stopped", ["default", "ledger"])
def test_a_stopped_database_is_a_notice(stopped: str, postgres: Postgres, tmp_path: Path) -> None:
    """Session and user, or the ledger alone, lie in a PostgreSQL that stops and comes back."""
    databases: dict[str, Any] = {stopped: {**postgres.database(f"outage_{stopped}"), "ATOMIC_REQUESTS": True}}
    if stopped == "ledger":
        sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
        databases["default"] = {**sqlite, "ATOMIC_REQUESTS": True}
    errors = tmp_path / "errors"
    with served(databases, stopped, errors) as get:
        before = {address: get(address) for address in ADDRESSES}
        assert {status for status, _, _ in before.values()} == {200}, errors.read_text()
        assert "Nothing has been recorded yet" in before["/llm/"][2]
        postgres.stop()
        try:
            during = {address: get(address) for address in ADDRESSES}
        finally:
            postgres.start()
        after = {address: get(address)[0] for address in ADDRESSES}
    for address, (status, headers, body) in during.items():
        assert status == 503, body
        assert (headers["Cache-Control"], headers["Retry-After"]) == ("private, no-store", "10")
        assert not [word for word in (str(postgres.folder), "psycopg", "Operational", "admin/logout") if word in body]
        if address.endswith("json"):
            assert json.loads(body) == {"error": "The database cannot be asked."}
        else:
            assert "This page cannot be shown now" in body
            assert "<table" not in body
    assert set(after.values()) == {200}
    assert "A page cannot be shown (OperationalError" in errors.read_text()
    assert "Traceback" not in errors.read_text()
