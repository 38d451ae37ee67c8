"""What to warm, read from lines: JSON lines, and CSV with the columns that are named.

Nothing of a line's text is in an error: it has the place, as ``texts.csv:7``, what is wrong, and what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final, NoReturn, cast

from llmcache import strict_json
from llmcache.exceptions import InvalidRequest
from llmcache.request import encode_text, split_params
from llmcache.setting_values import nearest
from llmcache.warming.lines import Source, decoded, lines
from llmcache.warming.texts import WarmingText, text_of

OnBad = Callable[[str], object]
"""Is told of each line that cannot be used; reading goes on unless it raises."""

_LONGER: Final = 8
"""So many times the bytes of the longest text has a line at most: JSON writes one byte as six."""
_NAMES: Final = [each.name for each in fields(WarmingText)]
_READ: Final = ("content", "system", "tenant", "subject", "tags")
_MOST_COLUMNS: Final = 10_000


def stop(message: str) -> NoReturn:
    """Read no further: raise ``InvalidRequest``."""
    raise InvalidRequest(message)


def from_json_lines(source: Source, *, max_text_bytes: int, on_bad: OnBad = stop) -> Iterator[WarmingText]:
    """Yield what each line says: a JSON string, or an object with the names of a ``WarmingText``.

    Empty lines are passed over. ``on_bad`` is told of each line that cannot be used.
    """
    most = _LONGER * max_text_bytes
    for number, line in lines(source, most):
        if line is not None and not line.strip():
            continue
        try:
            found = _usable(_json(_within(line, most)), max_text_bytes)
        except InvalidRequest as error:
            wrong = str(error)
        else:
            yield found
            continue
        on_bad(f"{source.name}:{number}: {wrong}")


def _within(line: bytes | None, most: int) -> bytes:
    if line is None:
        raise InvalidRequest(f"has more than {most} bytes. Split it, or raise LLMCACHE['MAX_TEXT_BYTES'].")
    return line


def _usable(value: object, max_text_bytes: int) -> WarmingText:
    if isinstance(value, dict):
        _require_known(value)
    text = text_of(value)
    # What else a call would refuse when it is made, without the place.
    encode_text(text.content, max_text_bytes)
    split_params(text.params, None)
    return text


def _require_known(names: Iterable[str]) -> None:
    unknown = next((name for name in names if name not in _NAMES), None)
    if unknown is not None:
        # Shown where it is almost a name: any other may be what somebody has written.
        near = nearest(unknown, _NAMES)
        raise InvalidRequest(
            f"has the unknown name {unknown!r}{near}"
            if near
            else f"has an unknown name; known are {', '.join(_NAMES)}."
        )


# JSON


def _json(line: bytes) -> object:
    text = decoded(line)
    value = strict_json.load(text)
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InvalidRequest("has a lone surrogate, which UTF-8 cannot express. Mend the source.") from None
    if not isinstance(value, (str, dict)):
        raise InvalidRequest('must be a JSON string, or an object with "content".')
    return cast("object", value)


# CSV


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a CSV are read: names in its first line; or numbers from 1, for a file without such a line."""

    content: str
    system: str | None = None
    tenant: str | None = None
    subject: str | None = None
    tags: str | None = None
    """Several tags in one cell are separated by commas."""
    delimiter: str = ","


def from_csv(source: Source, columns: Columns, *, max_text_bytes: int, on_bad: OnBad = stop) -> Iterator[WarmingText]:
    """Yield what each row says. Empty rows are passed over; ``on_bad`` is told of each that cannot be used.

    Raises ``InvalidRequest``, whatever ``on_bad`` does, for columns that are not there, and where it cannot be told any
    more where a row ends.
    """
    rows = _rows(source, _LONGER * max_text_bytes)
    places, width = _numbered(columns) or _named(source, columns, rows)
    for number, row in rows:
        try:
            cells = _cells(row, columns.delimiter)
            if cells == [""]:
                continue
            found = _usable(_told(cells, places, width), max_text_bytes)
        except InvalidRequest as error:
            wrong = str(error)
        else:
            yield found
            continue
        on_bad(f"{source.name}:{number}: {wrong}")


def _rows(source: Source, most: int) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of each row and the number of its first line: a row goes on while a quotation mark is open."""
    parts, held, marks, first = list[bytes](), 0, 0, 0
    for number, line in lines(source, most):
        first = first if parts else number
        held += len(line or b"")
        if line is None or held > most:
            raise InvalidRequest(
                f"{source.name}:{first}: has a row of more than {most} bytes, or a quotation mark that is not closed. "
                "Where the next row begins cannot be told: mend this one."
            )
        parts.append(line)
        marks += line.count(b'"')
        if marks % 2 == 0:
            yield first, b"".join(parts)
            parts, held, marks = [], 0, 0
    if parts:
        raise InvalidRequest(f"{source.name}:{first}: opens a quotation mark that nothing closes. Mend the row.")


def _cells(row: bytes, delimiter: str) -> list[str]:
    """Return the cells of a row."""
    # Not by `csv`: how long a cell may be is one number for the whole process there, and too small.
    text = decoded(row).removesuffix("\n").removesuffix("\r")
    found, at, cell = list[str](), 0, _cell(delimiter)
    while match := cell.match(text, at):
        quoted, plain = match.groups()
        found.append(plain if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if at == len(text):
            return found
        if text[at] != delimiter:
            break
        at += 1
    raise InvalidRequest("has a quotation mark where none can be. Write it twice, in a cell between quotation marks.")


@lru_cache(maxsize=8)
def _cell(delimiter: str) -> re.Pattern[str]:
    return re.compile(rf'"([^"]*(?:""[^"]*)*+)"|([^"{re.escape(delimiter)}]*)')


def _wanted(columns: Columns) -> dict[str, str]:
    return {name: told for name in _READ if (told := getattr(columns, name)) is not None}


def _numbered(columns: Columns) -> tuple[dict[str, int], None] | None:
    wanted = _wanted(columns)
    if not any(_is_number(told) for told in wanted.values()):
        return None
    if not all(_is_number(told) and 1 <= int(told[:9]) <= _MOST_COLUMNS for told in wanted.values()):
        raise InvalidRequest(
            f"Columns are named, or all are numbers from 1 to {_MOST_COLUMNS}, for a file without a line of names."
        )
    return {name: int(told) - 1 for name, told in wanted.items()}, None


def _is_number(told: str) -> bool:
    return told.isascii() and told.isdigit()


def _named(source: Source, columns: Columns, rows: Iterator[tuple[int, bytes]]) -> tuple[dict[str, int], int]:
    number, row = next(rows, (1, b""))
    try:
        if not row:
            raise InvalidRequest("is empty, and should begin with the names of its columns.")
        header = [cell.strip() for cell in _cells(row, columns.delimiter)]
        return {name: _place(told, header) for name, told in _wanted(columns).items()}, len(header)
    except InvalidRequest as error:
        wrong = str(error)
    raise InvalidRequest(f"{source.name}:{number}: {wrong}")


def _place(told: str, header: list[str]) -> int:
    if header.count(told) > 1:
        raise InvalidRequest(
            f"has two columns named {told!r}. Give the column's number, and the file without its names."
        )
    if told in header:
        return header.index(told)
    # The other names are not shown: of a file without a line of names they are somebody's text.
    hint = nearest(told, header)
    if not hint and len(header) == 1:
        hint = ". It has one column: is it separated by something else than you say?"
    raise InvalidRequest(f"has no column {told!r} among its {len(header)}{hint or '.'}")


def _told(cells: list[str], places: Mapping[str, int], width: int | None) -> dict[str, object]:
    last = max(places.values())
    if (width is not None and len(cells) != width) or last >= len(cells):
        wanted = width or last + 1
        raise InvalidRequest(f"has {len(cells)} columns in place of {wanted}. Mend the row.")
    told: dict[str, object] = {
        name: cells[place] for name, place in places.items() if cells[place] or name == "content"
    }
    if "tags" in told:
        told["tags"] = [tag for each in str(told["tags"]).split(",") if (tag := each.strip())]
    return told
