"""A diagnosis: what is configured, what answers and how fast, and what to do about what does not.

Each probe looks at one thing, in a thread of its own, and is waited for only so long: what hangs is told as that, and
holds up nothing else. Nothing is paid for, and nothing is left behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from django.db import connections

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

DEADLINE_SECONDS: Final = 3.0
"""How long all probes together are waited for."""

State = Literal["ok", "note", "wrong"]
"""``note``: it works, and there is something to know; ``wrong``: something has to be done."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    told: str
    """What was found, in one sentence, without a secret or anybody's text."""
    todo: str = ""
    milliseconds: float | None = None
    """How long it took to answer; None where nothing was asked."""


Probe = Callable[["Runtime"], Iterator[Finding]]


def diagnose(now: Runtime, *, celery: bool = False) -> list[Finding]:
    """Return what was found, in the order of the probes. Takes ``DEADLINE_SECONDS`` at most, whatever is down."""
    until = time.monotonic() + DEADLINE_SECONDS
    looks = [_Look(what, probe, now) for what, probe in _probes(now, celery=celery).items()]
    return [finding for look in looks for finding in look.found(until)]


def _probes(now: Runtime, *, celery: bool) -> Mapping[str, Probe]:
    from llmcache.diagnosis import ledger, outside, stores

    return {
        "settings": outside.settings,
        "clock": outside.clock,
        **stores.probes(now),
        "leases": stores.leases,
        "database": ledger.database,
        "invalidation log": ledger.log,
        "journal": ledger.journal,
        **outside.providers(now),
        **({"celery": outside.celery} if celery else {}),
    }


class _Look:
    """A probe in a thread of its own."""

    def __init__(self, what: str, probe: Probe, now: Runtime) -> None:
        self._what = what
        self._probe = probe
        self._now = now
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._run, name="llmcache-diagnosis", daemon=True)
        self._thread.start()

    def found(self, until: float) -> list[Finding]:
        """Return what was found by then, on the monotonic clock."""
        self._thread.join(max(until - time.monotonic(), 0.0))
        hangs = self._thread.is_alive()
        found = self._found[:]
        if hangs:
            told = f"does not answer within {DEADLINE_SECONDS:g} s"
            found.append(Finding(self._what, "wrong", told, "Look whether it runs, and what lies between."))
        return found

    def _run(self) -> None:
        try:
            for finding in self._probe(self._now):
                self._found.append(finding)
        except Exception as error:  # noqa: BLE001  # of whatever library: that is what was found
            told = f"cannot be looked at: {type(error).__name__}"
            self._found.append(Finding(self._what, "wrong", told, "Look at what the settings say of it."))
        finally:
            connections.close_all()


def timed(began: float) -> float:
    """Return the milliseconds since a moment on the monotonic clock."""
    return round((time.monotonic() - began) * 1_000, 1)
