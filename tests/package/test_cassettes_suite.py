"""Cassettes in somebody's test suite: recorded over HTTP in two processes, played in any order when nobody answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmcache.testing.sandbox import Sandbox
from tests.package.test_pytest_plugin import Suite, passed, suite  # noqa: F401 - found by its name

KEY = "sk-live-0123456789abcdef"
NOWHERE = "http://127.0.0.1:9/v1"

SETTINGS = """
import os
SECRET_KEY = "x"
INSTALLED_APPS = ["llmcache"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "inbox"
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
# The tables without the history of their making, which is half of such a run.
MIGRATION_MODULES = {"llmcache": None}
LLMCACHE = {
    "PROVIDERS": {"openai": {"base_url": os.environ["THEIR_PROVIDER"], "api_key": os.environ.get("THEIR_KEY")}},
}
"""

INBOX = """
import llmcache
from django.http import JsonResponse
from django.urls import path
from pydantic import BaseModel

class Ticket(BaseModel):
    title: str
    urgent: bool

def route(request):
    return JsonResponse(llmcache.extract(request.GET["text"], Ticket).model_dump())

urlpatterns = [path("route/", route)]
"""

CONFTEST = """
import pytest

@pytest.fixture
def llmcache_redact():
    return lambda text: text.replace("ada@example.org", "[mail]")
"""

TESTS = """
import threading
import llmcache, pytest
from llmcache.testing import NoFakeAnswer, assert_provider_calls as counting, fake
from inbox import Ticket

@pytest.fixture(scope="module")
def wider():
    # Of no test, and of no cassette.
    with fake(), pytest.raises(NoFakeAnswer):
        llmcache.extract("wider", Ticket)

@pytest.fixture
def mail():
    return llmcache.extract("of a fixture", Ticket)

def test_alone(llmcache_cassette, assert_provider_calls):
    with assert_provider_calls(1):
        assert [llmcache.extract_with_info("same", Ticket).outcome for _ in range(2)] == ["miss", "hit"]
    assert llmcache_cassette.path.name == "test_alone.json"

@pytest.mark.parametrize("text", ["plain", "a/b", "a:b", "ä b", "mail of ada@example.org"])
def test_each(llmcache_cassette, text):
    with counting(1):
        llmcache.extract(text, Ticket)

@pytest.mark.llmcache_cassette
def test_marked(wider, mail):
    assert isinstance(mail, Ticket)

@pytest.mark.llmcache_cassette("named", strict=True)
def test_named():
    llmcache.extract("named", Ticket)

@pytest.mark.llmcache_cassette("common", shared=True)
@pytest.mark.parametrize("number", range(8))
def test_common(number):
    llmcache.extract(f"number {number}", Ticket)
    llmcache.extract("of all", Ticket)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_async(llmcache_cassette):
    await llmcache.aextract("async", Ticket)
    assert len([each async for each in llmcache.aextract_iterable("items", Ticket)]) > 0

def test_threads(llmcache_cassette):
    threads = [threading.Thread(target=llmcache.extract, args=(f"thread {n}", Ticket)) for n in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

"""
PYTEST_TESTS = 1 + 5 + 1 + 1 + 8 + 1 + 1

CASES = """
import json, urllib.request
import llmcache
from django.db import transaction
from django.test import LiveServerTestCase, SimpleTestCase, TestCase
from inbox import Ticket
from llmcache.testing import IsolatedMixin, cassette

class Cases(TestCase):
    def setUp(self):
        self.enterContext(cassette(self, strict=True))

    def test_at_commit(self):
        with self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(lambda: llmcache.extract("at commit", Ticket))

    async def test_async(self):
        await llmcache.aextract("in a case", Ticket)

    def test_rows(self):
        llmcache.extract("in a case", Ticket)
        self.assertTrue(llmcache.flush())

class Simple(IsolatedMixin, SimpleTestCase):
    @cassette("simple")
    def test_it(self):
        llmcache.extract("in a case", Ticket)

class Live(IsolatedMixin, LiveServerTestCase):
    def test_a_page(self):
        with cassette(self), urllib.request.urlopen(self.live_server_url + "/route/?text=live") as page:
            self.assertIn("title", json.load(page))
"""
CASE_TESTS = 5

FILES = {
    "their_settings.py": SETTINGS,
    "inbox.py": INBOX,
    "conftest.py": CONFTEST,
    "test_theirs.py": TESTS,
    "test_cases.py": CASES,
}


def cassettes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.json"))}


def test_what_two_processes_record_is_played_in_any_order(suite: Suite, tmp_path: Path) -> None:  # noqa: F811
    offline = {"DJANGO_SETTINGS_MODULE": "their_settings", "THEIR_PROVIDER": NOWHERE}
    with Sandbox() as sandbox:
        online = {**offline, "THEIR_PROVIDER": sandbox.base_url, "THEIR_KEY": KEY, "CI": ""}
        assert passed(suite(FILES, "-n2", "--llmcache-record", **online)) == PYTEST_TESTS + CASE_TESTS
        asked = sandbox.received
    # In the file that is common one request is all tests': each process asks for it before it is there.
    assert 29 <= asked <= 30
    recorded = cassettes(tmp_path)
    assert set(recorded) == {
        *(f"cassettes/test_theirs/test_{name}.json" for name in ("alone", "async", "threads", "marked")),
        *(name for name in recorded if name.startswith("cassettes/test_theirs/test_each[")),
        *(f"cassettes/test_cases/Cases.test_{name}.json" for name in ("at_commit", "async", "rows")),
        *("cassettes/test_cases/Live.test_a_page.json", "cassettes/simple.json"),
        *("cassettes/common.json", "cassettes/named.json"),
    }
    assert len(recorded) == 4 + 5 + 3 + 2 + 2
    assert not [name for name, text in recorded.items() if KEY in text or "ada@example.org" in text]
    common = json.loads(recorded["cassettes/common.json"])["interactions"]
    texts = [each["request"]["messages"][0]["content"] for each in common]
    assert sorted(texts) == [*(f"number {n}" for n in range(8)), "of all"]
    # Not in the order in which it was recorded, without a key, and where nothing may be recorded.
    assert passed(suite(FILES, "-p", "no:xdist", "-p", "randomly", **offline, CI="true")) == PYTEST_TESTS + CASE_TESTS
    # And the cases by the other runner.
    done = django(tmp_path, **offline)
    assert done.returncode == 0, done.stderr
    assert f"Ran {CASE_TESTS} tests" in done.stderr
    assert cassettes(tmp_path) == recorded
    # Nothing but cassettes is left.
    assert {path.suffix for path in (tmp_path / "cassettes").rglob("*") if path.is_file()} == {".json"}


def django(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "--pattern", "test_cases.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "HOME": str(folder / "home"), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


WRONG = """
import llmcache, pytest
from inbox import Ticket

def test_unknown(llmcache_cassette):
    llmcache.extract("who knows", Ticket)

def test_caught(llmcache_cassette):
    try:
        llmcache.extract("who knows", Ticket)
    except Exception:
        pass

@pytest.mark.llmcache_cassette("known", strict=True)
def test_unused():
    pass

@pytest.mark.llmcache_cassette("known")
def test_that_fails_says_so_alone():
    assert 1 == 2

@pytest.mark.llmcache_cassette("broken")
def test_broken():
    pass

@pytest.mark.llmcache_cassette(nmae="known")
def test_misspelt():
    pass

runs = []

def test_that_fails_first(llmcache_cassette):
    runs.append(1)
    assert len(runs) == 2
    try:
        llmcache.extract("who knows", Ticket)
    except BaseException:
        pass

@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.llmcache_cassette("of one", shared=True)), 2])
def test_marked_in_part(number, request):
    assert ("llmcache_cassette" in request.node.funcargs) == (number == 1)
"""

RERUN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    # As plugins do that run again what has failed.
    if item.name != "test_that_fails_first":
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    first = runtestprotocol(item, nextitem=nextitem, log=False)
    assert [each.outcome for each in first] == ["passed", "failed", "passed"]
    item._initrequest()
    runtestprotocol(item, nextitem=nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""

ANEW = """
import llmcache, pytest
from django.test import SimpleTestCase
from llmcache.testing import IsolatedMixin, cassette

@pytest.mark.llmcache_cassette
@pytest.mark.parametrize("end", ["passes", "fails", "skips"])
def test_it(end):
    llmcache.extract("two", int)
    if end == "fails":
        assert 1 == 2
    if end == "skips":
        pytest.skip()

class TestCases(IsolatedMixin, SimpleTestCase):
    @pytest.mark.llmcache_cassette("marked")
    def test_marked(self):
        llmcache.extract("two", int)
        self.fail()

@pytest.fixture
def entered():
    with cassette("entered"):
        yield

def test_entered(entered):
    llmcache.extract("two", int)
    assert 1 == 2
"""


def test_what_is_wrong_is_told(suite: Suite, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "cassettes"
    (folder / "test_anew").mkdir(parents=True)
    request: dict[str, Any] = {"model": "openai/gpt-5-mini", "messages": [{"role": "user", "content": "one"}]}
    known = {"cassette": 1, "interactions": [{"request": request, "reply": {"answer": {"value": 1}}}]}
    (folder / "known.json").write_text(json.dumps(known))
    (folder / "broken.json").write_text('{"cassette": 1,\n<<<<<<< HEAD\n')
    for end in ("passes", "fails", "skips"):
        (folder / "test_anew" / f"test_it[{end}].json").write_text(json.dumps(known))
    for name in ("marked", "entered"):
        (folder / f"{name}.json").write_text(json.dumps(known))
    files = {"their_settings.py": SETTINGS, "inbox.py": INBOX, "test_wrong.py": WRONG, "test_anew.py": ANEW}
    files["conftest.py"] = RERUN
    offline = {"DJANGO_SETTINGS_MODULE": "their_settings", "THEIR_PROVIDER": NOWHERE, "CI": "1"}
    told = suite(files, "test_wrong.py", "-p", "no:randomly", "--tb=short", expected=1, **offline)
    assert "2 failed, 5 passed, 5 errors in" in told, told
    assert "ERROR test_wrong.py::test_that_fails_first - llmcache.testing.cassettes.errors.NotRecorded" in told
    assert "ERROR test_wrong.py::test_caught - llmcache.testing.cassettes.errors.NotRecorded" in told
    assert "there is nothing in the cassette cassettes/test_wrong/test_unknown.json" in told
    assert "Nothing asked for interaction 1 of the cassette cassettes/known.json" in told
    assert "cassettes/broken.json cannot be used: line 2 is the mark of a merge conflict" in told
    assert "The mark llmcache_cassette takes name, shared, strict and redact, not 'nmae'" in told
    refused = suite(files, "test_wrong.py", "--llmcache-record=all", expected=4, **offline)
    assert refused == ""
    with Sandbox() as sandbox:
        online = {**offline, "CI": "", "THEIR_PROVIDER": sandbox.base_url, "THEIR_KEY": KEY}
        suite(files, "test_anew.py", "--llmcache-record=all", expected=1, **online)
    # Who came to the end has asked for all that there is to be.
    kept = {path.name: len(json.loads(path.read_text())["interactions"]) for path in (folder / "test_anew").iterdir()}
    assert kept == {"test_it[passes].json": 1, "test_it[fails].json": 2, "test_it[skips].json": 2}
    for name in ("marked", "entered"):
        assert len(json.loads((folder / f"{name}.json").read_text())["interactions"]) == 2
