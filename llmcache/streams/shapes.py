"""What a type is made of, as far as a part of its answer can tell."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
)
from uuid import UUID

from pydantic import AliasChoices, BaseModel, RootModel
from pydantic.fields import FieldInfo

# Those of `typing` do not know the types of `typing_extensions`, which pydantic wants below Python 3.12.
from typing_extensions import ReadOnly, TypeAliasType, get_type_hints, is_typeddict

from llmcache.response_types import structure

_T = TypeVar("_T")

ARRAYS: Final[dict[Any, Callable[[list[Any]], Collection[Any]]]] = {
    list: list,
    Sequence: list,
    deque: deque,
    tuple: tuple,
    set: set,
    AbstractSet: set,
    frozenset: frozenset,
}
"""What a list of items is made into, by the type that an annotation names."""
_SCALARS: Final = (str, bytes, int, float, Decimal, date, datetime, time, timedelta, UUID, Enum, type(None))
_MOST_KEPT: Final = 1_000
_FIELDS: Final[dict[Any, tuple[Any, dict[str, tuple[str, Any]] | None]]] = {}


def kept(known: dict[Any, tuple[Any, _T]], annotation: Any, make: Callable[[Any], _T]) -> _T:
    """Return what was made of a type; made now where it is not known yet."""
    # Types that are equal to Python are not the same type; see `structure`, which wants them kept alive.
    key = structure(annotation)
    found = known.get(key)
    if found is None:
        if len(known) >= _MOST_KEPT:
            known.clear()
        found = known[key] = annotation, make(annotation)
    return found[1]


def is_root(annotation: Any) -> TypeGuard[type[RootModel[Any]]]:
    """Return whether a type is a model of one value without a name."""
    return _is_class(annotation) and issubclass(annotation, RootModel)


def fields(annotation: Any) -> dict[str, tuple[str, Any]] | None:
    """Return the fields of a type, each with its name in the answer and its own type; None for one without fields."""
    return kept(_FIELDS, annotation, _fields_of)


def row(annotation: Any) -> tuple[Any, ...] | None:
    """Return the types of the places of a tuple of fixed length; None for what is no such tuple."""
    if _is_class(annotation) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        return tuple((_hints(annotation) or {}).values())
    args = get_args(annotation)
    return args if get_origin(annotation) is tuple and ... not in args else None


def bare(annotation: Any) -> Any:
    """Return a type without what surrounds it: its constraints, ``| None``, ``Required``, another name."""
    while True:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in (Annotated, Required, NotRequired, ReadOnly):
            annotation = args[0]
        elif isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif origin in (Union, UnionType) and len(some := [arg for arg in args if arg is not type(None)]) == 1:
            annotation = some[0]
        else:
            return annotation


def branch(annotation: Any, data: Any, *, is_open: bool) -> Any:
    """Return the one type of a union that a part of an answer can be of; None while there are several.

    A field that can only be one of some constants excludes a type, as soon as it is whole and is none of them: so what
    is left does not depend on how a union is told apart. Any other type is returned as it is.
    """
    found = list(_branches(annotation))
    if len(found) < 2:
        return found[0] if found else annotation
    is_object = isinstance(data, dict)
    left = [each for each in found if _form(each) in (None, "object" if is_object else "array")]
    if is_object:
        last = next(reversed(data), None) if is_open else None
        left = [each for each in left if not _is_excluded(each, data, last)]
    return left[0] if len(left) == 1 else None


def _branches(annotation: Any) -> Iterator[Any]:
    annotation = bare(annotation)
    if get_origin(annotation) not in (Union, UnionType):
        yield annotation
        return
    for arg in get_args(annotation):
        if arg is not type(None):
            yield from _branches(arg)


def _form(annotation: Any) -> Literal["object", "array", "scalar"] | None:
    """Return which form of JSON the values of a type have; None where that is not known."""
    if is_root(annotation):
        return _form(bare(annotation.model_fields["root"].annotation))
    origin = get_origin(annotation) or annotation
    if origin is dict or fields(annotation) is not None:
        return "object"
    if origin in ARRAYS or row(annotation) is not None:
        return "array"
    return "scalar" if origin is Literal or (_is_class(annotation) and issubclass(annotation, _SCALARS)) else None


def _is_excluded(annotation: Any, data: dict[str, Any], last: str | None) -> bool:
    for key, inner in (fields(annotation) or {}).values():
        told = bare(inner)
        if get_origin(told) is Literal and key in data and key != last:
            names = [arg.value if isinstance(arg, Enum) else arg for arg in get_args(told)]
            if not any(type(name) is type(data[key]) and name == data[key] for name in names):
                return True
    return False


def _is_class(annotation: Any) -> TypeGuard[type]:
    return isinstance(annotation, type) and get_origin(annotation) is None


def _fields_of(annotation: Any) -> dict[str, tuple[str, Any]] | None:
    if _is_class(annotation) and issubclass(annotation, BaseModel):
        return {name: (_key_of(name, field), field.annotation) for name, field in annotation.model_fields.items()}
    if not dataclasses.is_dataclass(annotation) and not is_typeddict(annotation):
        return None
    hints = _hints(annotation)
    if hints is None:
        return None
    if dataclasses.is_dataclass(annotation):
        told: dict[str, FieldInfo] = getattr(annotation, "__pydantic_fields__", {})
        named = [field.name for field in dataclasses.fields(annotation) if field.init]
        return {name: (_key_of(name, told.get(name)), hints[name]) for name in named}
    return {name: (name, hint) for name, hint in hints.items()}


def _hints(annotation: Any) -> dict[str, Any] | None:
    try:
        return get_type_hints(annotation, include_extras=True)
    except (NameError, TypeError):
        return None


def _key_of(name: str, field: FieldInfo | None) -> str:
    told: Any = None if field is None else field.validation_alias or field.alias
    if isinstance(told, AliasChoices):
        told = next((each for each in told.choices if isinstance(each, str)), None)
    return told if isinstance(told, str) else name
