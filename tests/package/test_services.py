"""The server that the tests start: it comes back with its data, and nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.services import Postgres

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal
from tests.services import Postgres
server = Postgres()
print(server.folder, (server.folder / "data" / "postmaster.pid").read_text().split()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_stops_and_comes_back(postgres: Postgres) -> None:
    there = postgres.database("services")
    with postgres.connect(there["NAME"]) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept VALUES (7)")
        postgres.stop()
        try:
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT number FROM kept")
            with pytest.raises(psycopg.OperationalError):
                postgres.connect()
        finally:
            postgres.start()
    with postgres.connect(there["NAME"]) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


def test_it_is_no_roots(postgres: Postgres) -> None:
    pid = (postgres.folder / "data" / "postmaster.pid").read_text().split()[0]
    assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_nothing_is_left_by_tests_that_are_killed() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder, pid = Path(done.stdout.split()[0]), int(done.stdout.split()[1])
    deadline = time.monotonic() + 30
    while (folder.exists() or runs(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not folder.exists()
    assert not runs(pid)


def runs(pid: int) -> bool:
    """Return whether a process is there that has not ended; one that nobody has waited for has."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
