"""``manage.py serve``: the pages, with somebody to ask."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.management.commands import runserver
from django.core.management.base import CommandParser
from django.db import connections
from django.urls import reverse
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV

from project.demo import accounts, providers
from project.demo.database import require_tables
from project.demo.models import DemoRun
from project.demo.options import between
from project.demo.redis_server import entries_in_redis

_PACE_MS = 15.0
"""From one piece of a stream to the next: about as a model writes, so that there is something to see."""


class Command(runserver.Command):
    """Django's development server beside the sandbox provider and a Redis, which end when the server does."""

    help = (
        "Serve the demo project's pages, and start the sandbox provider for them to ask. "
        "LLMCACHE_DEMO_PROVIDER=openai with OPENAI_API_KEY lets them ask OpenAI's API instead, for money."
    )

    # Set by the server's own options.
    addr: str
    _raw_ipv6: bool

    def add_arguments(self, parser: CommandParser) -> None:
        """Add to the server's options what the sandbox takes."""
        super().add_arguments(parser)
        parser.add_argument(
            "--latency-ms",
            type=between(0, 60_000),
            default=0,
            metavar="MS",
            help="how long the sandbox waits with each answer (default: 0)",
        )

    def run(self, **options: Any) -> None:
        """Serve until the end; the server that the auto-reloader starts anew keeps asking the first one's provider."""
        latency_ms = options.pop("latency_ms")
        if os.environ.get(DJANGO_AUTORELOAD_ENV) == "true":
            super().run(**options)
            return
        require_tables()
        with entries_in_redis(self._say), self._provider(latency_ms) as provider:
            self._say(_about(provider))
            super().run(**options)

    def on_bind(self, server_port: int) -> None:
        """Say where the dashboard is and who may see it, then what Django says."""
        host = f"[{self.addr}]" if self._raw_ipv6 else "127.0.0.1" if self.addr in ("0", "0.0.0.0") else self.addr
        self._say(f"Dashboard   {self.protocol}://{host}:{server_port}{reverse('llmcache:dashboard')}")
        try:
            password = accounts.admin_password()
        finally:
            # Of the thread that serves: requests have connections of their own.
            connections.close_all()
        self._say(f"User        {accounts.NAME}")
        if password is None:
            self._say(f"Password    the one that was set; delete {accounts.password_file()} for a new one")
        else:
            self._say(f"Password    {password}")
        self._say("")
        super().on_bind(server_port)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def _provider(self, latency_ms: float) -> AbstractContextManager[providers.Provider]:
        if providers.wanted() == DemoRun.Provider.OPENAI:
            return nullcontext(providers.openai_api())
        return providers.sandbox(settings.VAR / "sandbox", latency_ms, _PACE_MS)


def _about(provider: providers.Provider) -> str:
    if provider.name == DemoRun.Provider.OPENAI:
        model = settings.LLMCACHE["MODEL"]
        return f"REAL CALLS FOR REAL MONEY: a text without an answer is sent to {model} at {provider.base_url}."
    return f"The sandbox provider listens at {provider.base_url}. It is no model."
