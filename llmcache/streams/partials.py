"""Partial values: what can be said of a type while its answer is still being written.

Which partial values an answer has follows from its text alone: where it is cut, and what stands before each cut. So a
repeat from the cache yields the very sequence that the first caller has seen, however the provider's pieces fell, and
so does an answer that came whole.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    NotRequired,
    Required,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import AliasChoices, BaseModel, RootModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json

# Those of `typing` do not know the types of `typing_extensions`, which pydantic wants below Python 3.12.
from typing_extensions import ReadOnly, get_type_hints, is_typeddict

from llmcache.response_types import ResponseType, structure

_T = TypeVar("_T")

NOTHING: Final[Any] = object()
"""Stands for a value of which nothing can be said yet."""
_CUT: Final = re.compile(r'[\s,\]}"]|[^\x00-\x7f]')
"""After one of these no number, word of JSON or escape is left half written."""
_SHARE: Final = 64
"""From one cut to the next a text grows by a sixty-fourth at least: all of its beginnings together are some sixty
times as long as it is, and not as long as its square."""
_ITEMS: Final = re.compile(r'\s*\{\s*"value"\s*:\s*\[\s*')
_BETWEEN: Final = re.compile(r"\s*,")
_SPACE: Final = re.compile(r"\s*")
_decode: Final = json.JSONDecoder().raw_decode


class Cuts:
    """The places where a text is cut that comes piece by piece."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._last = 0
        self._is_held = False

    def __len__(self) -> int:
        return self._length

    @property
    def text(self) -> str:
        """All that has come."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return "".join(self._parts)

    def feed(self, piece: str) -> Iterator[str]:
        """Take in a piece, and yield each beginning of the text that ends at a cut.

        Never all of it: whether there is more is known once there is more.
        """
        if not piece:
            return
        # What lies before is put together where it is cut, and not at every piece.
        before, was_held = self._length, self._is_held
        self._parts.append(piece)
        self._length += len(piece)
        self._is_held = _CUT.match(piece, len(piece) - 1) is not None
        ends = [before + found.end() for found in _CUT.finditer(piece, 0, len(piece) - 1)]
        for end in [before, *ends] if was_held else ends:
            if end - self._last > self._last // _SHARE:
                self._last = end
                yield self.text[:end]


def partial_value(response: ResponseType, beginning: str) -> Any:
    """Return what the beginning of an answer says of its type; ``NOTHING`` where that is nothing yet."""
    try:
        data = from_json(beginning, allow_partial="trailing-strings")
    except ValueError:
        return NOTHING
    if response.schema.wrapped:
        data = cast("dict[str, Any]", data).get("value", NOTHING) if isinstance(data, dict) else NOTHING
    return NOTHING if data is NOTHING else _built(response.annotation, data, is_open=True)


class Items:
    """The items of a list that comes piece by piece, each as soon as it is whole."""

    def __init__(self, item: Any) -> None:
        adapter = _adapter(item)
        self._validate: Callable[[str], Any] = _refused if adapter is None else adapter.validate_json
        self._at = 0
        self._is_between = False
        self._is_broken = False

    def found(self, beginning: str) -> Iterator[Any]:
        """Yield the items that are whole by now and were not before; none any more after one that is not valid."""
        if not self._at:
            start = _ITEMS.match(beginning)
            if start is None:
                return
            self._at = start.end()
        while not self._is_broken:
            if self._is_between:
                comma = _BETWEEN.match(beginning, self._at)
                if comma is None:
                    return
                self._at, self._is_between = comma.end(), False
            start = cast("re.Match[str]", _SPACE.match(beginning, self._at)).end()
            try:
                _, end = _decode(beginning, start)
            except (ValueError, RecursionError):
                return
            if end == len(beginning) and beginning[-1] not in '}]"':
                # A number may go on.
                return
            try:
                item = self._validate(beginning[start:end])
            except Exception:  # noqa: BLE001  # a validator of the project's; the whole answer says what is wrong
                self._is_broken = True
                return
            self._at, self._is_between = end, True
            yield item


def _built(annotation: Any, data: Any, *, is_open: bool) -> Any:
    """Return the value of a part of an answer, of which there may be more when it is open."""
    if not is_open:
        value = _validated(annotation, data)
        if value is not NOTHING:
            return value
    annotation = _bare(annotation)
    if isinstance(data, dict):
        return _object(annotation, cast("dict[str, Any]", data), is_open=is_open)
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(data, list):
        if _is_root(annotation):
            return _root_of(annotation, data, is_open=is_open)
        if origin is list and args:
            return _each(args[0], cast("list[Any]", data), is_open=is_open)
        return NOTHING
    return data if is_open and annotation is str and isinstance(data, str) else NOTHING


def _each(annotation: Any, items: list[Any], *, is_open: bool) -> list[Any]:
    last = len(items) - 1
    built = (_built(annotation, item, is_open=is_open and number == last) for number, item in enumerate(items))
    return [each for each in built if each is not NOTHING]


def _object(annotation: Any, data: dict[str, Any], *, is_open: bool) -> Any:
    last = next(reversed(data), None) if is_open else None
    if get_origin(annotation) is dict:
        inner = get_args(annotation)[1]
        built = {name: _built(inner, each, is_open=name == last) for name, each in data.items()}
        return {name: each for name, each in built.items() if each is not NOTHING}
    if _is_root(annotation):
        return _root_of(annotation, data, is_open=is_open)
    fields = _kept(_FIELDS, annotation, _fields_of)
    if fields is None:
        return NOTHING
    values = {
        name: NOTHING if key not in data else _built(inner, data[key], is_open=key == last)
        for name, (key, inner) in fields.items()
    }
    return _made(annotation, values)


def _root_of(annotation: type[RootModel[Any]], data: Any, *, is_open: bool) -> Any:
    root = _built(annotation.model_fields["root"].annotation, data, is_open=is_open)
    return NOTHING if root is NOTHING else _made(annotation, {"root": root})


def _made(annotation: Any, values: dict[str, Any]) -> Any:
    """Return an object of a type with these values, past its own validation; what is not there yet is None in it."""
    if is_typeddict(annotation):
        return {name: value for name, value in values.items() if value is not NOTHING}
    made = annotation.__new__(annotation)
    set_now = partial(object.__setattr__, made)
    shown = {name: None if value is NOTHING else value for name, value in values.items()}
    if not issubclass(annotation, BaseModel):
        for name, value in shown.items():
            set_now(name, value)
        return made
    set_now("__dict__", shown)
    set_now("__pydantic_fields_set__", {name for name, value in values.items() if value is not NOTHING})
    set_now("__pydantic_extra__", None)
    set_now("__pydantic_private__", None)
    return made


_MOST_KEPT: Final = 1_000
_FIELDS: Final[dict[Any, tuple[Any, dict[str, tuple[str, Any]] | None]]] = {}
_ADAPTERS: Final[dict[Any, tuple[Any, TypeAdapter[Any] | None]]] = {}


def _kept(known: dict[Any, tuple[Any, _T]], annotation: Any, make: Callable[[Any], _T]) -> _T:
    """Return what was made of a type; made now where it is not known yet."""
    # Types that are equal to Python are not the same type; see `structure`, which wants them kept alive.
    key = structure(annotation)
    found = known.get(key)
    if found is None:
        if len(known) >= _MOST_KEPT:
            known.clear()
        found = known[key] = annotation, make(annotation)
    return found[1]


def _is_class(annotation: Any) -> TypeGuard[type]:
    return isinstance(annotation, type) and get_origin(annotation) is None


def _is_root(annotation: Any) -> TypeGuard[type[RootModel[Any]]]:
    return _is_class(annotation) and issubclass(annotation, RootModel)


def _fields_of(annotation: Any) -> dict[str, tuple[str, Any]] | None:
    """Return the fields of a type, each with its name in the answer and its own type; None for one without fields."""
    if _is_class(annotation) and issubclass(annotation, BaseModel):
        return {name: (_key_of(name, field), field.annotation) for name, field in annotation.model_fields.items()}
    if not dataclasses.is_dataclass(annotation) and not is_typeddict(annotation):
        return None
    try:
        hints = get_type_hints(annotation, include_extras=True)
    except (NameError, TypeError):
        return None
    if dataclasses.is_dataclass(annotation):
        told: dict[str, FieldInfo] = getattr(annotation, "__pydantic_fields__", {})
        named = [field.name for field in dataclasses.fields(annotation) if field.init]
        return {name: (_key_of(name, told.get(name)), hints[name]) for name in named}
    return {name: (name, hint) for name, hint in hints.items()}


def _key_of(name: str, field: FieldInfo | None) -> str:
    told: Any = None if field is None else field.validation_alias or field.alias
    if isinstance(told, AliasChoices):
        told = next((each for each in told.choices if isinstance(each, str)), None)
    return told if isinstance(told, str) else name


def _bare(annotation: Any) -> Any:
    """Return a type without what surrounds it: its constraints, ``| None``, ``Required``."""
    while True:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in (Annotated, Required, NotRequired, ReadOnly):
            annotation = args[0]
        elif origin in (Union, UnionType) and len(some := [arg for arg in args if arg is not type(None)]) == 1:
            annotation = some[0]
        else:
            return annotation


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation)
    except Exception:  # noqa: BLE001  # a part of a type may mean nothing without the whole
        return None


def _refused(_: str) -> Any:
    raise ValueError


def _validated(annotation: Any, data: Any) -> Any:
    """Return the value of a part that is whole; ``NOTHING`` where it is not valid."""
    adapter = _kept(_ADAPTERS, annotation, _adapter)
    if adapter is None:
        return NOTHING
    try:
        return adapter.validate_json(to_json(data))
    except Exception:  # noqa: BLE001  # a validator of the project's; the whole answer says what is wrong
        return NOTHING
