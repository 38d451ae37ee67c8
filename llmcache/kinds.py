"""What a project says of one kind of answers, in ``KINDS``: how long they are good for, and which type they have."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.utils.module_loading import import_string

from llmcache import request
from llmcache.exceptions import ConfigurationError, InvalidRequest
from llmcache.request import NOT_GIVEN, CacheUse, NotGiven
from llmcache.setting_values import UnusableError, nearest, one_of, seconds, short_text

if TYPE_CHECKING:
    from llmcache.conf import Settings

logger = logging.getLogger("llmcache.call")

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")

_T = TypeVar("_T")

TellTTL = Callable[[Any], object]
"""Tells how long a value is good for: seconds, a timedelta or None."""


@dataclass(frozen=True, slots=True)
class KindSettings:
    """One entry of ``KINDS``; what the project does not say is ``NOT_GIVEN`` or empty."""

    ttl: float | TellTTL | str | NotGiven | None = NOT_GIVEN
    """Seconds; None = any age; a function, or the dotted path of one, that derives it from the value."""
    stale_ttl: float | NotGiven = NOT_GIVEN
    refresh: str | NotGiven = NOT_GIVEN
    cache: CacheUse | NotGiven = NOT_GIVEN
    version: str = ""
    type: Any = None
    """The response type, or its dotted path."""


NO_KIND = KindSettings()

REFRESH = ("thread", "call", "celery")
"""Who asks anew for what is past its time: a thread or a Celery task, while the old answer is given; or the call that
meets it."""


def kinds(value: Any) -> Mapping[str, KindSettings]:
    """Read what a project says of its kinds; whether a dotted path leads anywhere is not looked at."""
    if not isinstance(value, Mapping):
        raise UnusableError("must be a dict of kinds, e.g. {'Ticket': {'ttl': 3600}}")
    found: dict[str, KindSettings] = {}
    known = [each.name for each in fields(KindSettings)]
    for kind, told in cast("Mapping[Any, Any]", value).items():
        if type(kind) is not str or not kind:
            raise UnusableError("has a kind that is no str, or empty")
        if not isinstance(told, Mapping):
            raise UnusableError(f"[{kind!r}] must be a dict with any of {', '.join(known)}")
        given: dict[str, Any] = {}
        for name, item in cast("Mapping[Any, Any]", told).items():
            if name not in known:
                raise UnusableError(f"[{kind!r}] has the unknown key {name!r}{nearest(str(name), known)}")
            try:
                given[name] = _READERS[name](item)
            except UnusableError as error:
                raise UnusableError(f"[{kind!r}][{name!r}] {error}") from None
        found[kind] = KindSettings(**given)
    return found


def _ttl(value: Any) -> Any:
    if _is_path(value) or (callable(value) and not inspect.iscoroutinefunction(value)):
        return value
    try:
        return seconds(none=True)(value)
    except UnusableError as error:
        raise UnusableError(
            f"{error}; or a function that is given the value and returns one of these, and is not async"
        ) from None


def _type(value: Any) -> Any:
    if value is None or (isinstance(value, str) and not _is_path(value)) or isinstance(value, (int, float, bytes)):
        raise UnusableError("must be a response type, or its dotted path")
    return value


def _is_path(value: object) -> bool:
    return type(value) is str and _DOTTED.fullmatch(value) is not None


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "ttl": _ttl,
    "stale_ttl": seconds(none=False, zero=True),
    "refresh": one_of(*REFRESH),
    "cache": one_of("use", "refresh", "bypass", "only"),
    "version": short_text,
    "type": _type,
}


def given(value: _T | NotGiven, otherwise: _T) -> _T:
    """Return what a kind says, or what holds where it says nothing."""
    return otherwise if isinstance(value, NotGiven) else value


def version_of(settings: Settings, kind: str) -> str:
    """Return what stands in a kind's keys for its version: the project's alone, where the kind has none."""
    own = settings.kinds.get(kind, NO_KIND).version
    # No setting has a line's end in it, so that no two pairs are alike.
    return f"{settings.version}\n{own}" if own else settings.version


def lifetime_of(settings: Settings, kind: str) -> tuple[float | None, Callable[[Any], float | None] | None]:
    """Return how old a kind's answers may be, and what derives that from a value where the project names a function.

    Then any age will do for who reads, because the entry knows its own. The function never raises: what it cannot
    tell is ``TTL``.
    """
    told = settings.kinds.get(kind, NO_KIND).ttl
    if isinstance(told, NotGiven):
        return settings.ttl, None
    if told is None or isinstance(told, float):
        return told, None
    tell = cast("TellTTL", _imported(kind, "ttl", told) if isinstance(told, str) else told)
    return None, partial(_told, kind, tell, settings.ttl)


def _told(kind: str, tell: TellTTL, otherwise: float | None, value: Any) -> float | None:
    try:
        return request.lifetime(tell(value))
    except InvalidRequest:
        wrong = "returned what is neither seconds nor a timedelta nor None"
    except Exception as error:  # noqa: BLE001  # the project's own function; the answer is paid for
        wrong = f"raised {type(error).__name__}"
    _warn(kind, wrong)
    return otherwise


_warned: set[tuple[str, str]] = set()
_MOST_WARNED = 100


def _warn(kind: str, wrong: str) -> None:
    # Once: it is asked for every answer of its kind.
    if (kind, wrong) in _warned or len(_warned) >= _MOST_WARNED:
        return
    _warned.add((kind, wrong))
    logger.warning("LLMCACHE['KINDS'][%r]['ttl'] %s: its answers are kept for LLMCACHE['TTL'].", kind, wrong)


def registered_type(settings: Settings, kind: str) -> Any:
    """Return the response type that ``KINDS`` names for a kind; None where it names none.

    Settings are trusted, and rows are not: this is the only way from a row to a type. Raises ``ConfigurationError``
    for a dotted path that cannot be imported.
    """
    told = settings.kinds.get(kind, NO_KIND).type
    return _imported(kind, "type", told) if isinstance(told, str) else told


def _imported(kind: str, name: str, path: str) -> Any:
    try:
        found = import_string(path)
    except Exception as error:
        raise ConfigurationError(
            f"LLMCACHE['KINDS'][{kind!r}][{name!r}] is {path!r}, which cannot be imported: {type(error).__name__}. "
            "It takes a dotted path."
        ) from error
    if name == "ttl" and (not callable(found) or inspect.iscoroutinefunction(found)):
        raise ConfigurationError(
            f"LLMCACHE['KINDS'][{kind!r}]['ttl'] is {path!r}, which is not a plain function: it is given the value, "
            "and must not be async."
        )
    return found


def require_all(settings: Settings) -> None:
    """Raise ``ConfigurationError`` for the first dotted path that leads nowhere, or type that cannot be used."""
    from llmcache.response_types import response_type

    for kind in settings.kinds:
        lifetime_of(settings, kind)
        found = registered_type(settings, kind)
        if found is not None:
            try:
                response_type(found)
            except InvalidRequest as error:
                raise ConfigurationError(f"LLMCACHE['KINDS'][{kind!r}]['type'] cannot be used. {error}") from None
