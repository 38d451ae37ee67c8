"""Waiting for what goes on in the background, so that a test can look at what came of it."""

from __future__ import annotations

from llmcache.engine import process


def finish_refreshes(timeout: float = 5.0) -> bool:
    """Wait until no stale answer is being asked for anew; return whether that was so within ``timeout`` seconds."""
    now = process.current_if_made()
    return now is None or now.refreshes.wait(timeout)
