"""Which function a provider's settings name, and what names it in keys."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from llmcache.exceptions import ConfigurationError
from llmcache.setting_values import ProviderSettings

if TYPE_CHECKING:
    from llmcache.providers.callables import Request


def function_of(alias: str, option: str, told: Callable[..., Any] | str | None) -> Callable[[Request], Any] | None:
    """Return the function that a setting names. Raises ``ConfigurationError`` where that cannot be asked."""
    place = f"LLMCACHE['PROVIDERS'][{alias!r}][{option!r}]"
    found: Any = told
    if isinstance(told, str):
        try:
            found = import_string(told)
        except Exception as error:
            raise ConfigurationError(
                f"{place} is {told!r}, which cannot be imported: {type(error).__name__}. It takes the dotted path of a "
                "function."
            ) from error
    if found is None:
        return None
    if not callable(found):
        raise ConfigurationError(f"{place} is {told!r}, which cannot be called. It takes a function.")
    is_async = inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(type(found).__call__)
    if is_async != (option == "acall"):
        what, other = ("async", "acall") if is_async else ("not async", "call")
        raise ConfigurationError(f"{place} names a function that is {what}. Name it by {other!r}.")
    if not _takes_one(found):
        raise ConfigurationError(f"{place} names a function that cannot be called with one argument, the request.")
    return found


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        # As it is called: a decorator may hand on more than it is given.
        inspect.signature(function, follow_wrapped=False).bind(None)
    except TypeError:
        return False
    except ValueError:
        # What is written in C may tell nothing of its arguments.
        return True
    return True


def name_of(alias: str, settings: ProviderSettings) -> str:
    """Return what names a function in keys: the path it is imported by."""
    told = settings.call if settings.call is not None else settings.acall
    if isinstance(told, str):
        return told
    name = f"{getattr(told, '__module__', '')}.{getattr(told, '__qualname__', '')}"
    if not inspect.isfunction(told) or "<" in name or not _is_named(told):
        raise ConfigurationError(
            f"LLMCACHE['PROVIDERS'][{alias!r}] names a function that nothing tells from others like it: a lambda, one "
            "inside a function, a method or an object. Add 'identity', a name that stands for it in keys, or name it "
            "by its dotted path."
        )
    return name


def _is_named(function: FunctionType) -> bool:
    """Return whether a function is told from others by its name, which ``functools.wraps`` takes from another one."""
    if "<" not in function.__code__.co_qualname:
        return True
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    # A function of a module that is decorated is what the module calls so.
    return found is function
