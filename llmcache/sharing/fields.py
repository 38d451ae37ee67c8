"""An object of a line that a stranger may have written, read by the types and sizes that its fields have to have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

from django.views.decorators.debug import sensitive_variables

from llmcache import strict_json
from llmcache.exceptions import InvalidRequest
from llmcache.money.facts import TOKENS
from llmcache.request import MAX_TAGS, MAX_WORD
from llmcache.warming.lines import decoded

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_MOST_NUMBER: Final = 2**53
_LAST_TIME: Final = 2e11


class UnusableLineError(Exception):
    """What is wrong with a line, in words that hold nothing of it."""


@sensitive_variables()
def parsed(line: bytes) -> dict[str, Any]:
    """Return the object that a line holds. Raises ``UnusableLineError``."""
    try:
        value = strict_json.load(decoded(line))
    except InvalidRequest as error:
        raise UnusableLineError(str(error)) from None
    if not isinstance(value, dict):
        raise UnusableLineError("must be a JSON object.")
    return cast("dict[str, Any]", value)


class Fields:
    """An object of a line, read by the types that its fields have to have."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def told(self, name: str) -> Any:
        """Return what stands there; None where nothing does."""
        return self._values.get(name)

    def fields(self, name: str) -> Fields:
        value = self.told(name)
        if not isinstance(value, dict):
            _refuse(name, "an object")
        return Fields(value)

    def text(self, name: str, most: int, *, empty: bool = False) -> str:
        """Return a name, which every database takes."""
        value = self.told(name)
        if empty and value is None:
            return ""
        if type(value) is not str or len(value) > most or not (value or empty) or not _is_storable(value):
            _refuse(name, f"a text of at most {most} characters, without NUL")
        return value

    def hex(self, name: str, *, empty: bool = False) -> str:
        value = self.told(name)
        if empty and value in (None, ""):
            return ""
        if type(value) is not str or not _HEX.fullmatch(value):
            _refuse(name, "64 hex digits")
        return value

    @sensitive_variables()
    def data(self, name: str) -> bytes:
        """Return the bytes of a text of any kind."""
        value = self.told(name)
        if type(value) is not str:
            _refuse(name, "a text")
        return value.encode(errors="surrogatepass")

    def number(self, name: str, most: int = _MOST_NUMBER) -> int | None:
        value = self.told(name)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= most:
            _refuse(name, f"a whole number from 0 to {most}, or null")
        return value

    def time(self, name: str) -> float:
        value = self.told(name)
        if type(value) not in (int, float) or not 0 <= value < _LAST_TIME:
            _refuse(name, "a time in seconds since 1970")
        return float(value)

    def tags(self, name: str) -> list[str] | None:
        value = self.told(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > MAX_TAGS or not all(map(_is_tag, value)):
            _refuse(name, f"a list of at most {MAX_TAGS} texts")
        return value

    def tokens(self, name: str) -> dict[str, int] | None:
        if self.told(name) is None:
            return None
        usage = self.fields(name)
        return {each: count for each in TOKENS if (count := usage.number(each)) is not None}


def _is_tag(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_WORD and _is_storable(value)


def _is_storable(text: str) -> bool:
    # A lone surrogate is no UTF-8; PostgreSQL takes no NUL.
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def _refuse(name: str, wanted: str) -> NoReturn:
    raise UnusableLineError(f"must have {wanted} as {name!r}.")
