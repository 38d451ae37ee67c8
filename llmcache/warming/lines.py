"""The lines of a file or of standard input: one after the other, each within a bound, never the whole."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from llmcache.exceptions import InvalidRequest

STANDARD_INPUT: Final = "-"
_UTF_8: Final = b"\xef\xbb\xbf"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_AT_ONCE: Final = 2**16


@dataclass(frozen=True, slots=True)
class Source:
    """Where lines come from."""

    name: str
    """How errors call it."""
    stream: BinaryIO


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """Open an ordinary file, or standard input for ``-``. ``InvalidRequest`` says what is in the way."""
    if path == STANDARD_INPUT:
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # it is where a service has closed it
            raise InvalidRequest("Standard input is closed: name a file, or send one with <.")
        yield Source("standard input", sys.stdin.buffer)
        return
    try:
        # Not to wait for whoever might write into a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InvalidRequest(f"{path} does not exist.") from None
    except PermissionError:
        raise InvalidRequest(f"{path} may not be read by this user.") from None
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path!r} cannot be opened: {getattr(error, 'strerror', error)}.") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder: name a file in it" if stat.S_ISDIR(mode) else "no file: send what it gives to -"
        raise InvalidRequest(f"{path} is {what}.")
    with os.fdopen(descriptor, "rb") as stream:
        yield Source(path, stream)


def lines(source: Source, most: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the number and the bytes of each line, with its end; None for one of more than ``most`` bytes.

    A byte order mark of UTF-8 is left out; ``InvalidRequest`` for one of UTF-16, and where the file cannot be read on.
    """
    number, stream = 0, source.stream
    while True:
        try:
            line = stream.readline(most + 1)
            whole = len(line) <= most
            if not whole:
                _pass_over(stream, line)
        except OSError as error:
            raise InvalidRequest(f"{source.name}:{number + 1}: cannot be read on: {error.strerror}.") from None
        if not line:
            return
        number += 1
        if number == 1:
            line = _begun(source, line)
        yield number, line if whole else None


def _begun(source: Source, line: bytes) -> bytes:
    if line.startswith(_UTF_16):
        raise InvalidRequest(
            f"{source.name} is UTF-16, by its first two bytes, and must be UTF-8. Convert it: iconv -f UTF-16 -t UTF-8"
        )
    return line.removeprefix(_UTF_8)


def _pass_over(stream: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(_AT_ONCE)


def decoded(line: bytes) -> str:
    """Return a line's text; ``InvalidRequest`` where it is no UTF-8, or has a NUL."""
    if b"\0" in line:
        raise InvalidRequest("has NUL bytes, as UTF-16 has. Lines must be UTF-8.")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"is not UTF-8 at byte {error.start + 1} of the line. Convert the file to UTF-8."
        ) from None
