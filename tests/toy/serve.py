"""Serve the toy project with a thread for each request until standard input closes; the first line says where."""

import os
import sys
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from django.core.wsgi import get_wsgi_application


class Server(ThreadingMixIn, WSGIServer):
    """The standard library's WSGI server, with threads."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Handles a request and says nothing about it."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def main() -> None:
    """Serve until standard input closes."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toy.settings")
    with Server(("127.0.0.1", 0), Quiet) as server:
        server.set_app(get_wsgi_application())
        import llmcache

        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        print(server.server_port, llmcache.__file__, flush=True)
        sys.stdin.read()
        server.shutdown()
        serving.join()


if __name__ == "__main__":
    main()
