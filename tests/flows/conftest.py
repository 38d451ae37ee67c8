"""A place for the demo project's commands: a folder with a database that has its tables and nothing in them."""

from pathlib import Path

import pytest

from tests.flows.newcomer import manage


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with its tables and nothing in them."""
    var = tmp_path_factory.mktemp("migrated")
    done = manage(var, "migrate", "--verbosity", "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return (var / "db.sqlite3").read_bytes()


@pytest.fixture
def var(tmp_path: Path, migrated: bytes) -> Path:
    """The folder that the commands write to."""
    folder = tmp_path / "var"
    folder.mkdir()
    (folder / "db.sqlite3").write_bytes(migrated)
    return folder
