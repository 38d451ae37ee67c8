"""The three ways of llmcache to know or pass time, in one object, so that tests can move it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall time, monotonic time and sleep, all in seconds."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    simulated: bool = False
    """Whether the wall time is made up: rows that are recorded by it say so."""
