"""Response types: what a caller names as ``response_model``, made ready to be asked for and to validate answers."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, UnionType
from typing import Annotated, Any, ForwardRef, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from typing_extensions import TypedDict

from llmcache import keys
from llmcache.exceptions import UnsupportedType
from llmcache.providers.schema import ResponseSchema, response_schema


@dataclass(frozen=True, slots=True)
class ResponseType:
    """A response type made ready: its validator, its schema as sent, and its names."""

    annotation: Any
    """The type as the caller wrote it, kept alive so that its identity stays its own."""
    name: str
    module: str
    schema: ResponseSchema
    fingerprint: str
    """SHA-256 of the schema as sent, in hex."""
    validate: Callable[[bytes], Any]
    """Makes a fresh value of an answer's bytes; raises pydantic's ValidationError."""
    built: tuple[tuple[Any, object], ...]
    """The models in the annotation with the validators they had when this was made."""

    def current(self) -> bool:
        """Return whether the models have still the validators that this was made of: a rebuilt one has another."""
        for model, validator in self.built:  # noqa: SIM110  # on the way of each hit: all() takes twice as long
            if model.__pydantic_validator__ is not validator:
                return False
        return True


def _is_class(annotation: Any) -> bool:
    # list[int] passes for an instance of type in some versions; an alias has an origin, a class has none.
    return isinstance(annotation, type) and get_origin(annotation) is None


def structure(annotation: Any) -> Hashable:
    """Return a key of a type that is equal for the same type only, whatever Python's own equality says."""
    # By identity, kept alive by what is stored under it: a metaclass may make a class unhashable, or equal to another.
    if _is_class(annotation):
        return ("class", id(annotation))
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return (Literal, *((type(cast("object", arg)).__name__, repr(arg)) for arg in args))
    if origin is None or origin is Annotated or not args or isinstance(args[0], list):
        # Not taken apart: such an object is its own key, kept alive by what is stored under it.
        return ("identity", id(annotation))
    return (origin, *(structure(arg) for arg in args))


def response_type(annotation: Any) -> ResponseType:
    """Return a response type made ready. Raises ``UnsupportedType`` that says what cannot be used and why."""
    shown = type_name(annotation)
    _refuse_values(annotation, shown)
    try:
        return _make_ready(annotation, shown)
    except (PydanticUndefinedAnnotation, NameError) as error:
        undefined = getattr(error, "name", None) or "a name"
        raise UnsupportedType(
            f"The response type {shown} refers to {undefined}, which is not defined yet. "
            "Define it first, or call model_rebuild() on the model once it is."
        ) from None
    except PydanticInvalidForJsonSchema:
        why = "a part of it has no JSON schema"
    except PydanticSchemaGenerationError:
        why = "pydantic cannot make a validator for a part of it"
    except PydanticUserError as error:
        why = (
            "a name in it is not defined" if error.code == "class-not-fully-defined" else f"pydantic says {error.code}"
        )
        if error.code == "typed-dict-version":
            why = "below Python 3.12 a TypedDict must come from typing_extensions"
    except _LazyError:
        why = "the items of an Iterable or Generator are validated only when they are gone through; write list"
    except Exception as error:  # noqa: BLE001  # a type's own hooks run here, and may raise anything
        why = f"pydantic raised {type(error).__name__}"
    raise UnsupportedType(
        f"The response type {shown} cannot be used: {why}. Use a BaseModel, dataclass, TypedDict, Enum, Literal, "
        "Union, list, tuple, set or dict of types that pydantic can turn into a JSON schema."
    )


class _LazyError(Exception):
    """A part of a type is validated after its value has been given, and stored."""


def _refuse_lazy(core_schema: Any) -> None:
    """Raise ``_LazyError`` for a validator that takes whatever comes, and looks at it later."""
    if isinstance(core_schema, dict):
        node = cast("dict[str, Any]", core_schema)
        if node.get("type") == "generator":
            raise _LazyError
        for name, inner in node.items():
            # Neither of them is a schema: a default is the type's own business, and metadata anybody's.
            if name not in ("default", "metadata") or not isinstance(node.get("type"), str):
                _refuse_lazy(inner)
    elif isinstance(core_schema, (list, tuple)):
        for inner in cast("list[Any]", core_schema):
            _refuse_lazy(inner)


def type_name(annotation: Any) -> str:
    """Return a class's own name, or an annotation as it is written, without modules."""
    if _is_class(annotation):
        return annotation.__name__
    if isinstance(annotation, (str, ForwardRef)):
        return annotation if isinstance(annotation, str) else annotation.__forward_arg__
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        # Values may be made of a user's data, and names stand in journals and logs.
        values = hashlib.sha256(", ".join(map(repr, args)).encode(errors="backslashreplace")).hexdigest()[:8]
        return f"Literal[{len(args)} values, {values}]"
    if origin is None:
        return getattr(annotation, "__name__", None) or type(annotation).__name__
    if origin is Annotated:
        return type_name(args[0])
    name = "Union" if origin in (Union, UnionType) else origin.__name__
    inner = ", ".join("None" if arg is type(None) else "..." if arg is ... else type_name(arg) for arg in args)
    return f"{name}[{inner}]"


def _refuse_values(annotation: Any, shown: str) -> None:
    if isinstance(annotation, BaseModel):
        raise UnsupportedType(f"response_model= is an instance of {shown}; pass the class itself.")
    values = (str, bytes, int, float, dict, list, tuple, set, type(None), FunctionType, BuiltinFunctionType, MethodType)
    if isinstance(annotation, values):
        raise UnsupportedType(
            f"response_model= is a value of type {type(cast('object', annotation)).__name__}, not a type. "
            "Pass a class or an annotation such as list[Ticket]."
        )
    named = _by_name(annotation)
    if named is not None:
        raise UnsupportedType(
            f"The response type {shown} refers to {named!r} by a name in quotes, which means something else in each "
            "module. Write the class itself."
        )
    if _is_class(annotation) and inspect.isabstract(annotation):
        raise UnsupportedType(f"The response type {shown} is abstract: no value of it can be made.")


def _make_ready(annotation: Any, shown: str) -> ResponseType:
    models = _models(annotation)
    for model in models:
        if not model.__pydantic_complete__:
            model.model_rebuild()
    built = tuple((model, model.__pydantic_validator__) for model in models)
    if _is_class(annotation) and issubclass(annotation, BaseModel):
        sent = response_schema(shown, annotation.model_json_schema())
        _refuse_lazy(annotation.__pydantic_core_schema__)
        validator: Any = annotation.__pydantic_validator__
        # The bare validator: pydantic's own method around it costs a third of a small hit.
        validate: Callable[[bytes], Any] = validator.validate_json
    else:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        sent = response_schema(shown, adapter.json_schema())
        _refuse_lazy(adapter.core_schema)
        validate = cast("Any", adapter.validator).validate_json
    if sent.wrapped:
        validate = _unwrapping(annotation)
    return ResponseType(
        annotation=annotation,
        name=shown,
        module=str(getattr(cast("Any", annotation), "__module__", "")),
        schema=sent,
        fingerprint=hashlib.sha256(keys.canonical_json(sent.schema)).hexdigest(),
        validate=validate,
        built=built,
    )


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names, in it or in its arguments."""
    if _is_class(annotation):
        return [annotation] if issubclass(annotation, BaseModel) and annotation is not BaseModel else []
    return [model for arg in _type_args(annotation) for model in _models(arg)]


def _by_name(annotation: Any) -> str | None:
    """Return the first name in quotes in an annotation's arguments."""
    for arg in _type_args(annotation):
        if isinstance(arg, (str, ForwardRef)):
            return arg if isinstance(arg, str) else arg.__forward_arg__
        named = _by_name(arg)
        if named is not None:
            return named
    return None


def _type_args(annotation: Any) -> tuple[Any, ...]:
    """Return those arguments of an annotation that are types."""
    origin, args = get_origin(annotation), get_args(annotation)
    return () if origin is Literal else args[:1] if origin is Annotated else args


def _unwrapping(annotation: Any) -> Callable[[bytes], Any]:
    """Return a validator of ``{"value": …}`` that gives the value: what no provider takes as a root is sent so."""
    # A class made here and now, so that each annotation has its own: the field's type is only known at run time.
    wrapper = TypedDict("Answer", {"value": cast("Any", annotation)})  # noqa: UP013  # pyright: ignore
    validate_json = cast("Any", TypeAdapter(wrapper)).validator.validate_json

    def validate(answer: bytes) -> Any:
        return validate_json(answer)["value"]

    return validate


def error_facts(error: ValidationError, schema: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return location and type of what did not pass, never the input.

    A location names a dict's key where the value lay under one, and such a key is the model's word about the user's
    text: what the schema does not name is shown as ``*``.
    """
    known = _names(schema)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple(
        {
            "loc": tuple(part if isinstance(part, int) or part in known else "*" for part in item["loc"]),
            "type": item["type"],
        }
        for item in found
    )


def _names(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        node = cast("dict[str, Any]", schema)
        return set(node).union(*(_names(value) for value in node.values()))
    if isinstance(schema, list):
        return set[str]().union(*(_names(value) for value in cast("list[Any]", schema)))
    return {schema} if isinstance(schema, str) else set()
