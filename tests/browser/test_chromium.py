"""What a tab notes: each thing that can go wrong on a page, on a page where it does."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser.chromium import NARROW, Chromium, Tab
from tests.browser.policy import POLICY

PAGES = {
    "/good": "<h1>Good</h1>",
    "/style": "<p style='color: red'>x</p>",
    "/inline": "<script>window.ran = 1</script>",
    "/handler": "<img src=/icon.svg onerror='window.ran = 1'>",
    "/foreign": "<img src='http://127.0.0.2:9/x.png' alt=''>",
    "/missing": "<link rel=stylesheet href=/gone.css>",
    "/throws": "<script src=/throws.js></script>",
    "/warns": "<script src=/warns.js></script>",
    "/asks": "<script src=/asks.js></script>",
    "/broad": "<table><tr><td>" + "x" * 500 + "</td></tr></table>",
}
SCRIPTS = {"/throws.js": "null.x", "/warns.js": "console.warn('careful')", "/asks.js": "alert('hello')"}


class Pages(BaseHTTPRequestHandler):
    """Serves them under the policy."""

    def do_GET(self) -> None:
        script, page = SCRIPTS.get(self.path), PAGES.get(self.path)
        self.send_response(404 if script is None and page is None and self.path != "/favicon.ico" else 200)
        self.send_header("Content-Type", "text/html" if script is None else "text/javascript")
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write((script or f"<!doctype html><html lang=en><title>x</title>{page}").encode())

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in the base class
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "noted"),
    [
        ("/style", "policy: style-src-attr inline"),
        ("/inline", "policy: script-src-elem inline"),
        ("/handler", "policy: script-src-attr inline"),
        ("/foreign", "foreign: http://127.0.0.2:9/x.png"),
        ("/missing", "status 404: "),
        ("/throws", "script: "),
        ("/warns", "console: careful"),
        ("/asks", "dialog: hello"),
    ],
)
def test_a_tab_fails_on_what_goes_wrong(chromium: Chromium, address: str, path: str, noted: str) -> None:
    tab = Tab(chromium, address)
    with pytest.raises(AssertionError), tab:
        tab.open(path)
    assert [fault for fault in tab.faults if fault.startswith(noted)]


def test_a_good_page_is_good_and_a_missing_one_says_so_itself(chromium: Chromium, address: str) -> None:
    with Tab(chromium, address) as tab:
        assert (tab.open("/good"), tab.open("/nothing"), tab.faults) == (200, 404, [])


def test_what_sticks_out_is_measured(chromium: Chromium, address: str) -> None:
    with Tab(chromium, address, width=NARROW) as tab:
        tab.open("/broad")
        content, window = tab.widths()
        assert (content > 1_000, window) == (True, NARROW)


def test_the_thread_of_the_tests_has_no_loop(chromium: Chromium) -> None:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
