"""``manage.py serve``: the pages, with somebody to ask."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.management.commands import runserver
from django.core.management.base import CommandParser
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV

from project.demo import providers
from project.demo.models import DemoRun
from project.demo.options import between


class Command(runserver.Command):
    """Django's development server beside the sandbox provider, which ends when the server does."""

    help = (
        "Serve the demo project's pages, and start the sandbox provider for them to ask. "
        "LLMCACHE_DEMO_PROVIDER=openai with OPENAI_API_KEY lets them ask OpenAI's API instead, for money."
    )

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
        with self._provider(latency_ms) as provider:
            self.stdout.write(_about(provider))
            self.stdout.flush()
            super().run(**options)

    def _provider(self, latency_ms: float) -> Any:
        if providers.wanted() == DemoRun.Provider.OPENAI:
            return nullcontext(providers.openai_api())
        return providers.sandbox(settings.VAR / "sandbox", latency_ms)


def _about(provider: providers.Provider) -> str:
    if provider.name == DemoRun.Provider.OPENAI:
        model = settings.LLMCACHE["MODEL"]
        return f"REAL CALLS FOR REAL MONEY: a text without an answer is sent to {model} at {provider.base_url}."
    return f"The sandbox provider listens at {provider.base_url}. It is no model."
