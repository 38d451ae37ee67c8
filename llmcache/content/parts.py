"""The parts of a content that are no text, as callers make them."""

from __future__ import annotations

import os
from typing import Any, Final, Literal, cast, get_args

from llmcache.exceptions import InvalidRequest, UnsupportedType

Detail = Literal["low", "high", "auto", "original"]
"""How closely a model looks at an image."""

_MAX_NAME: Final = 255


def is_source(value: object) -> bool:
    """Return whether bytes may be read from it."""
    return isinstance(value, (bytes, str, os.PathLike)) or is_file(value)


def is_file(value: object) -> bool:
    """Return whether it is a file that can be open; nothing is opened."""
    # A model's file opens itself when it is asked for its method; others have none before they are made.
    return hasattr(type(value), "read") or callable(getattr(value, "read", None))


def is_address(source: object) -> bool:
    """Return whether it is a str that holds no bytes itself."""
    return isinstance(source, str) and source[:5].lower() != "data:"


class _Part:
    """What images and files have in common. Nothing is read here, where an event loop may be held up."""

    __slots__ = ("media_type", "source")

    def __init__(self, source: Any, media_type: str | None) -> None:
        if isinstance(source, (bytearray, memoryview)):
            # Whoever lent it may write into it again.
            source = bytes(cast("bytes", source))
        name = f"llmcache.{type(self).__name__}()"
        if not is_source(source):
            raise UnsupportedType(
                f"{name} takes bytes, a pathlib.Path, a file that is open for reading bytes (a model's, a form's, "
                f"any), or an address as str; not {type(source).__name__}."
            )
        if media_type is not None and not isinstance(cast("object", media_type), str):
            raise UnsupportedType(f"{name} takes media_type= as a str, not {type(media_type).__name__}.")
        self.source = source
        self.media_type = media_type

    def __repr__(self) -> str:
        # Names and addresses are the user's own.
        return f"<{type(self).__name__} of {type(self.source).__name__}>"


class Image(_Part):
    """An image among the parts of a content.

    ``source``: bytes, a ``pathlib.Path``, a file that is open for reading bytes (a model's, a form's, any; it is read
    from its start, and left as it was), or a str: an address that begins with ``https://``, which the provider opens,
    or a ``data:`` URL. ``detail``: how closely the model looks. ``media_type``: needed where neither the bytes nor the
    file's name tell it.
    """

    __slots__ = ("detail",)

    def __init__(self, source: Any, *, detail: Detail | None = None, media_type: str | None = None) -> None:
        super().__init__(source, media_type)
        if detail is not None and detail not in get_args(Detail):
            raise InvalidRequest(f"detail= must be one of {', '.join(map(repr, get_args(Detail)))}, or None.")
        self.detail = detail


class File(_Part):
    """A file among the parts of a content, a PDF say.

    ``source``: as for ``Image``, but for the ``https://`` address. ``name``: what the model is told of its name;
    without it that tells no more than the type, so that a file is the same under whatever name it was uploaded.
    ``media_type``: needed where neither the bytes nor the file's name tell it.
    """

    __slots__ = ("name",)

    def __init__(self, source: Any, *, name: str | None = None, media_type: str | None = None) -> None:
        super().__init__(source, media_type)
        told: object = name
        if told is not None and not (isinstance(told, str) and 0 < len(told) <= _MAX_NAME and told.isprintable()):
            raise InvalidRequest(f"name= must be a str of 1 to {_MAX_NAME} printable characters, or None.")
        self.name = name
