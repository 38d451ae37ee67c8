"""What became of the running test, as far as its runner knows it when a cassette ends."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Final, cast
from unittest import TestCase

_MARK: Final = "llmcache_has_failed"
_has_failed = False


def note(*, failed: bool) -> None:
    """Note, for pytest, that the running test has failed or was skipped; or that another one begins."""
    global _has_failed
    _has_failed = failed


def has_failed(case: TestCase | None) -> bool:
    """Return whether the running test has failed or was skipped; ``case``: the one of unittest that it is, if any."""
    outcome: Any = getattr(case, "_outcome", None)
    is_as_expected = getattr(outcome, "expectedFailure", None) is not None
    return _has_failed or is_as_expected or getattr(outcome, _MARK, False)


def watch(case: TestCase) -> None:
    """Have what becomes of a running test case be known in its clean-ups, which are told that all is well so far."""
    outcome: Any = getattr(case, "_outcome", None)
    if outcome is not None and not hasattr(outcome, _MARK):
        setattr(outcome, _MARK, not outcome.success)
        kind: Any = outcome.__class__
        outcome.__class__ = _watched(kind)


@cache
def _watched(kind: type[Any]) -> type[Any]:
    """Return a kind of outcome that remembers to have been no success."""

    def note_attribute(self: Any, name: str, value: Any) -> None:
        if name == "success" and not value:
            object.__setattr__(self, _MARK, True)
        object.__setattr__(self, name, value)

    return type(kind.__name__, (kind,), {"__setattr__": note_attribute})


def running_case() -> TestCase | None:
    """Return the test case of unittest whose method calls this, however far away; None where there is none."""
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        # By its type: a lazy object would be made by being asked what it is.
        if issubclass(type(found), TestCase):
            return cast("TestCase", found)
        frame = frame.f_back
    return None
