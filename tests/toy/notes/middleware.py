"""A lock around the requests that read and then write; see ``ONE_WRITER`` in the settings."""

import contextlib
import threading
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

_writing = threading.Lock()


def one_writer_at_a_time(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Let a request that writes wait for the one before it, its commit included."""

    def respond(request: HttpRequest) -> HttpResponse:
        writes = settings.ONE_WRITER and request.path == "/note/"
        with _writing if writes else contextlib.nullcontext():
            return get_response(request)

    return respond
