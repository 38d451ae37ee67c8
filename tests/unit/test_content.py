"""Parts and messages: what is read of what callers pass, what of it is in the key, and what is refused."""

import base64
import hashlib
import io
import os
import time
import tracemalloc
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile, File
from django.core.files.storage import FileSystemStorage
from django.core.files.uploadedfile import InMemoryUploadedFile, TemporaryUploadedFile
from django.db.models.fields.files import FieldFile, FileField
from django.utils.translation import gettext_lazy
from hypothesis import given, settings
from hypothesis import strategies as st

import llmcache
from llmcache.content.messages import Content
from llmcache.content.own import MAX_PARTS, own_content
from llmcache.content.reading import encoded, of_kept
from llmcache.models import CacheEntry

PNG = b"\x89PNG\r\n\x1a\n"
PDF = b"%PDF-1.7\n"
OFFICE = "application/vnd.openxmlformats-officedocument."
MOST = 1_000


def read(content: Any, most_text: int = MOST, most_bytes: int = MOST) -> bytes | Content:
    return encoded(content, most_text, most_bytes)


def key_of(content: Any) -> bytes:
    made = read(content)
    return made if isinstance(made, bytes) else made.key_bytes


def sent(content: Any) -> list[dict[str, Any]]:
    made = read(content)
    return [{"role": "user", "content": made.decode()}] if isinstance(made, bytes) else made.messages()


def part(content: Any) -> dict[str, Any]:
    """Return what is sent of one part that is no text."""
    (message,) = sent(content)
    (only,) = message["content"]
    return only


def url_of(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


# -- what is sent


def test_parts_are_one_message_of_the_user() -> None:
    found = sent(["Read this:", llmcache.Image(PNG, detail="high"), llmcache.File(PDF, name="bill.pdf")])
    assert found == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Read this:"},
                {"type": "image_url", "image_url": {"url": url_of("image/png", PNG), "detail": "high"}},
                {"type": "file", "file": {"filename": "bill.pdf", "file_data": url_of("application/pdf", PDF)}},
            ],
        }
    ]


def test_messages_are_sent_as_they_are() -> None:
    given = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": ["What is it?", llmcache.Image("https://example.com/a.png")]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-7"}}]},
    ]
    link = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert sent(given) == [
        given[0],
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, link]},
        given[2],
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-7"}}]},
    ]


@pytest.mark.parametrize(
    "content",
    [
        ["Ada"],
        ("Ada",),
        [{"type": "text", "text": "Ada"}],
        [{"role": "user", "content": "Ada"}],
        [{"role": "user", "content": ["Ada"]}],
        [gettext_lazy("Ada")],
    ],
    ids=["list", "tuple", "part", "message", "message of a part", "lazy"],
)
def test_what_is_one_text_is_that_text(content: Any) -> None:
    assert read(content) == b"Ada"


def test_an_image_alone_needs_no_list() -> None:
    assert key_of(llmcache.Image(PNG)) == key_of([llmcache.Image(PNG)])


# -- the key


def test_the_bytes_in_keys_stay_what_they_are() -> None:
    """They decide what users pay for again: whoever changes them changes all keys of such calls."""
    content = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                "What is it?",
                llmcache.Image(PNG, detail="low"),
                llmcache.Image("https://example.com/a.png"),
                llmcache.File(PDF),
                {"type": "file", "file": {"file_id": "file-7"}},
            ],
        },
    ]
    assert hashlib.sha256(key_of(content)).hexdigest() == GOLDEN


GOLDEN = "fa0dfbdd25e8d4aedf50da86c7447c97130900ef216519ad0d94dade28d5a84e"

TEXTS = st.sampled_from(["a", "b", "ab", "ba", "user", "\x00", "t\x01"])
DATA = st.sampled_from([b"", b"a", b"b", b"ab"])
DETAILS = st.sampled_from([None, "low", "auto"])
NAMES = st.sampled_from([None, "a", "ab", "file.pdf"])


def _texts(text: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([text, {"type": "text", "text": text}])


@st.composite
def _images(draw: st.DrawFn) -> Any:
    data, detail = PNG + draw(DATA), draw(DETAILS)
    url = url_of("image/png", data)
    told = {"url": url} if detail is None else {"url": url, "detail": detail}
    return draw(
        st.sampled_from(
            [
                llmcache.Image(data, detail=detail),
                llmcache.Image(url, detail=detail),
                llmcache.Image(io.BytesIO(data), detail=detail),
                {"type": "image_url", "image_url": told},
                llmcache.Image(f"https://example.com/{data[8:].decode()}", detail=detail),
                llmcache.Image(data, detail=detail, media_type="image/x-own"),
            ]
        )
    )


@st.composite
def _files(draw: st.DrawFn) -> Any:
    data, name = PDF + draw(DATA), draw(NAMES)
    url = url_of("application/pdf", data)
    told = {"file_data": url} if name is None else {"file_data": url, "filename": name}
    return draw(
        st.sampled_from(
            [
                llmcache.File(data, name=name),
                llmcache.File(ContentFile(data, "x.pdf"), name=name),
                {"type": "file", "file": told},
                llmcache.File(data, name=name, media_type="text/plain"),
                {"type": "file", "file": {"file_id": data[9:].decode() or "0"}},
            ]
        )
    )


PARTS = st.lists(TEXTS.flatmap(_texts) | _images() | _files(), min_size=1, max_size=3)


@st.composite
def _messages(draw: st.DrawFn) -> Any:
    others = st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "assistant"]), "content": TEXTS | st.lists(TEXTS, min_size=1, max_size=2)}
    )
    users = st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS | PARTS})
    made = draw(st.lists(users | others, max_size=2))
    return [*made, draw(users)]


CONTENTS = TEXTS | PARTS | _messages()


@settings(max_examples=400, deadline=None)
@given(CONTENTS, CONTENTS)
def test_two_contents_have_one_key_exactly_when_the_same_is_sent(one: Any, other: Any) -> None:
    assert (key_of(one) == key_of(other)) == (sent(one) == sent(other))


@settings(max_examples=200, deadline=None)
@given(CONTENTS)
def test_what_is_kept_has_the_same_key_and_none_of_the_bytes(content: Any) -> None:
    made = read(content)
    if isinstance(made, bytes):
        return
    kept = made.kept()
    again = of_kept(kept, MOST)
    assert isinstance(again, Content)
    assert (again.key_bytes, again.kept()) == (made.key_bytes, kept)
    assert "base64" not in str(kept)
    assert again.has_bytes == made.has_bytes == ("sha256=" in str(kept))


def test_texts_do_not_run_together() -> None:
    assert len({key_of(each) for each in (["A", "B"], ["AB", "C"], ["A", "BC"], ["B", "A"], "AB")}) == 5


# -- where bytes come from


class Endless(io.RawIOBase):
    """Gives zeros for ever, and counts them."""

    def __init__(self) -> None:
        self.given = 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def readinto(self, buffer: Any) -> int:
        self.given += len(buffer)
        return len(buffer)


class Passing(io.RawIOBase):
    """Goes by once, as what a socket brings does."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise AssertionError("What it gives is lost for the next call.")


class Sparing(io.RawIOBase):
    """Gives one byte at a time, as a socket or a pipe may."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(1)
        time.sleep(0)  # another thread's turn
        buffer[: len(piece)] = piece
        return len(piece)


IMAGE = PNG + b"\x00\x01\xfe"


def _temporary_upload() -> TemporaryUploadedFile:
    upload = TemporaryUploadedFile("me.png", "image/png", len(IMAGE), None)
    upload.write(IMAGE)
    return upload


SOURCES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda _: IMAGE,
    "bytearray": lambda _: bytearray(IMAGE),
    "memoryview": lambda _: memoryview(b"ab" + IMAGE)[2:],
    "data URL": lambda _: url_of("image/png", IMAGE),
    "data URL in capitals": lambda _: f"DATA:Image/PNG;BASE64,{base64.b64encode(IMAGE).decode()}",
    "path": lambda path: path,
    "BytesIO": lambda _: io.BytesIO(IMAGE),
    "unbuffered": lambda path: path.open("rb", buffering=0),
    "one byte at a time": lambda _: Sparing(IMAGE),
    "Django's file": lambda path: File(path.open("rb")),
    "content file": lambda _: ContentFile(IMAGE, name="me.png"),
    "upload in memory": lambda _: InMemoryUploadedFile(io.BytesIO(IMAGE), "photo", "me", "image/png", 9, None),
    "upload on disk": lambda _: _temporary_upload(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_bytes_from_anywhere_are_the_same_image(name: str, tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(IMAGE)
    source = SOURCES[name](tmp_path / "me.png")
    image = llmcache.Image(source)
    try:
        for _ in range(2):
            assert key_of([image]) == key_of([llmcache.Image(IMAGE)])
            assert part(image)["image_url"] == {"url": url_of("image/png", IMAGE)}
    finally:
        if hasattr(source, "close"):
            source.close()


def test_an_open_file_is_read_from_its_start_and_left_where_it_stood(tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(IMAGE)
    for opened in (io.BytesIO(IMAGE), File(io.BytesIO(IMAGE), "me.png"), (tmp_path / "me.png").open("rb")):
        with opened:
            opened.seek(5)
            assert key_of(llmcache.Image(opened)) == key_of(llmcache.Image(IMAGE))
            assert opened.tell() == 5


def test_threads_that_share_an_open_file_do_not_read_into_each_others_way() -> None:
    image = llmcache.Image(Sparing(IMAGE))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: key_of(image), range(40))) == {key_of(llmcache.Image(IMAGE))}


def test_a_closed_file_of_django_is_opened_and_closed_again(tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(IMAGE)
    file = File((tmp_path / "me.png").open("rb"))
    file.close()
    assert key_of(llmcache.Image(file)) == key_of(llmcache.Image(IMAGE))
    assert file.closed


def test_a_models_file_is_opened_by_the_call_alone_and_closed_again(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.bmp").write_bytes(b"BM")
    field = FileField(name="photo", storage=FileSystemStorage(tmp_path))
    photo = FieldFile(None, field, "photos/me.bmp")
    image = llmcache.Image(photo)
    assert photo.closed
    for _ in range(2):
        assert part(image)["image_url"]["url"] == url_of("image/bmp", b"BM")
        assert photo.closed


def test_what_is_lent_is_not_looked_at_again() -> None:
    lent = bytearray(IMAGE)
    image = llmcache.Image(lent)
    lent[-1] = 0
    assert key_of(image) == key_of(llmcache.Image(IMAGE))


def test_a_path_is_read_at_each_call(tmp_path: Path) -> None:
    path = tmp_path / "me.png"
    path.write_bytes(IMAGE)
    image = llmcache.Image(path)
    before = key_of(image)
    path.write_bytes(IMAGE + b"!")
    assert before != key_of(image) == key_of(llmcache.Image(IMAGE + b"!"))


def test_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    endless = Endless()
    with pytest.raises(llmcache.InputTooLarge, match="MAX_FILE_BYTES"):
        read([llmcache.File(endless, media_type="text/plain")])
    assert endless.given == MOST + 1
    huge, url = tmp_path / "huge", url_of("image/png", PNG + bytes(2**23))
    with huge.open("wb") as file:
        file.truncate(2**26)
    tracemalloc.start()
    try:
        for part in (llmcache.Image(huge), llmcache.Image(url)):
            with pytest.raises(llmcache.InputTooLarge, match="MAX_FILE_BYTES"):
                read([part])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# -- media types

HEADS: dict[str, tuple[bytes, str]] = {
    "png": (PNG, "image/png"),
    "jpeg": (b"\xff\xd8\xff\xe0", "image/jpeg"),
    "gif": (b"GIF89a", "image/gif"),
    "old gif": (b"GIF87a", "image/gif"),
    "webp": (b"RIFF\x10\x00\x00\x00WEBP", "image/webp"),
}


@pytest.mark.parametrize("name", HEADS)
def test_how_an_image_begins_tells_its_type(name: str, tmp_path: Path) -> None:
    head, media_type = HEADS[name]
    (tmp_path / "wrong.bmp").write_bytes(head)
    for source in (head, tmp_path / "wrong.bmp"):
        assert part(llmcache.Image(source))["image_url"]["url"].startswith(f"data:{media_type};base64,")


@pytest.mark.parametrize(
    ("suffix", "data", "media_type"),
    [
        (".pdf", b"\xef\xbb\xbf%PDF-1.4", "application/pdf"),
        (".TXT", b"Ada", "text/plain"),
        (".csv", b"a,b", "text/csv"),
        (".docx", b"PK\x03\x04", f"{OFFICE}wordprocessingml.document"),
    ],
)
def test_a_files_name_tells_its_type_and_is_not_sent(suffix: str, data: bytes, media_type: str, tmp_path: Path) -> None:
    path = tmp_path / f"Ada's secret{suffix}"
    path.write_bytes(data)
    found = part(llmcache.File(path))["file"]
    assert found == {"filename": f"file{suffix.lower()}", "file_data": url_of(media_type, data)}
    assert part(llmcache.File(data, name=f"x{suffix}"))["file"]["file_data"] == found["file_data"]


def test_a_type_that_nothing_tells_is_told() -> None:
    assert part(llmcache.Image(b"BM", media_type="Image/BMP"))["image_url"]["url"] == url_of("image/bmp", b"BM")
    assert part(llmcache.Image(b"\xff\xd8\xff", media_type="image/jpg"))["image_url"]["url"].startswith(
        "data:image/jpeg"
    )
    own = part(llmcache.Image(url_of("image/png", PNG), media_type="image/x-own"))["image_url"]
    assert own == {"url": url_of("image/x-own", PNG)}
    assert part(llmcache.File(b"x", media_type="application/x-own"))["file"]["filename"] == "file"


# -- what is refused


class Down(File):  # type: ignore[type-arg]
    """A file of a storage that does not answer, and says which file it was."""

    def __init__(self) -> None:
        super().__init__(None, "secret.png")

    @property
    def read(self) -> Any:
        raise AssertionError("A storage is not asked before the call.")

    @property
    def closed(self) -> bool:
        return True

    def open(self, mode: str | None = None, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("secret.png")


IN: dict[str, Any] = {"role": "user", "content": "Ada"}
BAD: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no part": (lambda _: [], llmcache.InvalidText, "^content= is empty"),
    "no messages' part": (lambda _: [{"role": "user", "content": []}], llmcache.InvalidText, "message says something"),
    "a row": (lambda _: CacheEntry(), llmcache.UnsupportedType, "not CacheEntry. Pass its text; to a batch"),
    "a dict": (lambda _: IN, llmcache.UnsupportedType, "not dict. Pass a message in a list"),
    "a generator": (lambda _: (each for each in "Ada"), llmcache.UnsupportedType, "not generator"),
    "a set": (lambda _: {"Ada"}, llmcache.UnsupportedType, "not set"),
    "bytes": (lambda _: b"Ada", llmcache.UnsupportedType, r"llmcache\.Image\(content\)"),
    "an open file": (lambda _: io.BytesIO(PNG), llmcache.UnsupportedType, r"Wrap it in llmcache\.Image"),
    "None inside": (lambda _: ["Ada", None], llmcache.UnsupportedType, r"^content\[1\] must be .* not NoneType"),
    "bytes inside": (lambda _: ["Ada", PNG], llmcache.UnsupportedType, r"^content\[1\] .* Wrap it"),
    "a nested list": (lambda _: ["Ada", ["b"]], llmcache.UnsupportedType, r"^content\[1\] .* not nested"),
    "an empty text": (lambda _: ["Ada", ""], llmcache.InvalidText, r"^content\[1\] is empty"),
    "a lone surrogate": (lambda _: ["Ada", "a\ud800"], llmcache.InvalidText, r"^content\[1\] .* at character 1"),
    "a lone surrogate in a message": (
        lambda _: [{"role": "user", "content": ["Ada", {"type": "text", "text": "\ud800"}]}],
        llmcache.InvalidText,
        r"^content\[0\]\['content'\]\[1\]\['text'\] has a lone surrogate",
    ),
    "texts too long together": (lambda _: ["é" * 300, "é" * 300], llmcache.InputTooLarge, "MAX_TEXT_BYTES"),
    "too many parts": (lambda _: ["a"] * 1_001, llmcache.InputTooLarge, "more than 1000 messages"),
    "too many parts in messages": (
        lambda _: [{"role": "user", "content": ["a"] * 400}] * 3,
        llmcache.InputTooLarge,
        "more than 1000 messages",
    ),
    "messages and parts": (lambda _: ["Ada", IN], llmcache.InvalidRequest, r"content\[1\] is a message.*\[0\] is none"),
    "an unknown role": (lambda _: [{"role": "tool", "content": "a"}], llmcache.InvalidRequest, r"content\[0\].*'user'"),
    "a role that is no str": (lambda _: [{"role": ["user"], "content": "a"}], llmcache.InvalidRequest, "roles"),
    "no message of the user": (
        lambda _: [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}],
        llmcache.InvalidRequest,
        "no message of the role 'user'",
    ),
    "calls of tools": (
        lambda _: [IN, {"role": "assistant", "content": None, "tool_calls": []}],
        llmcache.InvalidRequest,
        r"content\[1\] has calls of tools",
    ),
    "a message with more": (lambda _: [{**IN, "name": "x"}], llmcache.InvalidRequest, "nothing else"),
    "a message with less": (lambda _: [{"role": "user"}], llmcache.InvalidRequest, "must have 'role' and 'content'"),
    "a message of nothing": (
        lambda _: [{"role": "user", "content": None}],
        llmcache.UnsupportedType,
        r"content\[0\]\['content'\] must be",
    ),
    "a message of an image": (
        lambda _: [{"role": "user", "content": llmcache.Image(PNG)}],
        llmcache.UnsupportedType,
        "Put it into a list",
    ),
    "an image by the assistant": (
        lambda _: [IN, {"role": "assistant", "content": [llmcache.Image(PNG)]}],
        llmcache.InvalidRequest,
        r"content\[1\]\['content'\] has images",
    ),
    "an empty dict": (lambda _: [{}], llmcache.InvalidRequest, r"^content\[0\] is a dict"),
    "an unknown part": (lambda _: [{"type": "input_audio"}], llmcache.InvalidRequest, "'image_url' or 'file'"),
    "a part with more": (lambda _: [{"type": "text", "text": "a", "b": 1}], llmcache.InvalidRequest, "nothing else"),
    "an image of no dict": (lambda _: [{"type": "image_url", "image_url": "x"}], llmcache.InvalidRequest, "'url'"),
    "a detail in a dict": (
        lambda _: [{"type": "image_url", "image_url": {"url": "https://a.b", "detail": "hihg"}}],
        llmcache.InvalidRequest,
        "'low', 'high'",
    ),
    "a file of nothing": (lambda _: [{"type": "file", "file": {}}], llmcache.InvalidRequest, "'file_id', or"),
    "a file without base64": (
        lambda _: [{"type": "file", "file": {"file_data": "data:text/plain,Ada"}}],
        llmcache.InvalidRequest,
        r"content\[0\] is a data: URL without base64",
    ),
    "broken base64": (lambda _: [llmcache.Image("data:image/png;base64,a")], llmcache.InvalidRequest, "is broken"),
    "base64 with spaces": (
        lambda _: [llmcache.Image("data:image/png;base64,iV BO")],
        llmcache.InvalidRequest,
        "is broken",
    ),
    "a stand-in": (
        lambda _: [llmcache.Image(f"data:image/png;sha256={'0' * 64};size=8,")],
        llmcache.InvalidRequest,
        "without base64",
    ),
    "a stand-in in a dict": (
        lambda _: [{"type": "image_url", "image_url": {"url": f"data:image/png;sha256={'0' * 64};size=8,"}}],
        llmcache.InvalidRequest,
        "without base64",
    ),
    "a file's stand-in": (
        lambda _: [{"type": "file", "file": {"file_data": f"data:application/pdf;sha256={'0' * 64};size=8,"}}],
        llmcache.InvalidRequest,
        "without base64",
    ),
    "no encryption": (lambda _: [llmcache.Image("http://a.b/c.png")], llmcache.InvalidRequest, "begins with https://"),
    "a path as str": (lambda _: [llmcache.Image("secret.png")], llmcache.InvalidRequest, r"pathlib\.Path\(it\)"),
    "no host": (lambda _: [llmcache.Image("https:///secret.png")], llmcache.InvalidRequest, "begins with https://"),
    "a broken address": (lambda _: [llmcache.Image("https://[secret")], llmcache.InvalidRequest, "with https://"),
    "an address of two lines": (lambda _: [llmcache.Image("https://a.b/\n")], llmcache.InvalidRequest, "https://"),
    "the type of an address": (
        lambda _: [llmcache.Image("https://a.b/c.png", media_type="image/png")],
        llmcache.InvalidRequest,
        "media_type= goes with bytes",
    ),
    "the address of a file": (lambda _: [llmcache.File("https://a.b")], llmcache.InvalidRequest, "takes no address"),
    "no bytes": (lambda _: ["Ada", llmcache.Image(b"")], llmcache.InvalidRequest, r"^content\[1\] is empty"),
    "an empty file": (lambda path: [llmcache.File(path / "empty")], llmcache.InvalidRequest, "is empty"),
    "a missing file": (lambda path: [llmcache.Image(path / "no")], llmcache.InvalidRequest, r"\(FileNotFoundError\)"),
    "a folder": (lambda path: [llmcache.Image(path)], llmcache.InvalidRequest, "not that of a file"),
    "a pipe": (lambda path: [llmcache.Image(path / "pipe")], llmcache.InvalidRequest, "not that of a file"),
    "a closed file": (lambda _: [llmcache.Image(_closed())], llmcache.InvalidRequest, r"\(ValueError\)"),
    "a text file": (lambda _: [llmcache.Image(io.StringIO("secret"))], llmcache.InvalidRequest, "with 'rb'"),
    "what cannot be read twice": (
        lambda _: [llmcache.Image(Passing())],
        llmcache.InvalidRequest,
        "cannot be read",
    ),
    "a storage that is down": (lambda _: [llmcache.Image(Down())], llmcache.InvalidRequest, r"\(ConnectionError\)"),
    "a path that raises": (lambda _: [llmcache.Image(NoPath())], llmcache.InvalidRequest, r"\(RuntimeError\)"),
    "a name that raises": (lambda _: [llmcache.Image(NoName(PNG))], llmcache.InvalidRequest, r"\(RuntimeError\)"),
    "a field without a file": (
        lambda _: [llmcache.Image(_no_photo())],
        llmcache.InvalidRequest,
        "its field has no file",
    ),
    "a page of an error": (
        lambda path: [llmcache.Image(path / "page.png")],
        llmcache.InvalidRequest,
        "named as image/png, and its bytes are something else",
    ),
    "bytes of no type": (lambda _: [llmcache.Image(b"secret")], llmcache.InvalidRequest, "Pass media_type="),
    "another type": (
        lambda _: [llmcache.Image(PNG, media_type="image/jpeg")],
        llmcache.InvalidRequest,
        "said to be image/jpeg, and its bytes are image/png",
    ),
    "a type that is none": (lambda _: [llmcache.Image(PNG, media_type="png")], llmcache.InvalidRequest, "is none"),
    "a type with an end": (
        lambda _: [llmcache.File(b"x", media_type="text/plain;base64,x")],
        llmcache.InvalidRequest,
        "is none",
    ),
    "a file as an image": (lambda _: [llmcache.Image(PDF)], llmcache.InvalidRequest, r"Pass it as an llmcache\.File"),
    "too many bytes": (lambda _: [llmcache.Image(PNG + b"x" * MOST)], llmcache.InputTooLarge, "MAX_FILE_BYTES"),
    "too many bytes together": (
        lambda _: [llmcache.Image(PNG + b"x" * 500), llmcache.Image(PNG + b"x" * 500)],
        llmcache.InputTooLarge,
        r"^content\[1\] has more bytes than are left of LLMCACHE\['MAX_FILE_BYTES'\]",
    ),
    "too many bytes in base64": (
        lambda _: [llmcache.Image(url_of("image/png", PNG + b"x" * MOST))],
        llmcache.InputTooLarge,
        "MAX_FILE_BYTES",
    ),
    "an endless list": (lambda _: _endless(), llmcache.UnsupportedType, "Lists are not nested"),
}


class NoPath(os.PathLike[str]):
    """A path that nobody can tell."""

    def __fspath__(self) -> str:
        raise RuntimeError("secret")


class NoName(io.BytesIO):
    """A file whose name nobody can tell."""

    @property
    def name(self) -> str:
        raise RuntimeError("secret")


def _closed() -> io.BytesIO:
    file = io.BytesIO(PNG)
    file.close()
    return file


def _no_photo() -> Any:
    return FieldFile(None, FileField(name="photo"), None)


def _endless() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


class Parts(dict[str, Any]):
    """A dict that is looked into so often and no more."""

    looks = 0

    def items(self) -> Any:
        self.looks += 1
        assert self.looks <= 10 * MAX_PARTS
        return super().items()


def test_to_copy_a_content_that_is_in_itself_takes_no_time() -> None:
    looped = Parts()
    looped.update({str(number): looped for number in range(30)})
    (copied,) = own_content([looped])
    assert copied.keys() == looped.keys()
    assert looped.looks > 1
    nested = _endless()
    (kept,) = own_content(nested)
    assert kept is nested
    # What can be sent is copied whole.
    told = [{"role": "user", "content": [{"type": "text", "text": "Ada"} for _ in range(MAX_PARTS - 1)]}]
    made = own_content(told)
    assert made == told
    assert all(one is not other for one, other in zip(made[0]["content"], told[0]["content"], strict=True))


@pytest.mark.parametrize("name", BAD)
def test_a_content_that_cannot_be_used_says_where_and_never_what(name: str, tmp_path: Path) -> None:
    make, error, says = BAD[name]
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "page.png").write_bytes(b"<html>secret")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(llmcache.InvalidRequest, match=says) as caught:
        read(make(tmp_path))
    assert type(caught.value) is error or error is llmcache.InvalidRequest
    for told in ("secret", "Ada", str(tmp_path)):
        assert told not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: llmcache.Image(None), TypeError, r"llmcache\.Image\(\) takes bytes.* not NoneType"),
        (lambda: llmcache.File(3), TypeError, r"llmcache\.File\(\) takes .* not int"),
        (lambda: llmcache.Image(PNG, detail="hihg"), llmcache.InvalidRequest, "detail= must be one of 'low'"),  # type: ignore[arg-type]
        (lambda: llmcache.Image(PNG, media_type=3), TypeError, "media_type= as a str, not int"),  # type: ignore[arg-type]
        (lambda: llmcache.File(PDF, name=""), llmcache.InvalidRequest, "name= must be a str of 1 to"),
        (lambda: llmcache.File(PDF, name="a\nb"), llmcache.InvalidRequest, "printable"),
        (lambda: llmcache.File(PDF, name="\ud800"), llmcache.InvalidRequest, "printable"),
    ],
    ids=["None", "int", "detail", "type", "empty name", "name of two lines", "surrogate"],
)
def test_a_part_that_cannot_be_made(make: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        make()
    assert isinstance(caught.value, llmcache.InvalidRequest)


def test_what_is_shown_of_parts_is_not_what_is_in_them(tmp_path: Path) -> None:
    content: list[Any] = ["secret", llmcache.Image(tmp_path / "secret"), llmcache.File(b"secret", name="secret")]
    assert "secret" not in repr(content[1:])
    content[1] = llmcache.Image("https://secret.example/")
    content[2] = llmcache.File(b"secret", name="secret", media_type="text/plain")
    made = read(content)
    assert isinstance(made, Content)
    assert "secret" not in repr(made)
    assert "secret" not in repr(made._messages)


def test_a_mapping_that_is_no_dict_is_a_message_too() -> None:
    class Own(Mapping[str, Any]):
        """A message of somebody else's library."""

        def __init__(self) -> None:
            self._told = {"role": "user", "content": "Ada"}

        def __getitem__(self, name: str) -> Any:
            return self._told[name]

        def __iter__(self) -> Any:
            return iter(self._told)

        def __len__(self) -> int:
            return len(self._told)

    assert read([Own()]) == b"Ada"
