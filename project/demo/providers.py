"""Who is asked: the sandbox on loopback, or OpenAI's API where that is asked for in words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from llmcache.engine import process
from llmcache.testing.sandbox import read_charges, start_sandbox_process
from project.demo import data
from project.demo.models import DemoRun
from project.demo.sandboxed import sandboxed


@dataclass(frozen=True, slots=True)
class Provider:
    """Who is asked during a run."""

    name: DemoRun.Provider
    base_url: str
    charges: Path | None = None
    """The file of what was charged; None where nobody keeps one."""

    def calls(self, misses: int) -> int:
        """Return how many provider calls were made: those that were charged, else the run's misses."""
        return misses if self.charges is None else len(read_charges(self.charges))


def wanted() -> DemoRun.Provider:
    """Return who is to be asked, by the environment; ``CommandError`` where it names nobody or lacks a key."""
    name = os.environ.get("LLMCACHE_DEMO_PROVIDER", "")
    if name not in ("", *DemoRun.Provider.values):
        raise CommandError(f"LLMCACHE_DEMO_PROVIDER is {name!r}. It takes 'sandbox' (the default) or 'openai'.")
    if name == DemoRun.Provider.OPENAI and not os.environ.get("OPENAI_API_KEY"):
        raise CommandError("LLMCACHE_DEMO_PROVIDER=openai needs OPENAI_API_KEY.")
    return DemoRun.Provider(name or DemoRun.Provider.SANDBOX)


def openai_api() -> Provider:
    """Return OpenAI's API, or what the environment has in its place."""
    return Provider(DemoRun.Provider.OPENAI, os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")


@contextmanager
def sandbox(folder: Path, latency_ms: float, pace_ms: float = 0.0) -> Iterator[Provider]:
    """Start the sandbox with the log's texts, and let llmcache ask it, whatever the environment names.

    ``folder`` gets a file with what is charged. Child processes ask it too.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file for each run: two runs at once must not count each other's calls.
    charges = folder / f"charges-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.jsonl"
    with (
        start_sandbox_process(texts=data.TEXTS, charges=charges, latency_ms=latency_ms, pace_ms=pace_ms) as started,
        _told_to_children("LLMCACHE_DEMO_SANDBOX", started.base_url),
        _asked_here(started.base_url),
    ):
        yield Provider(DemoRun.Provider.SANDBOX, started.base_url, charges)


@contextmanager
def _asked_here(base_url: str) -> Iterator[None]:
    before = settings.LLMCACHE, settings.SANDBOX_URL
    try:
        _put_in_force(sandboxed(settings.LLMCACHE, base_url), base_url)
        yield
    finally:
        _put_in_force(*before)


def _put_in_force(llmcache: dict[str, Any], sandbox_url: str | None) -> None:
    # Where the sandbox listens is known once it does: by then the settings have been read.
    settings.LLMCACHE, settings.SANDBOX_URL = llmcache, sandbox_url
    process.install(None)


@contextmanager
def _told_to_children(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
