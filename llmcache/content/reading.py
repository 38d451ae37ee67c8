"""From what a caller has passed as the content to a text, or to a ``Content``: checked, and files read, once.

Errors name the place as Python would (``content[2]['content'][0]``), and never what is there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final, TypeAlias, cast, get_args

from django.utils.functional import Promise
from django.views.decorators.debug import sensitive_variables

from llmcache.content.media_types import file_name, media_type_of
from llmcache.content.messages import (
    Blob,
    Content,
    Document,
    FileId,
    Link,
    Message,
    Part,
    Picture,
    Text,
    blob_of,
)
from llmcache.content.own import MAX_PARTS
from llmcache.content.parts import Detail, File, Image, is_address, is_file
from llmcache.content.sources import checked_address, read
from llmcache.exceptions import InputTooLarge, InvalidRequest, InvalidText, UnsupportedType
from llmcache.request import encode_text

AnyPart: TypeAlias = "str | Image | File | Mapping[str, object]"
AnyContent: TypeAlias = "str | Image | File | Sequence[AnyPart]"
"""A text; parts; or messages, which are dicts as parts may be."""

ROLES: Final = ("user", "assistant", "system", "developer")
_STAND_IN: Final = re.compile(r"data:([^,;]+);sha256=([0-9a-f]{64});size=([0-9]{1,18}),")


class Again:
    """What was read of a content, and is read again when it is asked: a batch does not hold all its items' files."""

    __slots__ = ("content", "digest")

    def __init__(self, content: object, was: Content) -> None:
        self.content = content
        self.digest = hashlib.sha256(was.key_bytes).digest()

    @sensitive_variables()
    def read(self, most_text: int, most_bytes: int) -> bytes | Content:
        """Return what it is now; ``InvalidRequest`` where that is not what it was."""
        made = encoded(self.content, most_text, most_bytes)
        if isinstance(made, bytes) or hashlib.sha256(made.key_bytes).digest() != self.digest:
            raise InvalidRequest(
                "A file of this item, or of one that was equal to it, has changed since the batch looked at it. "
                "Extract from it again."
            )
        return made


@sensitive_variables()
def encoded(content: object, most_text: int, most_bytes: int) -> bytes | Content:
    """Return the bytes of a text, or what stands for parts or messages.

    What is sent as one text is one text, also where it came in a list. Files are read here: it may take its time.
    Raises ``InvalidRequest`` (``UnsupportedType``, ``InvalidText``, ``InputTooLarge``) for what is neither.
    """
    if isinstance(content, Content):
        return content
    if isinstance(content, Again):
        return content.read(most_text, most_bytes)
    if isinstance(content, (str, Promise)):
        return encode_text(content, most_text)
    if isinstance(content, (Image, File)):
        content = (content,)
    if not isinstance(content, (list, tuple)):
        raise _unsupported(content)
    messages = _Reader(most_text, most_bytes).messages(cast("Sequence[object]", content))
    only = messages[0].content if len(messages) == 1 else None
    return only.encode() if isinstance(only, str) else Content(messages)


@sensitive_variables()
def of_kept(messages: list[Any], most_text: int) -> str | Content:
    """Return the content that ``Call.kept`` gave these messages of: of images and files, no more than their digests.

    Raises ``InvalidRequest`` for what is no such list.
    """
    if not all(map(_is_message, messages)):
        raise InvalidRequest("A request that was kept has what is no message.")
    made = _Reader(most_text, 0, takes_stand_ins=True).messages(messages)
    only = made[0].content if len(made) == 1 else None
    return only if isinstance(only, str) else Content(made)


@sensitive_variables()
def _unsupported(content: object) -> UnsupportedType:
    from django.db.models import Model

    hint = ""
    if isinstance(content, (bytes, bytearray, memoryview)):
        hint = " Decode what is a text: content.decode(). Wrap what is none: llmcache.Image(content)."
    elif isinstance(content, Mapping):
        hint = " Pass a message in a list."
    elif isinstance(content, Model):
        hint = " Pass its text; to a batch of rows say where that is: content='body'."
    elif is_file(content):
        hint = " Wrap it in llmcache.Image() or llmcache.File()."
    return UnsupportedType(
        f"content= must be a str, or a list of parts or of messages, not {type(content).__name__}.{hint}"
    )


class _Reader:
    """Reads one content, whose parts share its limits."""

    def __init__(self, most_text: int, most_bytes: int, *, takes_stand_ins: bool = False) -> None:
        self._most_text = most_text
        self._text_bytes = 0
        self._bytes_left = most_bytes
        self._counted = 0
        self._takes_stand_ins = takes_stand_ins

    @sensitive_variables()
    def messages(self, content: Sequence[object]) -> tuple[Message, ...]:
        if not content:
            raise InvalidText("content= is empty: there is nothing to extract from.")
        self._count(len(content))
        are_messages = [_is_message(each) for each in content]
        if not any(are_messages):
            return (Message("user", self._parts(content, "content")),)
        if not all(are_messages):
            raise InvalidRequest(
                f"content= mixes messages and parts: content[{are_messages.index(True)}] is a message, and "
                f"content[{are_messages.index(False)}] is none. Put the parts into a message."
            )
        # Not by a comprehension: its frame would show each of them on a page of errors.
        made = tuple(map(self._message, cast("Sequence[Mapping[object, object]]", content), count()))
        if all(message.role != "user" for message in made):
            raise InvalidRequest("content= has no message of the role 'user'.")
        return made

    @sensitive_variables()
    def _message(self, told: Mapping[object, object], at: int) -> Message:
        where, role = f"content[{at}]", told["role"]
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidRequest(f"{where} must have one of the roles {', '.join(map(repr, ROLES))}.")
        if "tool_calls" in told or "function_call" in told:
            raise InvalidRequest(f"{where} has calls of tools, which llmcache does not take. Leave such messages out.")
        if set(told) != {"role", "content"}:
            raise InvalidRequest(f"{where} must have 'role' and 'content', and nothing else.")
        content, where = told["content"], f"{where}['content']"
        if not isinstance(content, (list, tuple)):
            return Message(role, self._text(content, where))
        parts = cast("Sequence[object]", content)
        if not parts:
            raise InvalidText(f"{where} is empty: a message says something.")
        self._count(len(parts))
        made = self._parts(parts, where)
        if role != "user" and not isinstance(made, str) and not all(isinstance(part, Text) for part in made):
            raise InvalidRequest(f"{where} has images or files. They can be in messages of the role 'user' alone.")
        return Message(role, made)

    @sensitive_variables()
    def _parts(self, parts: Sequence[object], where: str) -> str | tuple[Part, ...]:
        """Return parts; the text itself of what is one text."""
        made = tuple(map(self._part, parts, (f"{where}[{at}]" for at in count())))
        return made[0].text if len(made) == 1 and isinstance(made[0], Text) else made

    @sensitive_variables()
    def _part(self, part: object, where: str) -> Part:
        if isinstance(part, Image):
            return self._image(part, where)
        if isinstance(part, File):
            return self._file(part, where)
        if isinstance(part, Mapping):
            return self._told(cast("Mapping[object, object]", part), where)
        return Text(self._text(part, where))

    @sensitive_variables()
    def _told(self, told: Mapping[object, object], where: str) -> Part:
        """Return what a part as OpenAI's API has it means."""
        match told.get("type"):
            case "text" if set(told) == {"type", "text"}:
                return Text(self._text(told["text"], f"{where}['text']"))
            case "image_url" if set(told) == {"type", "image_url"}:
                return self._told_image(_fields(told["image_url"]), where)
            case "file" if set(told) == {"type", "file"}:
                return self._told_file(_fields(told["file"]), where)
            case _:
                raise InvalidRequest(
                    f"{where} is a dict, and neither a message nor a part that llmcache takes: those have 'type' and "
                    "'text', 'image_url' or 'file' after it, and nothing else."
                )

    @sensitive_variables()
    def _told_image(self, told: Mapping[str, object], where: str) -> Part:
        url, detail = told.get("url"), told.get("detail")
        if not set(told) <= {"url", "detail"} or not isinstance(url, str) or detail not in (None, *get_args(Detail)):
            raise InvalidRequest(
                f"{where}['image_url'] must have a 'url', and may have a 'detail' of "
                f"{', '.join(map(repr, get_args(Detail)))}."
            )
        stand_in = self._stand_in(url)
        if stand_in is not None:
            return Picture(stand_in, cast("str | None", detail) or "")
        return self._image(Image(url, detail=cast("Detail | None", detail)), where)

    @sensitive_variables()
    def _told_file(self, told: Mapping[str, object], where: str) -> Part:
        if set(told) == {"file_id"} and isinstance(told["file_id"], str):
            return FileId(self._text(told["file_id"], f"{where}['file']['file_id']"))
        data, name = told.get("file_data"), told.get("filename")
        if not set(told) <= {"file_data", "filename"} or not isinstance(data, str) or not _is_word(name):
            raise InvalidRequest(
                f"{where}['file'] must have a 'file_id', or 'file_data' with a data: URL and perhaps a 'filename'."
            )
        stand_in = self._stand_in(data)
        if stand_in is not None:
            return Document(stand_in, cast("str | None", name) or file_name(stand_in.media_type))
        return self._file(File(data, name=cast("str | None", name)), where)

    def _stand_in(self, url: str) -> Blob | None:
        found = _STAND_IN.fullmatch(url) if self._takes_stand_ins else None
        return None if found is None else Blob(found[1], None, bytes.fromhex(found[2]), int(found[3]))

    @sensitive_variables()
    def _image(self, image: Image, where: str) -> Part:
        detail = image.detail or ""
        if is_address(image.source):
            if image.media_type is not None:
                raise InvalidRequest(f"{where}: media_type= goes with bytes, and not with an address.")
            return Link(checked_address(self._text(image.source, where), where), detail)
        blob = self._blob(image, "", where)
        if not blob.media_type.startswith("image/"):
            raise InvalidRequest(f"{where} is an llmcache.Image() of {blob.media_type}. Pass it as an llmcache.File().")
        return Picture(blob, detail)

    @sensitive_variables()
    def _file(self, file: File, where: str) -> Part:
        if is_address(file.source):
            raise InvalidRequest(
                f"{where}: an llmcache.File() takes no address, for providers open those of images alone. Pass its "
                "bytes; or pathlib.Path(it), where the str is a path."
            )
        blob = self._blob(file, file.name or "", where)
        return Document(blob, file.name or file_name(blob.media_type))

    @sensitive_variables()
    def _blob(self, part: Image | File, name: str, where: str) -> Blob:
        found = read(part.source, self._bytes_left, where)
        self._bytes_left -= len(found.data)
        return blob_of(media_type_of(found.data, name or found.name, part.media_type or found.said, where), found.data)

    @sensitive_variables()
    def _text(self, value: object, where: str) -> str:
        if isinstance(value, Promise):
            value = str(value)
        if not isinstance(value, str):
            raise _no_part(value, where)
        text = str.__str__(value)
        if not text:
            raise InvalidText(f"{where} is empty: leave it out.")
        try:
            self._text_bytes += len(text.encode()) if len(text) <= self._most_text else len(text)
        except UnicodeEncodeError as error:
            at = error.start
            raise InvalidText(
                f"{where} has a lone surrogate at character {at}, which UTF-8 cannot express. "
                "Decode the source with errors='replace', or mend it."
            ) from None
        if self._text_bytes > self._most_text:
            raise InputTooLarge(
                f"The texts of content= have more than {self._most_text} bytes together, which is what "
                "LLMCACHE['MAX_TEXT_BYTES'] allows. Split them or raise that."
            )
        return text

    def _count(self, more: int) -> None:
        self._counted += more
        if self._counted > MAX_PARTS:
            raise InputTooLarge(f"content= has more than {MAX_PARTS} messages and parts.")


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and "role" in value


def _fields(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _is_word(name: object) -> bool:
    return name is None or (isinstance(name, str) and bool(name))


@sensitive_variables()
def _no_part(value: object, where: str) -> UnsupportedType:
    hint = ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        hint = " Wrap it in llmcache.Image() or llmcache.File(), or decode it."
    elif isinstance(value, (Image, File)):
        hint = " Put it into a list."
    elif isinstance(value, (list, tuple)):
        hint = " Lists are not nested."
    return UnsupportedType(
        f"{where} must be a str, an llmcache.Image() or an llmcache.File(), not {type(value).__name__}.{hint}"
    )
