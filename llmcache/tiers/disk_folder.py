"""The folder of a cache file: made where there is none, refused when it is not ours, locked while files change."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from llmcache.exceptions import ConfigurationError

# Others hold the lock for milliseconds, unless they are stopped meanwhile.
_WAIT_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.002


def writable(folder: Path) -> bool:
    """Return whether a folder can be written, or made where it does not exist yet."""
    try:
        place = next(place for place in (folder, *folder.parents) if place.exists())
        return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except (OSError, StopIteration):
        return False


def can_be_used(folder: Path) -> bool:
    """Return whether a folder can be written, or holds something already that can perhaps be read."""
    try:
        return writable(folder) or any(folder.iterdir())
    except OSError:
        return False


@contextmanager
def locked(folder: Path, *, exclusive: bool) -> Generator[None]:
    """Hold the lock of a folder, shared or exclusive, against threads and processes alike.

    Raises ``ConfigurationError`` when the folder belongs to another user, ``TimeoutError`` when the lock is not free
    within a second, and what other ``OSError`` stands in the way.
    """
    descriptor = _open(folder)
    try:
        _lock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The folder itself is locked: that needs no file, and so works in one that can only be read.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    owner = os.fstat(descriptor).st_uid
    if owner == os.geteuid():
        return descriptor
    os.close(descriptor)
    raise ConfigurationError(
        f"The cache folder {folder} belongs to another user (uid {owner}), who could put answers into it. "
        "Set LLMCACHE['DISK_PATH'], or LOCATION of the DiskCache in CACHES, to a folder of your own."
    )


def _lock(descriptor: int, kind: int) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("another process has locked the cache folder") from None
        time.sleep(_POLL_SECONDS)
