"""Whose call it is, where the call does not say: ``TENANT`` and ``TENANT_REQUIRED``.

The project's callable is asked once, at the call, in the caller's own thread and context. What it says travels with the
call as if it had been passed, so nothing asks it again later, elsewhere, when somebody else's request may be under way.
A callable that fails, or says what is no tenant, ends the call: an answer is never asked for or kept under another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from django.utils.module_loading import import_string

from llmcache import request
from llmcache.conf import Settings
from llmcache.exceptions import ConfigurationError, InvalidRequest, TenantMissing
from llmcache.request import NOT_GIVEN

_TENANT: Final = request.OPTIONS.index("tenant")


class Tenancy:
    """What the settings say of tenants, where they say anything."""

    def __init__(self, tell: Callable[[], object] | None, *, required: bool) -> None:
        self._tell = tell
        self._required = required

    def named(self, options: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a call's options with the tenant it is made for; called twice, it asks once.

        Raises ``TenantMissing`` when there has to be one and there is none, or when ``TENANT`` did not tell.
        """
        tenant = options[_TENANT]
        if tenant is NOT_GIVEN and self._tell is not None:
            tenant = _told(self._tell)
            options = (*options[:_TENANT], tenant, *options[_TENANT + 1 :])
        if self._required and (tenant is None or tenant is NOT_GIVEN):
            said = "" if self._tell is None else ", LLMCACHE['TENANT'] told none here"
            raise TenantMissing(
                f"This call names no tenant{said}, and LLMCACHE['TENANT_REQUIRED'] is True. Pass tenant=, bind it with "
                "llmcache.Extractor(tenant=…), or let LLMCACHE['TENANT'] tell it in this thread and context."
            )
        return options


def _told(tell: Callable[[], object]) -> str | None:
    try:
        told = tell()
    except Exception as error:
        raise TenantMissing(
            f"LLMCACHE['TENANT'] raised {type(error).__name__}, so it is not known whose call this is, and nothing was "
            "looked up or sent. Mend it, or pass tenant=."
        ) from error
    if told is None:
        return None
    if inspect.iscoroutine(told):
        told.close()
    try:
        return request.word("tenant", told)
    except InvalidRequest as error:
        raise TenantMissing(
            f"LLMCACHE['TENANT'] must return the tenant as a str, or None. What it returned cannot be used: {error}"
        ) from None


def configured_tenancy(settings: Settings) -> Tenancy | None:
    """Return what the settings say of tenants; None when that is nothing.

    Raises ``ConfigurationError`` for a dotted path that leads to nothing that can be called.
    """
    if settings.tenant is None and not settings.tenant_required:
        return None
    tell = settings.tenant
    if isinstance(tell, str):
        tell = _imported(tell)
    return Tenancy(tell, required=settings.tenant_required)


def _imported(path: str) -> Callable[[], object]:
    try:
        found = import_string(path)
    except Exception as error:
        raise ConfigurationError(
            f"LLMCACHE['TENANT'] is {path!r}, which cannot be imported: {type(error).__name__}. "
            "It takes the dotted path of a function."
        ) from error
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise ConfigurationError(
            f"LLMCACHE['TENANT'] is {path!r}, which is not a plain function: it must be called without arguments, and "
            "not be async."
        )
    return found
