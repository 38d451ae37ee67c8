"""Partial values: what can be said of a type while its answer is still being written.

Which partial values an answer has follows from its text alone: where it is cut, and what stands before each cut. So a
repeat from the cache yields the very sequence that the first caller has seen, however the provider's pieces fell, and
so does an answer that came whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Final, cast, get_args, get_origin

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic_core import from_json, to_json
from typing_extensions import is_typeddict

from llmcache.response_types import ResponseType
from llmcache.streams.shapes import ARRAYS, bare, branch, fields, is_root, kept, row

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
        # Found as they are wanted: a stored answer comes in one piece, and its first value is not to wait for the last.
        ends = (before + found.end() for found in _CUT.finditer(piece, 0, len(piece) - 1))
        for end in chain((before,) if was_held else (), ends):
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
    annotation = bare(annotation)
    if not isinstance(data, (dict, list)):
        return data if is_open and annotation is str and isinstance(data, str) else NOTHING
    annotation = branch(annotation, data, is_open=is_open)
    if is_root(annotation):
        return _root_of(annotation, data, is_open=is_open)
    if isinstance(data, dict):
        return _object(annotation, cast("dict[str, Any]", data), is_open=is_open)
    return _array(annotation, cast("list[Any]", data), is_open=is_open)


def _array(annotation: Any, items: list[Any], *, is_open: bool) -> Any:
    places = row(annotation)
    if places is not None:
        return _row(annotation, places, items, is_open=is_open)
    make, args = ARRAYS.get(get_origin(annotation)), get_args(annotation)
    if make is None or not args:
        return NOTHING
    if make not in (set, frozenset):
        return make(_each(args[0], items, is_open=is_open))
    # What grows would be another item each time, and not every part of one can be in a set.
    whole = [_validated(args[0], item) for item in (items[:-1] if is_open else items)]
    try:
        return make([each for each in whole if each is not NOTHING])
    except Exception:  # noqa: BLE001  # an item's own hash
        return NOTHING


def _row(annotation: Any, places: tuple[Any, ...], items: list[Any], *, is_open: bool) -> Any:
    """Return a tuple of fixed length, with None in the places that are not there yet."""
    last = len(items) - 1
    built = [
        NOTHING if number > last else _built(each, items[number], is_open=is_open and number == last)
        for number, each in enumerate(places)
    ]
    values = [None if each is NOTHING else each for each in built]
    return tuple.__new__(annotation, values) if isinstance(annotation, type) else tuple(values)


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
    named = fields(annotation)
    if named is None:
        return NOTHING
    values = {
        name: NOTHING if key not in data else _built(inner, data[key], is_open=key == last)
        for name, (key, inner) in named.items()
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


_ADAPTERS: Final[dict[Any, tuple[Any, TypeAdapter[Any] | None]]] = {}


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation)
    except Exception:  # noqa: BLE001  # a part of a type may mean nothing without the whole
        return None


def _refused(_: str) -> Any:
    raise ValueError


def _validated(annotation: Any, data: Any) -> Any:
    """Return the value of a part that is whole; ``NOTHING`` where it is not valid."""
    adapter = kept(_ADAPTERS, annotation, _adapter)
    if adapter is None:
        return NOTHING
    try:
        return adapter.validate_json(to_json(data))
    except Exception:  # noqa: BLE001  # a validator of the project's; the whole answer says what is wrong
        return NOTHING
