"""The system's Chromium, driven from a thread of its own, and tabs in it that note whatever goes wrong.

playwright's synchronous interface keeps an event loop in its thread. Django and llmcache refuse synchronous work beside
one, so that the thread of the tests must not have it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request, Response, sync_playwright

from tests.browser.pictures import small

T = TypeVar("T")
Scheme = Literal["light", "dark"]

SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDE, NARROW = 1280, 390
_HEIGHT = {WIDE: 800, NARROW: 844}
_ARGUMENTS = (
    *("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"),
    # No page has business with any other machine, nor with a proxy.
    *("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
    # The same letters on every machine, as far as its fonts go.
    *("--font-render-hinting=none", "--disable-lcd-text", "--force-color-profile=srgb"),
)
_WATCH = """
document.addEventListener('securitypolicyviolation', event => window.__violated(
    `${event.violatedDirective} ${event.blockedURI} at ${event.sourceFile}:${event.lineNumber}`));
"""


class Chromium:
    """A running browser without windows."""

    def __init__(self, program: Path) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chromium")
        # Chromium's own sandbox refuses root.
        arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        self._driver = self.do(sync_playwright().start)
        self._browser = self.do(lambda: self._driver.chromium.launch(executable_path=program, args=arguments))

    def do(self, steps: Callable[[], T]) -> T:
        """Return what steps in the browser's thread return."""
        return self._thread.submit(steps).result()

    def new_context(self, **options: Any) -> BrowserContext:
        """Return a browser without memory of any other; it has to be closed."""
        return self.do(lambda: self._browser.new_context(service_workers="block", **options))

    def close(self) -> None:
        """End the browser and its driver."""
        self.do(self._browser.close)
        self.do(self._driver.stop)
        self._thread.shutdown()


class Tab:
    """A tab at one site, with cookies of its own; ``with`` closes it and fails on what went wrong in it."""

    def __init__(
        self,
        chromium: Chromium,
        base_url: str,
        *,
        cookies: Any = None,
        width: int = WIDE,
        scheme: Scheme = "light",
    ) -> None:
        self.base_url = base_url
        self.faults: list[str] = []
        """What went wrong: errors and warnings of the console, violations of the policy, requests that failed."""
        self._chromium = chromium
        size: Any = {"width": width, "height": _HEIGHT[width]}
        look: Any = {"viewport": size, "color_scheme": scheme, "reduced_motion": "reduce", "locale": "en-US"}
        self._context = chromium.new_context(**look, storage_state=cookies, timezone_id="UTC")
        self._page = chromium.do(self._watched)

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._chromium.do(self._context.close)
        if kind is None:
            assert not self.faults, "\n".join(self.faults)

    def open(self, path: str) -> int:
        """Go to a page of the site and return its status."""
        response = self.do(lambda page: page.goto(self.base_url + path))
        assert response is not None
        return response.status

    def look(self, width: int, scheme: Scheme) -> None:
        """Have the page shown as wide as this, light or dark."""

        def steps(page: Page) -> None:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.set_viewport_size({"width": width, "height": _HEIGHT[width]})

        self.do(steps)

    def do(self, steps: Callable[[Page], T]) -> T:
        """Return what steps on the page return."""
        return self._chromium.do(lambda: steps(self._page))

    def cookies(self) -> Any:
        """Return what lets another tab go on as the same user."""
        return self._chromium.do(self._context.storage_state)

    def widths(self) -> tuple[int, int]:
        """Return how wide the page is, and how wide the window."""
        measured = self.do(
            lambda page: page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        )
        return measured[0], measured[1]

    def outline(self) -> str:
        """Return the page's accessibility tree."""
        return self.do(lambda page: page.locator("body").aria_snapshot())

    def picture(self) -> bytes:
        """Return a picture of the whole page."""
        return self.do(lambda page: page.screenshot(full_page=True, animations="disabled"))

    def small_picture(self) -> bytes:
        """Return a picture of the whole page in few bytes."""
        picture = self.picture()

        def steps() -> bytes:
            blank = self._context.new_page()
            try:
                return small(picture, blank)
            finally:
                blank.close()

        return self._chromium.do(steps)

    def _watched(self) -> Page:
        context, page = self._context, self._context.new_page()
        context.expose_binding("__violated", lambda _, violation: self.faults.append(f"policy: {violation}"))
        context.add_init_script(_WATCH)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("dialog", self._asked)
        page.on("request", self._requested)
        page.on("requestfailed", self._failed)
        page.on("response", self._responded)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        # A page that is an error says so in the console as well; its status is what `open` returns.
        ours = "Failed to load resource" in message.text and message.location["url"] == self._page.url
        if message.type in ("error", "warning") and not ours:
            self.faults.append(f"console: {message.text}")

    def _asked(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.base_url, "data:")):
            self.faults.append(f"foreign: {request.url}")

    def _failed(self, request: Request) -> None:
        # Who leaves a page does not wait for its icon.
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(f"failed: {request.url} {request.failure}")

    def _responded(self, response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            self.faults.append(f"status {response.status}: {response.url}")
