"""``Content``: the messages of a call in one form, whatever they were made of.

Of it are made the bytes that stand for it in a key, the messages as they are sent, and as they are kept. An image's
bytes are in the first as their digest, and in the last as their digest and size: it is in memory as its caller passed
it, and once more, in base64, while it is sent.
"""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from django.views.decorators.debug import sensitive_variables

from llmcache.keys import frame

_BEGINS: Final = b"\xff"
"""No text has this byte: between a text's key and a content's, nothing else need tell."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text among parts."""

    text: str = field(repr=False)

    def key(self) -> bytes:
        return b"t" + frame(self.text.encode())

    def sent(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}

    kept = sent


@dataclass(frozen=True, slots=True)
class Link:
    """An image that the provider opens itself: what is in the key is where it lies, and not what it shows."""

    url: str = field(repr=False)
    detail: str

    def key(self) -> bytes:
        return b"u" + frame(self.url.encode()) + frame(self.detail.encode())

    def sent(self) -> dict[str, Any]:
        return _image(self.url, self.detail)

    kept = sent


@dataclass(frozen=True, slots=True)
class FileId:
    """A file that the provider has already."""

    id: str = field(repr=False)

    def key(self) -> bytes:
        return b"d" + frame(self.id.encode())

    def sent(self) -> dict[str, Any]:
        return {"type": "file", "file": {"file_id": self.id}}

    kept = sent


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes of a media type; None where it is known of a request that was kept, which has no more than the digest."""

    media_type: str
    data: bytes | None = field(repr=False)
    digest: bytes = field(repr=False)
    size: int

    def key(self) -> bytes:
        return frame(self.media_type.encode()) + self.digest

    @sensitive_variables()
    def url(self) -> str:
        if self.data is None:
            raise AssertionError("What is known by its digest alone is not sent.")
        encoded = binascii.b2a_base64(self.data, newline=False)
        # Three of these side by side would be a multiple of the image.
        text = encoded.decode("ascii")
        del encoded
        return f"data:{self.media_type};base64,{text}"

    def stand_in(self) -> str:
        return f"data:{self.media_type};sha256={self.digest.hex()};size={self.size},"


def blob_of(media_type: str, data: bytes) -> Blob:
    """Return bytes with their digest."""
    return Blob(media_type, data, hashlib.sha256(data).digest(), len(data))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image whose bytes are sent."""

    blob: Blob
    detail: str

    def key(self) -> bytes:
        return b"i" + self.blob.key() + frame(self.detail.encode())

    def sent(self) -> dict[str, Any]:
        return _image(self.blob.url(), self.detail)

    def kept(self) -> dict[str, Any]:
        return _image(self.blob.stand_in(), self.detail)


@dataclass(frozen=True, slots=True)
class Document:
    """A file whose bytes are sent, under a name."""

    blob: Blob
    name: str = field(repr=False)

    def key(self) -> bytes:
        return b"f" + self.blob.key() + frame(self.name.encode())

    def sent(self) -> dict[str, Any]:
        return {"type": "file", "file": {"filename": self.name, "file_data": self.blob.url()}}

    def kept(self) -> dict[str, Any]:
        return {"type": "file", "file": {"filename": self.name, "file_data": self.blob.stand_in()}}


Part: TypeAlias = Text | Link | FileId | Picture | Document


def _image(url: str, detail: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}


@dataclass(frozen=True, slots=True)
class Message:
    """One message: a text, or parts."""

    role: str
    content: str | tuple[Part, ...] = field(repr=False)

    def key(self) -> bytes:
        role = frame(self.role.encode())
        if isinstance(self.content, str):
            return role + b"s" + frame(self.content.encode())
        return b"".join((role, b"p", _count(self.content), *(part.key() for part in self.content)))

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Text(self.content),) if isinstance(self.content, str) else self.content

    def sent(self) -> dict[str, Any]:
        told = self.content if isinstance(self.content, str) else [part.sent() for part in self.content]
        return {"role": self.role, "content": told}

    def kept(self) -> dict[str, Any]:
        told = self.content if isinstance(self.content, str) else [part.kept() for part in self.content]
        return {"role": self.role, "content": told}


class Content:
    """The messages of a call; two of them have the same ``key_bytes`` exactly when the same is sent of both."""

    __slots__ = ("_messages", "key_bytes")

    def __init__(self, messages: tuple[Message, ...]) -> None:
        self._messages = messages
        self.key_bytes = b"".join((_BEGINS, _count(messages), *(message.key() for message in messages)))

    def __repr__(self) -> str:
        return f"<Content of {len(self._messages)} messages>"

    @sensitive_variables()
    def messages(self) -> list[dict[str, Any]]:
        """Return the messages as chat completions takes them, made anew: images and files in base64 are large."""
        return [message.sent() for message in self._messages]

    @sensitive_variables()
    def kept(self) -> list[dict[str, Any]]:
        """Return the messages as they are kept beside an answer: of images and files the digest in the bytes' place."""
        return [message.kept() for message in self._messages]

    @property
    def text(self) -> str:
        """The text of the user's last message, without what lies between its parts."""
        last = next(message for message in reversed(self._messages) if message.role == "user")
        return "".join(part.text for part in last.parts if isinstance(part, Text))

    @property
    def is_text(self) -> bool:
        """Whether it is text and nothing else."""
        return all(isinstance(part, Text) for message in self._messages for part in message.parts)

    @property
    def has_bytes(self) -> bool:
        """Whether there are images or files in it whose bytes are sent, and not kept."""
        return any(isinstance(part, (Picture, Document)) for message in self._messages for part in message.parts)


def _count(of: tuple[object, ...]) -> bytes:
    return len(of).to_bytes(8, "little")
