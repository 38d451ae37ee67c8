"""Which test a call belongs to, so that no test sees another's entries, journal lines or counts.

Under Django's test environment each test has a runtime of its own. A test is the value that the pytest plugin or
``IsolatedMixin`` set; without one, the innermost transaction that Django's ``TestCase`` opened (two tests of one class
share the outermost). What is neither is one test that lasts as long as the process.
"""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import shutil
import sys
import tempfile
import threading
import weakref
from functools import cache
from pathlib import Path
from typing import Any, Final

from django.conf import Settings, UserSettingsHolder, settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

_RUN: Final = secrets.token_hex(3)
"""Keeps two runs of tests apart in one store; forked children are of their parent's run."""

_numbers = itertools.count(1)
_told: int | None = None
_of_transaction: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_connections: weakref.WeakSet[BaseDatabaseWrapper] = weakref.WeakSet()
_lock = threading.Lock()


def in_tests() -> bool:
    """Return whether Django's ``setup_test_environment()`` is in force, or a test has begun without it."""
    if _told is not None:
        return True
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


def begin_test() -> None:
    """Let all calls from now on belong to a new test."""
    global _told
    _told = next(_numbers)


def has_begun() -> bool:
    """Return whether ``begin_test`` has begun a test that goes on."""
    return _told is not None


def is_in_a_test() -> bool:
    """Return whether calls belong to a test now, and not to all that is done outside of one."""
    return _told is not None or _number_of_transaction() != 0


def end_test() -> None:
    """End the test that ``begin_test`` began."""
    global _told
    _told = None


def current_test() -> str:
    """Return what names the running test: digits and small letters, unlike any other test's of any run."""
    number = _told if _told is not None else _number_of_transaction()
    return f"t{_RUN}{_worker()}x{number}"


def set_by_test(name: str, setting: str = "LLMCACHE") -> bool:
    """Return whether a test has overridden a key of a setting, so that its value is no longer the project's own."""
    holder: Any = settings._wrapped
    project = holder
    while isinstance(getattr(project, "default_settings", None), Settings | UserSettingsHolder):
        project = project.default_settings
    missing = object()
    given, own = (getattr(each, setting, {}).get(name, missing) for each in (holder, project))
    return given is not missing and given != own


def _worker() -> str:
    """Return which of several parallel processes of one run this is."""
    runner = sys.modules.get("django.test.runner")
    number = getattr(runner, "_worker_id", 0) or os.environ.get("PYTEST_XDIST_WORKER", "")
    return f"w{number}".lower() if number else ""


def _number_of_transaction() -> int:
    """Return the number of the innermost ``TestCase`` transaction; 0 outside of all."""
    # A thread that the test started, or the event loop's, has connections of its own, outside of that transaction: the
    # one that is open in another thread is the running test's all the same.
    found: dict[str, Any] = {}
    for connection in (*connections.all(initialized_only=True), *_connections.copy()):
        for atomic in reversed(connection.atomic_blocks):
            if getattr(atomic, "_from_testcase", False):
                found.setdefault(connection.alias, atomic)
                break
    # Of several databases always the same one, in whichever order they are found.
    return _numbered(found[min(found)]) if found else 0


def _numbered(atomic: Any) -> int:
    with _lock:
        number = _of_transaction.get(atomic)
        if number is None:
            number = _of_transaction[atomic] = next(_numbers)
        return number


def watch() -> None:
    """Know every connection that this process makes from now on."""
    connection_created.connect(_know, dispatch_uid="llmcache.engine.isolation")


def _know(connection: BaseDatabaseWrapper, **_: Any) -> None:
    _connections.add(connection)


def folder() -> Path:
    """Return the temporary folder in which this process's tests write; it goes when the process ends."""
    return _folder_of(os.getpid())


@cache
def _folder_of(pid: int) -> Path:
    made = Path(tempfile.mkdtemp(prefix="llmcache-test-"))

    def remove() -> None:
        # A forked child runs its parent's exit handlers too.
        if os.getpid() == pid:
            shutil.rmtree(made, ignore_errors=True)

    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        # The children of parallel test runners end without Python's exit handlers.
        Finalize(None, remove, exitpriority=1)
    else:
        atexit.register(remove)
    return made


def _reset_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_in_child)
