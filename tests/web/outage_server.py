"""Serve the project over the databases of ``outage_settings`` until standard input closes.

The first line says at which port, and the session of somebody who is logged in.
"""

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


def prepare() -> str:
    """Make the tables and a user, and return the key of the user's session."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connections
    from django.test import Client

    for alias in settings.DATABASES:
        # A ledger that lies apart has no users.
        call_command("migrate", *([] if alias == "default" else ["llmcache"]), database=alias, verbosity=0)
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    for connection in connections.all():
        connection.close()
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def main() -> None:
    """Serve until standard input closes."""
    with Server(("127.0.0.1", 0), Quiet) as server:
        server.set_app(get_wsgi_application())
        session = prepare()
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        print(server.server_port, session, flush=True)
        sys.stdin.read()
        server.shutdown()
        serving.join()


if __name__ == "__main__":
    main()
