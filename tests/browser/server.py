"""The demo project with rows, served for a browser: ``python -m tests.browser.server ROWS``.

Writes a line of JSON when it listens, and ends when its input does. Its database, tiers and journal lie in the folder
in ``LLMCACHE_DEMO_VAR``, which belongs to it alone.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from llmcache.testing.sandbox import Sandbox

Application = Callable[..., Iterable[bytes]]


def main(rows: str) -> None:
    """Fill the database and serve."""
    with Sandbox() as sandbox:
        os.environ["LLMCACHE_DEMO_SANDBOX"] = sandbox.base_url
        application = _filled(rows, sandbox)
        server = _listening(application)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = {"url": f"http://127.0.0.1:{server.server_port}", "pages": _pages(), "sandbox": sandbox.base_url}
        print(json.dumps(told), flush=True)
        sys.stdin.read()
        server.shutdown()
        server.server_close()


def _filled(rows: str, sandbox: Sandbox) -> Application:
    import django

    django.setup()
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    from tests.browser import scenes

    call_command("migrate", verbosity=0)
    scenes.SCENES[rows](sandbox)
    return _without_icon(StaticFilesHandler(get_wsgi_application()))


def _pages() -> dict[str, str]:
    from tests.browser import scenes

    return scenes.pages()


def _listening(application: Application) -> Any:
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.daemon_threads = True
    server.set_app(application)
    return server


def _without_icon(application: Application) -> Application:
    """A browser asks for an icon when it likes, and the admin has none: that is not what is tested."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/favicon.ico":
            start_response("204 No Content", [])
            return []
        return application(environ, start_response)

    return answer


if __name__ == "__main__":
    main(sys.argv[1])
