"""The arguments of a function as the content of a key: the same bytes for the same arguments, and for no others.

Each value is written with its type: ``0``, ``0.0`` and ``False`` differ, a list and a tuple too, though Python calls
some of them equal. What has no bytes of its own, or hides what it holds, is refused by name, never guessed at: two
calls must not share a value because their arguments look alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, cast
from uuid import UUID

from django.db.models import Model
from django.utils.functional import Promise
from pydantic import BaseModel

from llmcache.exceptions import InvalidRequest, InvalidText

_BY_TEXT: Final = (Decimal, UUID, PurePath)


class _RefusedError(Exception):
    """A value that cannot be in a key; the message says why."""


def content_of(function: str, arguments: Mapping[str, Any], owner: str | None) -> bytes:
    """Return what stands for a function's arguments, by their names, in a key; ``owner`` is the class of a method's.

    Raises ``InvalidRequest`` that names the argument which cannot be in a key, and ``InvalidText`` for one that is no
    UTF-8.
    """
    written: list[Any] = []
    for name, value in arguments.items():
        try:
            written.append([name, _written(value, 0)])
        except _RefusedError as error:
            raise InvalidRequest(
                f"The argument {name}= of {function}() cannot be in a key: {error}. Pass what stands for it, or give "
                "@cached a key= function that returns what does."
            ) from None
    return _encoded(function, [owner, written])


def content_of_key(function: str, value: Any, owner: str | None) -> bytes:
    """Return what stands for a function's arguments where a function of the project's own has said so."""
    try:
        return _encoded(function, [owner, "key", _written(value, 0)])
    except _RefusedError as error:
        raise InvalidRequest(f"What key= returned for {function}() cannot be in a key: {error}.") from None


def _encoded(function: str, value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidText(
            f"An argument of {function}() has a lone surrogate, which UTF-8 cannot express. Decode its source with "
            "errors='replace', or mend it."
        ) from None


def _written(value: Any, depth: int) -> Any:
    """Return a value as JSON: plain ones as they are, all others as lists that begin with what they are."""
    if depth > 100:
        raise _RefusedError("it is too deep, or holds itself")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        if not math.isfinite(value):
            raise _RefusedError("it is not equal to itself, or has no end")
        return value
    return _tagged(value, kind, depth + 1)


def _tagged(value: Any, kind: type[Any], depth: int) -> list[Any]:
    if isinstance(value, Enum):
        return ["enum", kind.__module__, kind.__qualname__, value.name]
    if kind in (list, tuple):
        return [kind.__name__, *(_written(item, depth) for item in value)]
    if kind is dict:
        return ["dict", *([_written(name, depth), _written(item, depth)] for name, item in value.items())]
    if kind in (set, frozenset):
        return [kind.__name__, *sorted((_written(item, depth) for item in value), key=lambda item: json.dumps(item))]
    if kind in (bytes, bytearray):
        return [kind.__name__, value.hex()]
    if isinstance(value, (str, Promise)):
        # One that is marked as safe, say, or a translation in the language that is active.
        return [kind.__name__, str.__str__(str(value))]
    if isinstance(value, (date, time, timedelta)):
        return _of_time(value, kind)
    if isinstance(value, _BY_TEXT):
        return [kind.__name__, str(value)]
    if isinstance(value, type):
        return ["type", value.__module__, value.__qualname__]
    return _of_fields(value, kind, depth)


def _of_time(value: Any, kind: type[Any]) -> list[Any]:
    if isinstance(value, timedelta):
        return [kind.__name__, value.days, value.seconds, value.microseconds]
    if not isinstance(value, (datetime, time)):
        return [kind.__name__, value.isoformat()]
    zone: tzinfo | None = value.tzinfo
    # Two zones may have one offset today.
    return [kind.__name__, value.isoformat(), value.fold, None if zone is None else str(zone)]


def _of_fields(value: Any, kind: type[Any], depth: int) -> list[Any]:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, BaseModel):
        # Not its dump, which leaves out what is excluded.
        fields: dict[str, Any] = {field: getattr(value, field) for field in kind.model_fields}
        more: dict[str, Any] = {**(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
        return ["model", name, *([each, _written(held, depth)] for each, held in {**fields, **more}.items())]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return ["dataclass", name, *([each, _written(getattr(value, each), depth)] for each in names)]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ["namedtuple", name, *(_written(item, depth) for item in cast("tuple[Any, ...]", value))]
    if isinstance(value, Model):
        raise _RefusedError(f"it is a row of {kind.__name__}, which may change while its pk does not")
    raise _RefusedError(f"it is a {kind.__name__}")
