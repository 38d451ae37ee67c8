"""Cassettes as tests use them: a ``with`` block, a decorator, or a fixture.

A cassette stands where a provider's body goes out and its reply comes in. Keys, cache, flights, retries, validation,
journal and prices are the real ones, and what is played is told to them as it was the first time.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from unittest import TestCase

from llmcache.engine import departures, isolation
from llmcache.testing.cassettes import interactions, merging, modes, outcomes, places
from llmcache.testing.cassettes.cleaning import Clean
from llmcache.testing.cassettes.errors import CassetteError, NotRecorded, UnusedInteractions
from llmcache.testing.cassettes.tape import Tape
from llmcache.testing.finishing import finish_refreshes

_Function = TypeVar("_Function", bound=Callable[..., Any])
_SHOWN: Final = 10


def cassette(
    name: str | os.PathLike[str] | TestCase,
    *,
    record: str | None = None,
    shared: bool = False,
    strict: bool = False,
    redact: Clean | None = None,
) -> Cassette:
    """Return a cassette, to be used in a ``with`` block, by ``TestCase.enterContext``, or as a function's decorator.

    ``name``: a file in ``cassettes/`` beside the file of who calls this, or any absolute path; or a running
    ``TestCase``, whose test gets a file of its own. ``record``: ``"none"``, ``"new"`` or ``"all"``; None: what
    ``--llmcache-record`` or the variable ``LLMCACHE_RECORD`` says, else ``"none"``. ``shared``: other tests use the
    file too: nothing of it is dropped, or reported as unused. ``strict``: what nothing asks for fails the test, where
    it is a warning otherwise. ``redact``: returns a text as it may be recorded; it is given each string of requests
    and answers, and requests are compared as it leaves them.
    """
    if isinstance(name, TestCase):
        path = places.of_case(name)
    else:
        caller = cast("Any", inspect.currentframe()).f_back
        path = places.named(name, Path(caller.f_code.co_filename))
    return Cassette(path, record=record, shared=shared, strict=strict, redact=redact)


class Cassette:
    """What ``cassette()`` returns; see there."""

    def __init__(
        self,
        path: Path,
        *,
        record: str | None = None,
        shared: bool = False,
        strict: bool = False,
        redact: Clean | None = None,
    ) -> None:
        if shared and strict:
            raise CassetteError("A cassette that is shared cannot be strict: what is unused here, another test uses.")
        self.path = path
        """Its file."""
        self._record, self._shared, self._strict, self._redact = record, shared, strict, redact
        self._mode: modes.Mode = "none"
        self._tape: Tape | None = None
        self._case: TestCase | None = None
        self._replaced = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._tape is not None:
            raise CassetteError("This cassette is in use already: make another one.")
        if not isolation.in_tests():
            raise CassetteError(
                "A cassette works under Django's test environment only: elsewhere what it plays would be kept in the "
                "project's own cache. Call django.test.utils.setup_test_environment() first."
            )
        if not isolation.is_in_a_test():
            raise CassetteError(
                "This test shares its cache with others, so that what it asks for depends on their order. Put "
                "llmcache.testing.IsolatedMixin before the class; with pytest, use cassettes in tests and in fixtures "
                "of scope 'function'."
            )
        self._mode = modes.mode_of(self._record)
        self._case = outcomes.running_case()
        if self._case is not None:
            outcomes.watch(self._case)
        self._tape = Tape(self.path, self._mode, interactions.read(self.path), self._redact)
        self._replaced.enter_context(departures.replaced_by(self._tape))
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Entered by a fixture or by enterContext() it is told of no error.
        self.close(failed=error_type is not None or outcomes.has_failed(self._case))

    def close(self, *, failed: bool = False) -> None:
        """End its block; ``failed``: the test has failed, which says more than what was not recorded or used."""
        tape = self._tape
        if tape is None:
            return
        # What is asked for in the background is this test's too.
        finish_refreshes()
        self._replaced.close()
        self._tape = None
        if self._mode != "none":
            self._write(tape, failed)
        if failed:
            return
        if tape.complaints:
            # Once more, for the code under test may have caught it.
            raise NotRecorded(tape.complaints[0])
        if self._mode != "all" and not self._shared:
            self._report(tape.unused())

    def _write(self, tape: Tape, failed: bool) -> None:
        recorded = tape.recorded()
        drops = self._mode == "all" and not (failed or self._shared or tape.complaints)
        if not recorded and not (drops and tape.loaded):
            return
        with interactions.locked(self.path):
            there = interactions.read(self.path)
            if self._mode == "new":
                made = merging.appended(there, tape.loaded, recorded)
            else:
                made = merging.replaced(there, tape.loaded, recorded, drops=drops)
            if made != there:
                interactions.write(self.path, made)

    def _report(self, unused: list[int]) -> None:
        if not unused:
            return
        numbers = ", ".join(map(str, unused[:_SHOWN])) + (" and more" if len(unused) > _SHOWN else "")
        message = (
            f"Nothing asked for interaction {numbers} of the cassette {places.shown(self.path)}. Delete what is out of "
            "date, or record anew with --llmcache-record=all (without pytest: LLMCACHE_RECORD=all)."
        )
        if self._strict:
            raise AssertionError(message)
        warnings.warn(message, UnusedInteractions, stacklevel=4)

    def __call__(self, function: _Function) -> _Function:
        """Return a function, or coroutine function, each of whose runs is in a block of its own."""
        if inspect.isclass(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                "A cassette decorates functions and coroutine functions. For each test of a class, write "
                "self.enterContext(cassette(self)) into setUp."
            )
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self._another():
                    return await function(*args, **kwargs)

            return cast("_Function", awaited)

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self._another():
                return function(*args, **kwargs)

        return cast("_Function", called)

    def _another(self) -> Cassette:
        return Cassette(self.path, record=self._record, shared=self._shared, strict=self._strict, redact=self._redact)
