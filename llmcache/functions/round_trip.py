"""Whether a value survives being written down: it is dumped, loaded back, and compared with what it was.

A provider's answer is kept as it came. Of a function there is only its value, and a dump may lose of it: fields that
are excluded, aliases that do not load, NaN, fields of a subclass, what a validator changes each time, a zone's name.
What does not come back equal must not be given to the next caller in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any, cast
from zoneinfo import ZoneInfo

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from llmcache.response_types import ResponseType, error_facts


class LostError(Exception):
    """A value does not come back equal; the message says which part of it, and shows none."""


class RoundTrip:
    """The way of one response type's values to bytes and back."""

    def __init__(self, response: ResponseType) -> None:
        self._response = response
        self._adapter: TypeAdapter[Any] = TypeAdapter(response.annotation)

    def dumped(self, value: Any) -> bytes:
        """Return the bytes that load as a value. Raises ``LostError`` where none do."""
        return self._whole(self.written(value))

    def written(self, value: Any) -> bytes:
        """Return the JSON of a value that comes back equal. Raises ``LostError`` where it does not."""
        written = self._dump(value)
        data = self._whole(written)
        try:
            loaded = self._response.validate(data)
        except ValidationError as error:
            first = error_facts(error, self._response.schema.schema)[0]
            place = first["loc"][1:] if self._response.schema.wrapped else first["loc"]
            where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
            named = where[1:] if where.startswith(".") else f"the value{where}"
            raise LostError(f"{named} does not load again ({first['type']})") from None
        except Exception as error:
            raise LostError(f"loading it raised {type(error).__name__}") from error
        lost = difference(value, loaded)
        if lost is not None:
            raise LostError(lost)
        return written

    def _whole(self, written: bytes) -> bytes:
        return b'{"value":' + written + b"}" if self._response.schema.wrapped else written

    def _dump(self, value: Any) -> bytes:
        try:
            return self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
        except (PydanticSerializationError, ValueError, RecursionError):
            raise LostError(
                f"the value, a {type(value).__name__}, is not what the function's annotation says, or has no JSON"
            ) from None
        except Exception as error:
            raise LostError(f"a serializer raised {type(error).__name__}") from error


def difference(made: Any, loaded: Any, where: str = "") -> str | None:
    """Return which part of a value came back as another, in words that show none of it; None where all is equal."""
    here = where or "the value"
    if type(made) is not type(loaded):
        return f"{here} is a {type(made).__name__} and comes back as a {type(loaded).__name__}"
    parts = _parts(made)
    if parts is None:
        return None if _is_equal(made, loaded) else f"{here}, a {type(made).__name__}, comes back as another"
    others = cast("list[tuple[Any, Any]]", _parts(loaded))
    if [name for name, _ in parts] != [name for name, _ in others]:
        return f"{here}, a {type(made).__name__}, comes back with other parts"
    join: Callable[[str, Any], str] = _step if isinstance(made, (list, tuple, dict)) else _field
    for (name, one), (again, other) in zip(parts, others, strict=True):
        lost = None if not isinstance(made, dict) else difference(name, again, f"a key of {here}")
        lost = lost or difference(one, other, join(where, name))
        if lost is not None:
            return lost
    return None


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, BaseModel):
        held: dict[str, Any] = {name: getattr(value, name) for name in type(value).model_fields}
        return [*held.items(), *(value.__pydantic_extra__ or {}).items(), *(value.__pydantic_private__ or {}).items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, (list, tuple)):
        return list(enumerate(cast("list[Any]", value)))
    if isinstance(value, dict):
        return list(cast("dict[Any, Any]", value).items())
    return None


def _field(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def _step(where: str, name: Any) -> str:
    # A key of a dict may be somebody's word.
    return f"{where}[{name}]" if isinstance(name, int) else f"{where}[…]"


def _is_equal(made: Any, loaded: Any) -> bool:
    if isinstance(made, float):
        # 0.0 and -0.0 are equal, and NaN is not equal to itself: that is lost too.
        return made == loaded and repr(made) == repr(loaded)
    if isinstance(made, (set, frozenset)):
        one, other = cast("set[Any]", made), cast("set[Any]", loaded)
        return one == other and sorted(map(_named, one)) == sorted(map(_named, other))
    if isinstance(made, (datetime, time)):
        is_named = isinstance(made.tzinfo, ZoneInfo) and made.tzinfo.key != "UTC"
        return not is_named and made == loaded and made.utcoffset() == loaded.utcoffset()
    if isinstance(made, date):
        return made == loaded
    try:
        return bool(made == loaded)
    except Exception:  # noqa: BLE001  # of whatever class
        return False


def _named(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"
