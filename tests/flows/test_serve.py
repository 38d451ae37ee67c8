"""The pages, served as a newcomer serves them: ``manage.py serve`` in a process of its own, with its own provider."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from llmcache.testing.sandbox import Sandbox, read_charges
from project.demo.amounts import money
from tests.flows.newcomer import ROOT, environment, manage, real_api
from tests.web.page import Page

LINE = "2 cups finely chopped onions"


class Browser:
    """Keeps cookies and sends forms, as far as these pages need it; knows no proxy."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
        )
        self.final = ""
        """The address of the page that was loaded last, after what it redirected to."""
        self.page = self._load("/")

    def ask(self, text: str, view: str) -> Page:
        """Send the form to one of its two views."""
        fields = {"csrfmiddlewaretoken": self.page.forms[0]["csrfmiddlewaretoken"], "text": text}
        self.page = self._load(f"/{view}/", urlencode(fields).encode())
        return self.page

    def send(self, path: str, fields: dict[str, str]) -> Page:
        """Send any form."""
        return self._load(path, urlencode(fields).encode())

    def open(self, path: str) -> Page:
        """Load any page."""
        return self._load(path)

    def read(self, path: str) -> str:
        """Return what an address gives that is no page."""
        return self._fetch(path)[1]

    def status(self, path: str) -> int:
        """Return the status of an address."""
        return self._fetch(path)[0]

    def _load(self, path: str, form: bytes | None = None) -> Page:
        return Page(self._fetch(path, form)[1])

    def _fetch(self, path: str, form: bytes | None = None) -> tuple[int, str]:
        try:
            response: Any = self._opener.open(self.base_url + path, form, timeout=60)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            self.final = response.geturl()
            return response.status, response.read().decode()


@contextmanager
def serving(var: Path, *arguments: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], list[str], Browser]]:
    """The server in a process group of its own, what it said until it listened, and a browser at its home page."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "serve", "0", *arguments],
        cwd=ROOT,
        env=environment(var, PYTHONUNBUFFERED="1", **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if "Quit the server" in line:
                break
        found = re.search(r"server at (http://127\.0\.0\.1:\d+)/", "".join(said))
        assert found, "".join(said)
        yield process, said, Browser(found[1])
    finally:
        # Whatever is left of the group: also a server whose auto-reloader has ended.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_closed(url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except OSError:
        return True
    finally:
        connection.close()
    return False


@pytest.mark.parametrize("arguments", [(), ("--noreload",)], ids=["with reloader", "without"])
def test_a_line_is_asked_about_once_and_both_views_know_its_answer(var: Path, arguments: tuple[str, ...]) -> None:
    with serving(var, *arguments) as (process, said, browser):
        assert "It is no model" in said[0]
        assert "no model" in browser.page.text
        miss, *hits = [browser.ask(LINE, view) for view in ("extract", "aextract", "extract")]
        # One provider, also where the reloader has made a second process.
        (charges,) = (var / "sandbox").iterdir()
        (charge,) = read_charges(charges)
        price = money(Decimal(charge["price_pico_usd"]) / 10**12)
        assert (miss.facts["cost"], miss.facts["saved"]) == (price, "$0")
        assert [(hit.facts["cost"], hit.facts["saved"]) for hit in hits] == [("$0", price)] * 2
        assert {page.column()["name"] for page in (miss, *hits)} == {"onions"}
        assert len(browser.ask("7 zorkmids of something", "aextract").rows) == 8

        # The provider ends with the server.
        sandbox = said[0].split()[5].rstrip(".")
        assert not is_closed(sandbox)
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
        assert until(lambda: is_closed(sandbox))
        assert until(lambda: is_closed(browser.base_url))


def test_answers_of_the_demo_are_hits_on_the_pages(var: Path) -> None:
    assert manage(var, "demo", "--requests", "3").returncode == 0
    with serving(var, "--noreload") as (_, _, browser):
        page = browser.ask("1 medium-size onion, peeled and chopped", "extract")
        assert page.facts["cost"] == "$0"
        assert page.facts["saved"].startswith("$0.00")


def test_the_real_api_is_asked_where_its_user_says_so(var: Path) -> None:
    with Sandbox() as provider:
        with serving(var, "--noreload", **real_api(provider)) as (_, said, browser):
            assert "REAL CALLS FOR REAL MONEY" in said[0]
            assert "costs money" in browser.page.text
            browser.ask(LINE, "extract")
        assert provider.calls == 1


def test_a_key_alone_spends_no_money(var: Path) -> None:
    with Sandbox() as provider:
        with serving(var, "--noreload", **{**real_api(provider), "LLMCACHE_DEMO_PROVIDER": ""}) as (_, _, browser):
            assert browser.ask(LINE, "extract").column()["name"] == "onions"
        assert provider.received == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"LLMCACHE_DEMO_PROVIDER": "opnai"}, ("LLMCACHE_DEMO_PROVIDER", "'opnai'", "'sandbox'", "'openai'")),
        ({"LLMCACHE_DEMO_PROVIDER": "openai"}, ("OPENAI_API_KEY",)),
    ],
)
def test_a_wrong_environment_is_said(var: Path, more: dict[str, str], words: tuple[str, ...]) -> None:
    done = manage(var, "serve", "0", **more)
    assert done.returncode == 1
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr
