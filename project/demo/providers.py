"""Who the demo asks: the sandbox on loopback, or OpenAI's API where that is asked for in words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmcache.testing.sandbox import read_charges, start_sandbox_process
from project.demo import data
from project.demo.models import DemoRun


@dataclass(frozen=True, slots=True)
class Provider:
    """Who is asked during a run."""

    name: DemoRun.Provider
    charges: Path | None = None
    """The file of what was charged; None where nobody keeps one."""

    def calls(self, misses: int) -> int:
        """Return how many provider calls were made: those that were charged, else the run's misses."""
        return misses if self.charges is None else len(read_charges(self.charges))


@contextmanager
def sandbox(folder: Path, latency_ms: float) -> Iterator[Provider]:
    """Start the sandbox with the log's texts, and let llmcache ask it, whatever the environment names.

    ``folder`` gets a file with what is charged.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file for each run: two runs at once must not count each other's calls.
    charges = folder / f"charges-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.jsonl"
    with start_sandbox_process(texts=data.TEXTS, charges=charges, latency_ms=latency_ms) as process:
        given = {"OPENAI_BASE_URL": process.base_url, "OPENAI_API_KEY": "sandbox"}
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield Provider(DemoRun.Provider.SANDBOX, charges)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
