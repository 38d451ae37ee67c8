"""What is warmed from files: each line that can be used, and of each other the place and what is wrong with it."""

import csv
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcache.exceptions import InvalidRequest
from llmcache.warming.files import Columns, from_csv, from_json_lines
from llmcache.warming.lines import Source, opened
from llmcache.warming.texts import WarmingText

SECRET = "dear support, my password is hunter2"
MOST = 2**20


def json_lines(data: bytes, **options: Any) -> list[WarmingText]:
    return list(from_json_lines(Source("mails", io.BytesIO(data)), **{"max_text_bytes": MOST, **options}))


def rows(data: bytes, columns: Columns | str = "text", **options: Any) -> list[WarmingText]:
    columns = Columns(columns) if isinstance(columns, str) else columns
    return list(from_csv(Source("mails", io.BytesIO(data)), columns, **{"max_text_bytes": MOST, **options}))


def contents(found: list[WarmingText]) -> list[str]:
    return [text.content for text in found]


def refused(read: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """Return what an error says; it is never what somebody has written."""
    with pytest.raises(InvalidRequest) as error:
        read(*arguments, **options)
    said = str(error.value)
    assert "hunter2" not in said
    assert "hunter2" not in repr(error.value.__cause__)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return said


# Lines of JSON


def test_lines_of_json_are_texts_or_objects() -> None:
    told = {
        "content": "Fire",
        "system": "Be brief",
        "tenant": "acme",
        "subject": "u1",
        "tags": ["b", "a"],
        "version": "2",
        "variant": 7,
        "params": {"temperature": 0.5},
    }
    first, second, third = json_lines(f'"Fire"\n\n{{"content": "Water"}}\r\n{json.dumps(told)}'.encode())
    assert (first, second) == (WarmingText("Fire"), WarmingText("Water"))
    assert (third.content, third.system, third.tenant, third.subject) == ("Fire", "Be brief", "acme", "u1")
    assert (set(third.tags), third.version, third.variant, third.params) == ({"a", "b"}, "2", 7, {"temperature": 0.5})


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \r\n"], ids=["none", "LF", "CRLF", "empty lines"])
@pytest.mark.parametrize("begun", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_how_lines_begin_and_end_is_no_part_of_the_text(begun: bytes, end: bytes) -> None:
    assert contents(json_lines(begun + b'"a"\r\n"b\\r\\n"' + end)) == ["a", "b\r\n"]
    assert contents(rows(begun + b'text\r\na\r\n"b\r\nc"' + end.rstrip(b" \r\n"))) == ["a", "b\r\nc"]


def test_an_empty_file_has_no_texts() -> None:
    assert json_lines(b"") == json_lines(b"\xef\xbb\xbf") == json_lines(b"\n\n") == []
    assert rows(b"", "1") == []
    assert "mails:1: is empty" in refused(rows, b"")


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"], ids=["little", "big"])
def test_utf_16_is_said_and_not_guessed(mark: bytes) -> None:
    for read in (json_lines, rows):
        assert "mails is UTF-16" in refused(read, mark + '"a"\n'.encode("utf-16-le"))
        assert "mails:1: has NUL bytes, as UTF-16 has" in refused(read, '"a"\n'.encode("utf-16-be"))


BAD_LINES = {
    "no JSON": (f'{{"content": "{SECRET}"', "is no JSON"),
    "words": (SECRET, "is no JSON"),
    "after it": (f'"{SECRET}" "{SECRET}"', "is no JSON"),
    "number": ("7", "must be a JSON string, or an object"),
    "null": ("null", "must be a JSON string, or an object"),
    "list": (f'["{SECRET}"]', "must be a JSON string, or an object"),
    "empty": ('""', "empty"),
    "object without text": ("{}", "content"),
    "text that is none": ('{"content": 7}', "content"),
    "unknown name": (f'{{"contnet": "{SECRET}"}}', "content"),
    "name that is a text": (f'{{"content": "a", "{SECRET}": 1}}', "unknown"),
    "twice": (f'{{"content": "{SECRET}", "content": "b"}}', "the same name twice"),
    "twice inside": ('{"content": "a", "params": {"seed": 1, "seed": 2}}', "the same name twice"),
    "NaN": ('{"content": "a", "params": {"seed": NaN}}', "has NaN, which is no JSON"),
    "infinite": ('{"content": "a", "params": {"seed": -Infinity}}', "has -Infinity, which is no JSON"),
    "too large": ('{"content": "a", "params": {"seed": 1e400}}', "number that is too large"),
    "digits": ('{"content": "a", "params": {"seed": ' + "7" * 5000 + "}}", "too many digits"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "surrogate": (f'"{SECRET}\\ud800"', "lone surrogate"),
    "surrogate as a name": ('{"content": "a", "params": {"\\udc00": 1}}', "lone surrogate"),
    "surrogate as a tenant": ('{"content": "a", "tenant": "\\ud800"}', "lone surrogate"),
    "raw NUL": ('"a\0b"', "NUL bytes"),
    "tags": (f'{{"content": "a", "tags": "{SECRET}"}}', "tags"),
    "tenant": ('{"content": "a", "tenant": ""}', "tenant"),
    "tenant of a number": ('{"content": "a", "tenant": 7}', "tenant"),
    "subject": ('{"content": "a", "subject": ["x"]}', "subject"),
    "system": ('{"content": "a", "system": 7}', "system"),
    "variant": ('{"content": "a", "variant": true}', "variant"),
    "params": ('{"content": "a", "params": "x"}', "params"),
    "parameter of ours": ('{"content": "a", "params": {"messages": []}}', "messages"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_cannot_be_used_is_named_by_its_place(name: str) -> None:
    line, wrong = BAD_LINES[name]
    data = b'"a"\n' * 6 + line.encode() + b'\n"b"\n'
    said = refused(json_lines, data)
    assert said.startswith("mails:7: ")
    assert wrong in said
    told: list[str] = []
    assert contents(json_lines(data, on_bad=told.append)) == ["a"] * 6 + ["b"]
    assert told == [said]


def test_an_unknown_name_is_shown_beside_the_one_that_is_near() -> None:
    assert "did you mean 'content'?" in refused(json_lines, b'{"contnet": "a"}')
    assert "did you mean 'tenant'?" in refused(json_lines, b'{"content": "a", "tennant": "b"}')


def test_line_7_of_ten_thousand() -> None:
    lines = [json.dumps(f"text {number}") for number in range(1, 10_001)]
    lines[6] = "{"
    told: list[str] = []
    found = json_lines("\n".join(lines).encode(), on_bad=told.append)
    assert contents(found) == [f"text {number}" for number in range(1, 10_001) if number != 7]
    assert [said.split(" ")[0] for said in told] == ["mails:7:"]


def test_what_is_no_utf_8_is_named_by_its_byte() -> None:
    assert refused(json_lines, b'"a"\n"\xe9"').startswith("mails:2: is not UTF-8 at byte 2")
    assert refused(rows, b"text\na\n\xe9").startswith("mails:3: is not UTF-8 at byte 1")


def test_a_text_of_any_script_is_as_it_was_written() -> None:
    texts = ["Größe", "\u2028\x85 one line", "a\0b", "😀", "‮abc", "e\u0301", "'=1+1"]
    assert contents(json_lines("\n".join(json.dumps(text) for text in texts).encode())) == texts
    unescaped = "\n".join(json.dumps(text, ensure_ascii=False) for text in texts)
    assert contents(json_lines(unescaped.encode())) == texts


def test_a_text_may_be_as_long_as_a_call_s() -> None:
    long = "\0" * 1000
    assert contents(json_lines(json.dumps(long).encode(), max_text_bytes=1000)) == [long]
    assert "mails:1: content= has" in refused(json_lines, json.dumps(long + "x").encode(), max_text_bytes=1000)
    assert "mails:1: content= has" in refused(rows, b"x" * 1001, "1", max_text_bytes=1000)


class Endless(io.RawIOBase):
    """So many bytes of one line, made while they are read; then another line."""

    def __init__(self, size: int) -> None:
        self._left, self._after = size, b'\n"after"\n'

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left:
            count = min(len(buffer), self._left)
            buffer[:count] = b"x" * count
            self._left -= count
            return count
        data, self._after = self._after, b""
        buffer[: len(data)] = data
        return len(data)


def test_a_line_of_a_hundred_megabytes_is_refused_and_never_held() -> None:
    told: list[str] = []
    tracemalloc.start()
    try:
        source = Source("mails", io.BufferedReader(Endless(100 * 2**20)))
        found = list(from_json_lines(source, max_text_bytes=2**17, on_bad=told.append))
        with pytest.raises(InvalidRequest, match="mails:1: has a row of more than 1048576 bytes"):
            list(from_csv(Source("mails", io.BufferedReader(Endless(2**21))), Columns("1"), max_text_bytes=2**17))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert contents(found) == ["after"]
    assert told == ["mails:1: has more than 1048576 bytes. Split it, or raise LLMCACHE['MAX_TEXT_BYTES']."]


def test_lines_are_read_as_they_are_wanted() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as other:
        texts = from_json_lines(Source("pipe", stream), max_text_bytes=MOST)
        for text in ("a", "b"):
            other.write(f'"{text}"\n'.encode())
            assert next(texts).content == text


# CSV


def test_columns_are_found_by_their_names() -> None:
    data = b'id,body,who,language,labels,ignored\n1,Fire,acme,Be brief,"b, a,,b",x\n2,Water,,,,\n'
    columns = Columns("body", system="language", tenant="who", subject="id", tags="labels")
    first, second = rows(data, columns)
    assert (first.content, first.system, first.tenant, first.subject) == ("Fire", "Be brief", "acme", "1")
    assert set(first.tags) == {"a", "b"}
    assert second == WarmingText("Water", subject="2")


def test_columns_are_found_by_their_numbers_in_a_file_without_names() -> None:
    assert [(each.content, each.tenant) for each in rows(b"a,acme\nb,\n", Columns("1", tenant="2"))] == [
        ("a", "acme"),
        ("b", None),
    ]
    for columns in (Columns("1", tenant="who"), Columns("0"), Columns("9" * 5000), Columns("who", tenant="1")):
        assert "Columns are named, or all are numbers" in refused(rows, b"a,b\n", columns)
    assert refused(rows, b"a,b\nc\n", "2") == "mails:2: has 1 columns in place of 2. Mend the row."


def test_what_csv_writes_is_read_as_it_was() -> None:
    texts = ['say "hello"', "a,b", "two\nlines", '"', '""', " spaces ", "x\r\ny", "Größe;\t|", '",\n"', "=1+1"]
    for delimiter in (",", ";", "\t", "|"):
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(["n", "text"])
        writer.writerows(enumerate(texts))
        assert contents(rows(out.getvalue().encode(), Columns("text", delimiter=delimiter))) == texts


BAD_ROWS = {
    "short": (b"a", "has 1 columns in place of 2"),
    "long": (b"1,b,c", "has 3 columns in place of 2"),
    "empty": (b"1,", "empty"),
    "a mark in a cell": (b'1,5" pipe,5" pipe', "has a quotation mark where none can be"),
    "after a mark": (b'1,"b"c', "has a quotation mark where none can be"),
    "NUL": (b"1,a\0b", "NUL bytes"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_cannot_be_used_is_named_by_its_place(name: str) -> None:
    row, wrong = BAD_ROWS[name]
    data = b'n,text\n1,"two\nlines"\n\n' + row + b"\n2,c\n"
    said = refused(rows, data)
    assert said.startswith("mails:5: ")
    assert wrong in said
    told: list[str] = []
    assert contents(rows(data, on_bad=told.append)) == ["two\nlines", "c"]
    assert told == [said]


def test_where_rows_end_is_never_guessed() -> None:
    """A quotation mark that stays open would make one row of the rest, or others' texts of its lines."""
    told: list[str] = []
    data = b'n,text\n1,"open\n' + b"2,b\n" * 10
    assert "mails:2: opens a quotation mark that nothing closes" in refused(rows, data, on_bad=told.append)
    data += b"2,b\n" * 100
    assert "mails:2: has a row of more than 80 bytes" in refused(rows, data, max_text_bytes=10, on_bad=told.append)
    assert told == []


def test_a_column_that_is_not_there_is_said_without_the_others() -> None:
    header = f'id,text,"{SECRET}"\n'.encode()
    assert "mails:1: has no column 'texts' among its 3; did you mean 'text'?" in refused(rows, header, "texts")
    assert refused(rows, header, "body") == "mails:1: has no column 'body' among its 3."
    assert "mails:1: has two columns named 'text'" in refused(rows, b"text,text\n")
    assert "separated by something else" in refused(rows, b"id;text\n", "body")


# Files


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    def open_it(path: object) -> None:
        with opened(str(path)):
            pass

    os.mkfifo(tmp_path / "fifo")
    assert "does not exist" in refused(open_it, tmp_path / "nothing")
    assert "does not exist" in refused(open_it, tmp_path / "*")
    assert "is a folder" in refused(open_it, tmp_path)
    for path in (tmp_path / "fifo", "/dev/zero", "/dev/null"):
        assert "is no file" in refused(open_it, path)
    assert "cannot be opened" in refused(open_it, "a\0b")
    assert "cannot be opened" in refused(open_it, "x" * 5000)


def test_a_file_without_permission_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mails"
    path.touch(mode=0)
    user = os.geteuid()

    def open_it() -> None:
        with opened(str(path)):
            pass

    # Root may read everything, so it is somebody else for a moment.
    os.seteuid(user or 65_534)
    try:
        said = refused(open_it)
    finally:
        os.seteuid(user)
    assert said == f"{path} may not be read by this user."


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"a"\n{')))
    with opened("-") as source:
        assert "standard input:2: is no JSON" in refused(lambda: list(from_json_lines(source, max_text_bytes=MOST)))
    monkeypatch.setattr(sys, "stdin", None)

    def closed() -> None:
        with opened("-"):
            pass

    assert "Standard input is closed" in refused(closed)
