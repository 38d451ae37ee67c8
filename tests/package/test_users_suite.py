"""The test-suite of somebody's project: no test sees another's rows, counts or entries, and the machine stays clean."""

import json
import re
from collections.abc import Callable

import pytest

from llmcache.testing.sandbox import Sandbox
from tests.toys import Toy

MakeToy = Callable[..., Toy]

DJANGO_TESTS = 17
PYTEST_TESTS = 18
"""Those of ``pytest_suite.py``; pytest runs Django's too."""


def assert_nothing_left(toy: Toy) -> None:
    """Fail when the home of who runs the tests, or the place for temporary files, has anything in it."""
    assert [str(path) for path in toy.home.rglob("*")] == []
    assert [str(path) for path in toy.temporary.rglob("*")] == []


@pytest.mark.parametrize(
    ("database", "options"),
    [
        ("sqlite", ()),
        ("sqlite-immediate", ("--reverse",)),
        ("sqlite", ("--parallel=2",)),
        ("postgresql", ("--parallel=2", "--shuffle=20261121")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_djangos_runner(database: str, options: tuple[str, ...], sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy(database, sandbox.base_url)
    ran = toy.run("manage.py", "test", *options).stderr
    assert re.search(rf"^Ran {DJANGO_TESTS} tests in .*\n\nOK$", ran, flags=re.MULTILINE), ran
    # Each asks once, and the class that extracts for all of its tests once more.
    assert sandbox.calls == DJANGO_TESTS + 1
    assert_nothing_left(toy)


@pytest.mark.parametrize(
    ("database", "options"),
    [
        ("sqlite", ("-p", "no:randomly")),
        # In random order, by the plugin that is installed with the tests' tools.
        ("sqlite", ("-n2",)),
        ("postgresql", ("-p", "no:xdist")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_pytest(database: str, options: tuple[str, ...], sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy(database, sandbox.base_url)
    # The project's own cache, which is a tier of the project and of no test.
    own = {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": str(toy.folder / "own")}
    toy.environment["TOY_CACHES"] = json.dumps({"default": own})
    ran = toy.run("-m", "pytest", f"--basetemp={toy.folder}/pytest", *options).stdout
    assert re.search(rf"^=* {DJANGO_TESTS + PYTEST_TESTS} passed in ", ran, flags=re.MULTILINE), ran
    assert sandbox.calls >= DJANGO_TESTS + PYTEST_TESTS + 1
    assert [str(path) for path in (toy.folder / "own").rglob("*")] == []
    assert_nothing_left(toy)
