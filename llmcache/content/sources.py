"""The bytes of an image or a file: read once at the call, and never more of them than are allowed.

A str is never a path: what a user has typed would be read from the server's disk and sent away.
"""

from __future__ import annotations

import binascii
import os
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from django.views.decorators.debug import sensitive_variables

from llmcache.exceptions import InputTooLarge, InvalidRequest

_DATA_URL: Final = re.compile(r"data:([^,;]*);base64,", re.IGNORECASE)


class Bytes(NamedTuple):
    """What was read."""

    data: bytes
    name: str
    """Of the file that it was read from; empty where there is none."""
    said: str | None
    """The media type that a ``data:`` URL says it is of."""


@sensitive_variables()
def checked_address(url: str, where: str) -> str:
    """Return an address that a provider can open; ``InvalidRequest`` for any other."""
    try:
        parts = urlsplit(url)
        is_fit = parts.scheme == "https" and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        is_fit = False
    if not is_fit:
        raise InvalidRequest(
            f"{where}: a str must be an address that begins with https://, or a data: URL. Where it is a path, pass "
            "pathlib.Path(it)."
        )
    return url


@sensitive_variables()
def read(source: Any, most: int, where: str) -> Bytes:
    """Return the bytes of what ``is_source``. ``where`` names the part in errors.

    Raises ``InvalidRequest`` where it cannot be read or is empty, ``InputTooLarge`` for more than ``most`` bytes,
    which are not read then.
    """
    if isinstance(source, bytes):
        found = Bytes(source, "", None)
    elif isinstance(source, str):
        found = _of_data_url(source, most, where)
    else:
        found = _of_file(source, most, where)
    if len(found.data) > most:
        raise _too_large(most, where)
    if not found.data:
        raise InvalidRequest(f"{where} is empty: there is nothing to extract from.")
    return found


def _too_large(most: int, where: str) -> InputTooLarge:
    return InputTooLarge(
        f"{where} has more bytes than are left of LLMCACHE['MAX_FILE_BYTES'], which is for all images and files of a "
        f"call together: {most}. Make it smaller or raise that."
    )


@sensitive_variables()
def _of_data_url(url: str, most: int, where: str) -> Bytes:
    begins = _DATA_URL.match(url)
    if begins is None:
        raise InvalidRequest(f"{where} is a data: URL without base64 in it.")
    if len(url) - begins.end() > 4 * (most // 3 + 2):
        raise _too_large(most, where)
    try:
        data = binascii.a2b_base64(url[begins.end() :], strict_mode=True)
    except (ValueError, UnicodeError):
        raise InvalidRequest(f"{where} is a data: URL whose base64 is broken.") from None
    return Bytes(data, "", begins[1] or None)


@sensitive_variables()
def _of_file(source: Any, most: int, where: str) -> Bytes:
    try:
        if isinstance(source, os.PathLike):
            name, data = os.fspath(cast("Any", source)), _of_path(cast("Any", source), most)
        else:
            name, data = getattr(source, "name", None), _of_open(source, most)
        return Bytes(data, name if isinstance(name, str) else "", None)
    except _UnfitError as unfit:
        raise InvalidRequest(f"{where}: {unfit}") from None
    except Exception as error:  # noqa: BLE001  # a storage raises what it likes, and may name the file
        raise InvalidRequest(f"{where} cannot be read ({type(error).__name__}).") from None


class _UnfitError(Exception):
    """Says what is wrong with a file."""


@sensitive_variables()
def _of_path(path: os.PathLike[str], most: int) -> bytes:
    # A pipe would be waited for.
    if Path(path).exists() and not Path(path).is_file():
        raise _UnfitError("its path is not that of a file.")
    with Path(path).open("rb") as file:
        return file.read(most + 1)


@sensitive_variables()
def _of_open(file: Any, most: int) -> bytes:
    """Read a file from its start, and leave it as it was: closed, or where it stood.

    One thread at a time: the items of a batch may share a file, and it has one place where it stands.
    """
    with _turns.of(file):
        return _of_open_alone(file, most)


@dataclass(slots=True)
class _Turn:
    lock: threading.Lock = field(default_factory=threading.Lock)
    wanted: int = 0
    """By how many threads, with the one that has it."""


class _Turns:
    """One thread at a time for each file: one that does not answer holds up nobody who reads another."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget all turns; in a forked child, where those who held them are not."""
        self._lock = threading.Lock()
        # By identity, which is a file's own while somebody reads it.
        self._of: dict[int, _Turn] = {}

    @contextmanager
    def of(self, file: object) -> Generator[None]:
        with self._lock:
            turn = self._of.setdefault(id(file), _Turn())
            turn.wanted += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.wanted -= 1
                if not turn.wanted:
                    self._of.pop(id(file), None)


_turns: Final = _Turns()
os.register_at_fork(after_in_child=_turns.begin)


@sensitive_variables()
def _of_open_alone(file: Any, most: int) -> bytes:
    from django.core.files import File
    from django.db.models.fields.files import FieldFile

    if isinstance(file, FieldFile) and not file:
        raise _UnfitError("its field has no file.")
    if isinstance(file, File):
        was_closed = bool(file.closed)
        stood = 0 if was_closed else file.tell()
        file.open("rb") if was_closed else file.seek(0)
        try:
            return _bytes_of(cast("Any", file).read, most)
        finally:
            file.close() if was_closed else file.seek(stood)
    stood = file.tell()
    file.seek(0)
    try:
        return _bytes_of(file.read, most)
    finally:
        file.seek(stood)


@sensitive_variables()
def _bytes_of(read: Callable[[int], Any], most: int) -> bytes:
    pieces: list[bytes] = []
    left = most + 1
    # An unbuffered file gives less than it is asked for.
    while left > 0 and (piece := read(left)):
        if not isinstance(piece, bytes):
            raise _UnfitError("it gives no bytes. Open it for reading bytes, with 'rb'.")
        pieces.append(piece)
        left -= len(piece)
    # One piece is not copied.
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
