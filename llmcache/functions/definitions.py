"""What a function's definition says: how it gives its values, of which type, and what it depends on unseen."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, Final, Literal, cast, get_args, get_origin

from llmcache.exceptions import ConfigurationError, UnsupportedType

Shape = Literal["sync", "async", "generator", "async generator"]
_ITERATED: Final = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)


def function_of(function: Any) -> Any:
    """Return the function, or raise ``ConfigurationError`` for what is none."""
    if isinstance(function, (classmethod, staticmethod)):
        raise ConfigurationError(
            f"@cached stands above @{type(function).__name__}. Write it below: the function itself is what is cached."
        )
    if not inspect.isfunction(function):
        raise ConfigurationError(
            f"@cached takes a function, not a {type(cast('object', function)).__name__}. Its own arguments are passed "
            "by name: @cached(ttl=3600)."
        )
    return function


def module_of(function: Any) -> str:
    """Return the name of the function's module, by which other processes know it too."""
    if function.__module__ != "__main__":
        return function.__module__
    # Every program has a module of this name: by its own name, where it is run by that, or by its file's.
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else f"__main__.{PurePath(function.__code__.co_filename).stem}"


def shape_of(function: Any) -> Shape:
    """Tell how the function gives its values."""
    if inspect.isasyncgenfunction(function):
        return "async generator"
    if inspect.iscoroutinefunction(function):
        return "async"
    return "generator" if inspect.isgeneratorfunction(function) else "sync"


def is_method(signature: inspect.Signature, qualname: str) -> bool:
    """Tell whether the first argument is the instance or the class."""
    first = next(iter(signature.parameters), "")
    inside = qualname.rpartition(".")[0]
    return first in ("self", "cls") and bool(inside) and not inside.endswith("<locals>")


def require_no_hidden(function: Any, harmless: type[Any]) -> None:
    """Raise ``ConfigurationError`` for a function that depends on what neither its name nor its arguments tell.

    What a function round it has defined, other than functions, classes, modules and ``harmless``, is such a thing.
    """
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held = cell.cell_contents
        except ValueError:
            continue
        if not (
            inspect.isroutine(held) or inspect.isclass(held) or inspect.ismodule(held) or isinstance(held, harmless)
        ):
            raise ConfigurationError(
                f"{function.__qualname__}() uses {name!r} of the function that it is defined in, which is not in its "
                "key: two functions made so would share their values. Make it an argument, or give @cached a version= "
                "or key= that tells them apart."
            )


def annotation_of(function: Any, shape: str, *, last: bool = False) -> Any:
    """Return the type of a function's values, or of a generator's items; None for one that is not defined yet."""
    where = f"{function.__qualname__}()"
    written = function.__annotations__.get("return", inspect.Signature.empty)
    if written is inspect.Signature.empty or written in (None, "None", Any, "Any"):
        raise UnsupportedType(
            f"{where} does not say in an annotation what it returns, so its values cannot be kept. Annotate it with a "
            "type that llmcache.extract takes: -> Ticket, or -> list[Ticket]."
        )
    names = _names_round(function)
    try:
        found: Any = typing.get_type_hints(
            SimpleNamespace(__annotations__={"return": written}), function.__globals__, names, include_extras=True
        )["return"]
    except NameError as error:
        if not last:
            return None
        raise UnsupportedType(
            f"The return annotation of {where} refers to {error.name or 'a name'}, which is not defined. Define it, or "
            "import it outside of TYPE_CHECKING."
        ) from None
    origin = get_origin(found) or found
    is_iterated = origin in _ITERATED
    if "generator" in shape:
        items = get_args(found)
        if not is_iterated or not items:
            raise UnsupportedType(
                f"{where} is a generator function. Annotate it with what its items are: -> Iterator[Ticket], or "
                "-> AsyncIterator[Ticket] for an asynchronous one."
            )
        if any(each not in (None, type(None), Any) for each in items[1:]):
            raise UnsupportedType(
                f"{where} says that it is sent values, or returns one at its end: neither is kept. Annotate it with "
                "what its items are alone: -> Iterator[Ticket]."
            )
        found = items[0]
    elif is_iterated:
        raise UnsupportedType(
            f"{where} returns an iterator, which can be gone through once only. Make it a generator function, or let "
            "it return a list."
        )
    from llmcache.response_types import response_type

    response_type(found)
    return found


def _names_round(function: Any) -> dict[str, Any]:
    """Return what the functions round a function have defined that it uses."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found
