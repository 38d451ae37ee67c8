"""Waiting for what is to come, and not for a time."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds; fail when it does not within a time that no busy machine needs."""
    last = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < last, "waited in vain"
        time.sleep(0.005)
