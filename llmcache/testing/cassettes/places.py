"""In which file a cassette lies: in ``cassettes/`` beside the test's own file."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from unittest import TestCase

from llmcache.testing.cassettes.errors import CassetteError

FOLDER: Final = "cassettes"
_MOST_CHARACTERS: Final = 120
"""Of a file's name: file systems take 255 bytes, and some archives and checkouts less."""
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.\-\[\]]+")


def named(name: str | os.PathLike[str], beside: Path) -> Path:
    """Return the file of a named cassette: relative to ``cassettes/`` beside the file ``beside``."""
    if not os.fspath(name):
        raise CassetteError("A cassette's name is empty: name it, or pass the TestCase.")
    path = beside.parent / FOLDER / name
    return path if path.suffix == ".json" else path.with_name(f"{path.name}.json")


def of_test(file: Path, names: Sequence[str]) -> Path:
    """Return the file of a test alone: ``cassettes/<module>/<Class.test>.json``."""
    return file.parent / FOLDER / _fit(file.stem) / f"{_fit('.'.join(names))}.json"


def of_case(case: TestCase) -> Path:
    """Return the file of a running test of ``unittest``; the same as pytest's of it."""
    cls = type(case)
    names = [*cls.__qualname__.rpartition("<locals>.")[2].split("."), case._testMethodName]
    return of_test(Path(inspect.getfile(cls)), names)


def shown(path: Path) -> str:
    """Return a path as it is read best: relative to the working directory where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _fit(name: str) -> str:
    """Return a name that every file system takes; two that differ stay two."""
    fit = _UNFIT.sub("-", name)
    if fit == name and len(fit) <= _MOST_CHARACTERS:
        return fit
    mark = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{fit[: _MOST_CHARACTERS - 9].strip('-')}-{mark}"
