"""The sources of a project, ``WARMING``: names of functions that return what is to be warmed.

A row names a source by its name here, never by a path: settings are trusted, and rows are not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from django.utils.module_loading import import_string

from llmcache.exceptions import ConfigurationError
from llmcache.setting_values import UnusableError

if TYPE_CHECKING:
    from llmcache.conf import Settings

OWN: Final = ("texts", "misses", "expiring", "changed")
"""Sources that every project has."""
_DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_MOST_CHARACTERS: Final = 200

Source = Callable[[], Iterable[Any]]


def sources(value: Any) -> Mapping[str, Source | str]:
    """Read the sources of a project; whether a dotted path leads anywhere is not looked at."""
    if not isinstance(value, Mapping):
        raise UnusableError("must be a dict of names to functions, e.g. {'open tickets': 'support.warming.tickets'}")
    found: dict[str, Source | str] = {}
    for name, told in cast("Mapping[Any, Any]", value).items():
        if type(name) is not str or not 0 < len(name) <= _MOST_CHARACTERS or not name.isprintable():
            raise UnusableError(f"has a name that is no str of 1 to {_MOST_CHARACTERS} printable characters")
        if name in OWN:
            raise UnusableError(f"has the name {name!r}, which is a source of every project: name it otherwise")
        is_path = type(told) is str and _DOTTED.fullmatch(told) is not None
        if not is_path and (not callable(told) or inspect.iscoroutinefunction(told)):
            raise UnusableError(
                f"[{name!r}] must be a function without arguments that is not async, or its dotted path"
            )
        found[name] = cast("Source | str", told)
    return found


def source_of(settings: Settings, name: str) -> Source:
    """Return the function that a name stands for. Raises ``ConfigurationError`` for one that is not there."""
    told = settings.warming.get(name)
    if told is None:
        known = ", ".join(map(repr, (*OWN, *settings.warming)))
        raise ConfigurationError(
            f"There is no source {name!r} of texts to warm (there are: {known}). Name it in LLMCACHE['WARMING']."
        )
    if not isinstance(told, str):
        return told
    try:
        found = import_string(told)
    except Exception as error:
        raise ConfigurationError(
            f"LLMCACHE['WARMING'][{name!r}] is {told!r}, which cannot be imported: {type(error).__name__}. "
            "It takes the dotted path of a function."
        ) from error
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise ConfigurationError(
            f"LLMCACHE['WARMING'][{name!r}] is {told!r}, which is not a plain function: it must be called without "
            "arguments, and not be async."
        )
    return cast("Source", found)


def require_all(settings: Settings) -> None:
    """Raise ``ConfigurationError`` for the first dotted path that leads to no function."""
    for name in settings.warming:
        source_of(settings, name)
