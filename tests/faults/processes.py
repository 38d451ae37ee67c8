"""Two processes of one project, one of which has a faulty way to a server, and three accounts of what they paid."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings

from llmcache.testing.sandbox import Sandbox
from tests import forks
from tests.faults.proxy import Proxy
from tests.flows.newcomer import ROOT
from tests.flows.test_invalidation_processes import Worker
from tests.waiting import until

LEASE = 1.0
ANSWER = "Ada"


class Process(Worker):
    """A process that asks when it is told to."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = forks.Forked(
            ["-m", "tests.faults.worker"], env=environment, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._unheard = 0

    def tell(self, what: str, **arguments: Any) -> None:
        """Tell it what to do."""
        self._unheard += 1
        super().tell(what, **arguments)

    def hear(self) -> Any:
        """Return what it has done."""
        self._unheard -= 1
        return super().hear()

    def settle(self) -> None:
        """Hear what nobody has heard: a test that fails leaves none of it to the next."""
        while self._unheard:
            self.hear()

    def tries(self, text: str, **options: Any) -> list[Any]:
        """Return the name that a call brings, its outcome and its attempts."""
        return self.do("tries", text=text, **options)


class Project:
    """The processes ``behind`` the proxy and ``beside`` it, their provider, and the ledger."""

    def __init__(
        self,
        sandbox: Sandbox,
        proxy: Proxy,
        folder: Path,
        environments: tuple[dict[str, Any], dict[str, Any]],
        rows: Callable[[], list[tuple[str, str]]],
    ) -> None:
        self.sandbox = sandbox
        self.proxy = proxy
        self._rows = rows
        self._namespace = uuid4().hex
        self._waits = folder / "waits"
        self._waits.mkdir()
        self.behind, self.beside = (Process(self._environment(folder, given)) for given in environments)
        self.text = ""
        self._texts = 0

    def _environment(self, folder: Path, given: dict[str, Any]) -> dict[str, str]:
        shared = {
            **settings.LLMCACHE,
            "PROVIDERS": {"openai": {"base_url": self.sandbox.base_url, "api_key": "sandbox"}},
            "NAMESPACE": self._namespace,
            "JOURNAL": str(folder / "journal"),
            "TIERS": ["shared"],
            "LEASE": LEASE,
        }
        made = {"LLMCACHE_TEST_SETTINGS": json.dumps(shared, default=str), "LLMCACHE_TESTS_VAR": str(folder)}
        told = {name: json.dumps(value) for name, value in given.items()}
        return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **made, **told}

    def begin(self) -> None:
        """Let both make everything that they need."""
        for process in (self.behind, self.beside):
            process.do("hasten")
            found = process.tries("warm")
            assert found[1] in ("miss", "hit"), found
        self.beside.do("note_waits", folder=str(self._waits))

    def begin_test(self) -> None:
        """Begin with a text of its own, nobody at fault, and what was paid before put aside."""
        self.text = f"text {self._texts}"
        self._texts += 1
        self.sandbox.answers[self.text] = {"name": ANSWER}
        self.proxy.heal()
        self.proxy.met.clear()
        self.until_well()
        for mark in self._waits.iterdir():
            mark.unlink()
        self._received = len(self.sandbox.requests)
        self._before = self._counts()

    def end_test(self) -> None:
        """Let go of what the test has held."""
        self.proxy.heal()
        self.sandbox.release()
        for process in (self.behind, self.beside):
            process.settle()

    def until_well(self) -> None:
        """Wait until the process behind the proxy uses all that it has again."""
        until(lambda: not self.behind.do("left_alone"))

    def until_asked(self, count: int) -> None:
        """Wait until the provider has had so many requests of this test."""
        self.sandbox.wait_until_received(self._received + count, timeout=30)

    @property
    def asked(self) -> int:
        """How many requests of this test the provider has had."""
        return len(self.sandbox.requests) - self._received

    def until_waiting(self) -> None:
        """Wait until the process beside the proxy waits for another's lease."""
        until(lambda: list(self._waits.iterdir()))

    def _counts(self) -> tuple[set[str], dict[str, str]]:
        for process in (self.behind, self.beside):
            until(lambda process=process: process.do("flush"))
        found = self._rows()
        rows = {str(UUID(call_id)): outcome for call_id, outcome in found}
        assert len(rows) == len(found)
        return {str(UUID(charge["client_request_id"])) for charge in self.sandbox.charges()}, rows

    def assert_agree(self, answers: list[list[Any]], names: tuple[str, ...] = (ANSWER,)) -> int:
        """Return how many calls were paid, of which the provider, the ledger and the callers say the same.

        Nobody has failed, and everybody has one of these answers.
        """
        assert {name for name, *_ in answers} <= set(names), answers
        assert all(outcome in ("miss", "hit", "collapsed") for _, outcome, _ in answers), answers
        charged, rows = self._counts()
        charged -= self._before[0]
        new = {call_id: outcome for call_id, outcome in rows.items() if call_id not in self._before[1]}
        assert set(new) == charged
        assert set(new.values()) <= {"answered"}, new
        assert len(charged) == sum(attempts for *_, attempts in answers) == self.asked
        return len(charged)

    def assert_well(self) -> None:
        """Fail unless both are answered from the cache again."""
        self.until_well()
        for process in (self.behind, self.beside):
            assert process.tries(self.text)[1:] == ["hit", 0]

    def close(self) -> None:
        """End the processes."""
        for process in (self.behind, self.beside):
            process.close()


@contextlib.contextmanager
def project_over(*given: Any) -> Iterator[Project]:
    """Let two processes run, and end them."""
    made = Project(*given)
    try:
        made.begin()
        yield made
    finally:
        made.close()
