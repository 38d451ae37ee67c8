"""The pytest plugin in other people's suites: with and without pytest-django, in any order, in several processes."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcache.testing.tier_contract import TierContract

Suite = Callable[..., str]

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["llmcache"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""

# Each test asks the same; one that saw another's entry would not ask.
TESTS = """
import unittest
import llmcache, pytest
from django.test import SimpleTestCase, TestCase
from llmcache.testing import IsolatedMixin, assert_provider_calls as counting, fake

def ask():
    with fake() as provider, counting(1):
        provider.answer(int, 5)
        assert [llmcache.extract_with_info("five", int).outcome for _ in range(2)] == ["miss", "hit"]

@pytest.mark.parametrize("number", range(4))
def test_alone(number):
    ask()

@pytest.fixture
def asked():
    ask()

@pytest.mark.parametrize("number", range(4))
def test_a_fixture_is_the_tests(asked, llmcache_fake, assert_provider_calls, number):
    with assert_provider_calls(0):
        assert llmcache.extract("five", int) == 5

class Mixed:
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with fake() as provider:
            provider.answer(int, 5)
            llmcache.extract("five", int)

    @pytest.fixture(autouse=True)
    def of_pytest(self):
        ask()

    def setUp(self):
        with counting(0):
            llmcache.extract("five", int)

    def tearDown(self):
        with counting(0):
            llmcache.extract("five", int)

    def test_one(self):
        pass

    def test_two(self):
        pass

class Plain(Mixed, unittest.TestCase):
    pass

class OfDjango(Mixed, SimpleTestCase):
    async def test_async(self):
        with counting(0):
            assert await llmcache.aextract("five", int) == 5

class WithMixin(IsolatedMixin, OfDjango):
    pass

@pytest.fixture(scope="module")
def of_the_module():
    with fake() as provider:
        provider.answer(int, 5)
        return llmcache.extract("five", int)

@pytest.mark.parametrize("number", range(3))
def test_what_a_module_extracts_is_no_tests(of_the_module, number):
    ask()

def test_a_provider_elsewhere_is_forbidden():
    with pytest.raises(llmcache.ProviderCallsForbidden, match="llmcache_fake"):
        llmcache.extract("five", int)
"""
COUNT = 4 + 4 + 2 + 3 + 3 + 3 + 1


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Runs pytest on a folder of files, in an environment without the variables of this one's own tests."""

    def run(files: dict[str, str], *options: str, expected: int = 0, **variables: str) -> str:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DJANGO_", "LLMCACHE_", "PYTEST_", "OPENAI_"))
        }
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options],
            cwd=tmp_path,
            env={
                **environment,
                "HOME": str(home),
                "XDG_CACHE_HOME": str(home),
                "PYTHONPATH": str(tmp_path),
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        assert done.returncode == expected, done.stdout + done.stderr
        assert list(home.iterdir()) == []
        return done.stdout

    return run


def passed(output: str) -> int:
    found = re.search(r"^(\d+) passed in ", output, flags=re.MULTILINE)
    assert found, output
    return int(found[1])


@pytest.mark.parametrize(
    "options",
    [("-p", "no:randomly", "-p", "no:xdist"), ("-p", "randomly"), ("-n2",)],
    ids=["in order", "at random", "in two processes"],
)
def test_with_pytest_django(options: tuple[str, ...], suite: Suite) -> None:
    files = {"their_settings.py": SETTINGS, "test_theirs.py": TESTS}
    assert passed(suite(files, *options, DJANGO_SETTINGS_MODULE="their_settings")) == COUNT


ALONE = """
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "their_settings"
django.setup()
"""


def test_without_pytest_django(suite: Suite) -> None:
    files = {"their_settings.py": SETTINGS, "test_theirs.py": TESTS, "conftest.py": ALONE}
    # What a class or module does before its first test is no test's: without pytest-django nothing keeps it from
    # the project's own cache, and the fake refuses.
    output = suite(files, "-p", "no:django", "-k", "alone or fixture or forbidden")
    assert "9 passed" in output


def test_loaded_by_name_where_plugins_are_not_found(suite: Suite) -> None:
    files = {"their_settings.py": SETTINGS, "test_theirs.py": TESTS}
    options = ("-p", "pytest_django.plugin", "-p", "llmcache.testing.pytest_plugin")
    variables = {"DJANGO_SETTINGS_MODULE": "their_settings", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    assert passed(suite(files, *options, **variables)) == COUNT


def test_a_difference_fails_the_test(suite: Suite) -> None:
    test = """
import llmcache
def test_it(llmcache_fake, assert_provider_calls):
    llmcache_fake.answer(int, 5)
    with assert_provider_calls(2):
        llmcache.extract("five", int)
"""
    files = {"their_settings.py": SETTINGS, "test_theirs.py": test}
    output = suite(files, expected=1, DJANGO_SETTINGS_MODULE="their_settings")
    assert "1 provider calls were made where 2 were expected:" in output
    assert "1 x int of openai/gpt-5-mini (not_found)" in output


OUR_CACHES = """
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "ours": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "ours"},
    "ours-out-of-reach": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"
    },
}
"""
PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_pages_examples_run(suite: Suite, tmp_path: Path) -> None:
    """As files of one project: each block says which, under pytest and under Django's runner."""
    files = {"their_settings.py": SETTINGS + OUR_CACHES}
    for name, block in re.findall(
        r"^```python\n# (\w+\.py)[^\n]*\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
    ):
        files[name] = files.get(name, "") + block
    modules = {"test_inbox.py", "tests.py", "test_tier.py", "test_recorded.py"}
    assert set(files) == {"their_settings.py", "inbox.py", "conftest.py", *modules}
    recorded = re.search(r"`(cassettes/\S+)`:\n\n```json\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert recorded
    for name in (recorded[1], "cassettes/tests/RecordedTests.test_an_urgent_mail.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(recorded[2])
    variables = {"DJANGO_SETTINGS_MODULE": "their_settings"}
    assert passed(suite(files, "test_inbox.py", "tests.py", "test_recorded.py", **variables)) == 11
    tests = [name for name in vars(TierContract) if name.startswith("test_")]
    assert passed(suite(files, "test_tier.py", **variables)) == len(tests) > 10
    environment = {**os.environ, **variables, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "--pattern", "tests.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 3 tests" in done.stderr
    assert list((tmp_path / "home").iterdir()) == []


LOADED = """
import sys
def test_it():
    found = {name.partition(".")[0] for name in sys.modules}
    assert found.isdisjoint({names}), found
    assert "_llmcache_pytest" in found
"""


def test_a_project_without_django_loads_neither_it_nor_the_package(suite: Suite) -> None:
    names = {"django", "llmcache", "pydantic", "openai"}
    # pytest-django, which is installed here, loads Django's beginnings by itself.
    output = suite({"test_theirs.py": LOADED.replace("{names}", repr(names))}, "-p", "no:django")
    assert passed(output) == 1


def test_a_django_project_without_the_app_does_not_load_the_package(suite: Suite) -> None:
    files = {
        "their_settings.py": SETTINGS.replace('"llmcache"', ""),
        "test_theirs.py": LOADED.replace("{names}", repr({"llmcache", "openai"})),
    }
    assert passed(suite(files, DJANGO_SETTINGS_MODULE="their_settings")) == 1


def test_the_kits_names_are_listed_and_loaded_when_used() -> None:
    program = (
        "import sys, llmcache.testing as t; before = 'django.test' in sys.modules; "
        "print(before, 'pytest' in sys.modules, set(t.__all__) <= set(dir(t)), "
        "all(getattr(t, name).__doc__ for name in t.__all__), 'pytest' in sys.modules, hasattr(t, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "True", "False", "False"]
