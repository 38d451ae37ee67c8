"""A server that a browser can visit, in a process of its own with its own database."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.chromium import WIDE, Chromium, Scheme, Tab
from tests.browser.scenes import PASSWORD

_ROOT = Path(__file__).resolve().parents[2]
_END_SECONDS = 30


class Site:
    """The demo project with the rows of one scene."""

    def __init__(self, scene: str, chromium: Chromium) -> None:
        self._chromium = chromium
        self._cookies: dict[str, Any] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="llmcache-site-")
        self._log = Path(self._folder.name) / "log"
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.browser.server", scene],
                cwd=_ROOT,
                env=_environment(self._folder.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            log = self.log()
            self.close()
            raise AssertionError(f"the server did not start:\n{log}")
        told = json.loads(line)
        self.base_url: str = told["url"]
        self.sandbox: str = told["sandbox"]
        """Where its provider is."""
        self.pages: dict[str, str] = told["pages"]
        """Paths of pages by name, of those that show a row."""

    def tab(self, user: str | None = "admin", *, width: int = WIDE, scheme: Scheme = "light") -> Tab:
        """Return a new tab of somebody who has logged in, or of nobody."""
        if user is not None and user not in self._cookies:
            with self.tab(None) as tab:
                log_in(tab, user)
                self._cookies[user] = tab.cookies()
        cookies = None if user is None else self._cookies[user]
        return Tab(self._chromium, self.base_url, cookies=cookies, width=width, scheme=scheme)

    def log(self) -> str:
        """Return what the server has written: a line for each request, and what went wrong."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """End the server and remove what it wrote."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(_END_SECONDS)
        finally:
            self._server.kill()
            self._server.wait()
            self._server.stdout.close()
            self._folder.cleanup()


def log_in(tab: Tab, user: str) -> None:
    """Log in as a person does."""
    tab.open("/admin/login/?next=/")
    tab.do(lambda page: page.get_by_label("Username").fill(user))
    tab.do(lambda page: page.get_by_label("Password").fill(PASSWORD))
    tab.do(lambda page: page.get_by_role("button", name="Log in").click())
    tab.do(lambda page: page.wait_for_url(f"{tab.base_url}/"))


def _environment(folder: str) -> dict[str, str]:
    ours = ("LLMCACHE_", "OPENAI_", "DJANGO_", "TENANTS", "PYTEST")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**clean, "LLMCACHE_DEMO_VAR": folder, "DJANGO_SETTINGS_MODULE": "tests.browser.settings"}
