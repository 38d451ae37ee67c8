"""Secrets of this clone, each in a file that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def kept_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in a file; the first time it is made."""
    if not path.exists():
        # Written aside and renamed, so that another process starting now never reads a half-written one.
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(make())
        draft.replace(path)
    return path.read_text()
