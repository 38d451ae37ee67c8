"""Somebody's project that uses llmcache, made from ``tests/toy`` over the built wheel, in processes of its own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from llmcache.testing.sandbox import Sandbox
from tests import forks
from tests.services import Postgres

ROOT = Path(__file__).parents[1]
_SECONDS = 150.0


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel installs it, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder / "dist", ROOT]
    subprocess.run([*pip, *build], check=True)
    (built,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "installed", built], check=True)
    return folder / "installed"


@dataclass
class Toy:
    """A toy project in a folder, with a home and a place for temporary files that nothing else uses."""

    folder: Path
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        """The home folder of whoever runs the project."""
        return Path(self.environment["HOME"])

    @property
    def temporary(self) -> Path:
        """Where its processes put their temporary files."""
        return Path(self.environment["TMPDIR"])

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in the project to its end; AssertionError, with what it says, when it fails."""
        environment = {**self.environment, **variables}
        done = forks.run([*arguments], cwd=self.folder, env=environment, timeout=_SECONDS)
        assert done.returncode == 0, f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def manage(self, *arguments: str, **variables: str) -> str:
        """Run one of Django's commands to its end and return what it printed."""
        return self.run("manage.py", *arguments, **variables).stdout

    def told(self, *arguments: str, **variables: str) -> Any:
        """Return the JSON that a command prints."""
        return json.loads(self.manage(*arguments, **variables))

    @contextlib.contextmanager
    def started(self, *arguments: str, **variables: str) -> Iterator[forks.Forked]:
        """Start Python in the project, with pipes for input and output; its input's end is its sign to end.

        What it writes to standard error is in the file ``errors``. Fails when it ends with an error.
        """
        with (self.folder / "errors").open("a") as errors:
            process = forks.Forked(
                [*arguments],
                cwd=self.folder,
                env={**self.environment, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process
            process.stdin.close()
            assert process.wait(_SECONDS) == 0, self.errors()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
            process.stdin.close()

    def errors(self) -> str:
        """Return what started processes wrote to standard error."""
        return (self.folder / "errors").read_text()

    @contextlib.contextmanager
    def served(self, **variables: str) -> Iterator[Callable[..., tuple[int, Any]]]:
        """Serve the project over HTTP; gives a function that gets a page's status and JSON."""
        with self.started("serve.py", **variables) as process:
            assert process.stdout is not None
            first = process.stdout.readline().split()
            assert first, self.errors()
            port, where = int(first[0]), Path(first[1])
            assert where.is_relative_to(self.environment["PYTHONPATH"])

            def get(page: str, text: str = "") -> tuple[int, Any]:
                with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=_SECONDS)) as connection:
                    connection.request("GET", f"/{page}/?text={text}")
                    response = connection.getresponse()
                    body = response.read()
                return response.status, json.loads(body) if response.status == 200 else None

            yield get


def bill(sandbox: Sandbox) -> dict[str, int]:
    """Return what each call cost by the provider's book, in 10**-12 US dollars, by its id as rows have it."""
    return {str(UUID(charge["client_request_id"])): charge["price_pico_usd"] for charge in sandbox.charges()}


DATABASES = ("sqlite", "sqlite-wal", "sqlite-immediate", "postgresql")


@pytest.fixture
def make_toy(tmp_path: Path, wheel: Path, request: pytest.FixtureRequest) -> Callable[..., Toy]:
    """Makes a toy project over one of ``DATABASES``, migrated, whose provider is at a URL."""

    def make(database: str, provider: str, **variables: str) -> Toy:
        folder = tmp_path / "project"
        shutil.copytree(ROOT / "tests" / "toy", folder, ignore=shutil.ignore_patterns("__pycache__"))
        own = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp"}
        for place in own.values():
            place.mkdir(mode=0o700)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(wheel),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "toy.settings",
            "TOY_DATABASE": database,
            "TOY_PROVIDER": provider,
            **{name: str(place) for name, place in own.items()},
            **variables,
        }
        if database == "postgresql":
            server: Postgres = request.getfixturevalue("postgres")
            environment["TOY_POSTGRES"] = json.dumps(server.database("toy"))
        toy = Toy(folder, environment)
        toy.manage("migrate", "--verbosity=0")
        return toy

    return make
