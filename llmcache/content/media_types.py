"""Of which media type bytes are: by how they begin, else by the name of their file.

The names' table is our own and not the system's: the type is in the key, and has to be the same on each machine.
"""

from __future__ import annotations

import re
from typing import Final

from django.views.decorators.debug import sensitive_variables

from llmcache.exceptions import InvalidRequest

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_TOLD_BY_BYTES: Final = frozenset({*(media_type for _, media_type in _BEGINNINGS), "image/webp"})
_PDF_HEAD: Final = 1_024
"""Within so many bytes a PDF begins: readers skip what comes before."""
_OFFICE: Final = "application/vnd.openxmlformats-officedocument."
_BY_SUFFIX: Final = {
    ".pdf": "application/pdf",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".xml": "application/xml",
    ".docx": f"{_OFFICE}wordprocessingml.document",
    ".xlsx": f"{_OFFICE}spreadsheetml.sheet",
    ".pptx": f"{_OFFICE}presentationml.presentation",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tiff": "image/tiff",
    ".heic": "image/heic",
    ".avif": "image/avif",
}
_SUFFIXES: Final = {media_type: suffix for suffix, media_type in reversed(_BY_SUFFIX.items())}
_FORM: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,100}")


@sensitive_variables()
def media_type_of(data: bytes, name: str, said: str | None, where: str) -> str:
    """Return the media type of bytes that were read from a file of this name, and are ``said`` to be of a type.

    Raises ``InvalidRequest`` where nothing tells it, or where what is said cannot be: a picture that is a page of an
    error in truth is better refused here than paid for. ``where`` names the part in errors.
    """
    begins = _by_beginning(data)
    if said is not None:
        said = "image/jpeg" if said.lower() == "image/jpg" else said.lower()
        if _FORM.fullmatch(said) is None:
            raise InvalidRequest(f"{where}: media_type= is none; write it as in 'image/png'.")
        if said in _TOLD_BY_BYTES and not _is(data, said):
            raise InvalidRequest(f"{where} is said to be {said}, and its bytes are {begins or 'something else'}.")
        return said
    if begins is not None:
        return begins
    named = _BY_SUFFIX.get(_suffix(name))
    if named is None:
        raise InvalidRequest(f"{where}: neither its bytes nor a file's name tell its media type. Pass media_type=.")
    if named in _TOLD_BY_BYTES and not _is(data, named):
        raise InvalidRequest(f"{where} is named as {named}, and its bytes are something else.")
    return named


def file_name(media_type: str) -> str:
    """Return the name of a file that has none, of which it tells the type alone."""
    return f"file{_SUFFIXES.get(media_type, '')}"


def _by_beginning(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for beginning, media_type in _BEGINNINGS if data.startswith(beginning)), None)


def _is(data: bytes, media_type: str) -> bool:
    return _by_beginning(data) == media_type or (media_type == "application/pdf" and b"%PDF-" in data[:_PDF_HEAD])


def _suffix(name: str) -> str:
    _, dot, after = name.rpartition(".")
    return (dot + after).lower()
