"""What lies around the cache: settings, this machine's clock, providers, Celery."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from django.core import checks as django_checks

from llmcache import checks
from llmcache.diagnosis import Finding, Probe, timed
from llmcache.exceptions import ConfigurationError
from llmcache.keys import is_loopback

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

_CONNECT_SECONDS: Final = 2.0
_YEARS: Final = (2024, 2100)
_PORTS: Final = {"http": 80, "https": 443}


def settings(now: Runtime | None = None) -> Iterator[Finding]:  # noqa: ARG001
    """Run the app's system checks; without a runtime too, which wrong settings do not allow."""
    found = [each for each in (*checks.check_llmcache(), *checks.check_secrets()) if not each.is_silenced()]
    for message in found:
        is_wrong = message.level >= django_checks.ERROR
        told = f"{message.id}: {message.msg}"
        yield Finding("settings", "wrong" if is_wrong else "note", told, message.hint or "")
    if not found:
        yield Finding("settings", "ok", "the system checks find nothing")


def clock(now: Runtime) -> Iterator[Finding]:
    """Look at the year."""
    at = datetime.fromtimestamp(min(max(now.clock.wall(), 0.0), 2e11), UTC)
    told = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    if _YEARS[0] <= at.year < _YEARS[1]:
        yield Finding("clock", "ok", told)
    else:
        yield Finding("clock", "wrong", told, "Set this machine's clock: entries expire by it, and prices are dated.")


# Providers


def providers(now: Runtime) -> dict[str, Probe]:
    """Return a probe for each provider."""
    return {f"provider {alias}": partial(_provider, alias) for alias in now.settings.providers}


def _provider(alias: str, now: Runtime) -> Iterator[Finding]:
    what = f"provider {alias}"
    try:
        provider = now.provider(alias)
    except ConfigurationError as error:
        yield Finding(what, "wrong", str(error))
        return
    url = urlsplit(provider.base_url)
    host = url.hostname or ""
    allowed = now.settings.allow_provider_calls
    if allowed is False or (allowed == "loopback" and not is_loopback(host)):
        yield Finding(what, "note", f"{host or 'its function'} is not to be called here (ALLOW_PROVIDER_CALLS)")
        return
    of = now.settings.providers[alias]
    if of.call is not None or of.acall is not None:
        yield Finding(what, "ok", "is a function of this project, and was not called")
        return
    try:
        provider.require_key()
    except ConfigurationError as error:
        # Of those that no call names by default, one without a key may just not be used.
        is_default = now.settings.model.partition("/")[0] == alias
        yield Finding(what, "wrong" if is_default else "note", str(error))
    if url.scheme in getproxies() and not proxy_bypass(host):
        yield Finding(what, "note", f"{host} lies behind a proxy, and was not tried")
        return
    yield _reached(what, host, url.port or _PORTS.get(url.scheme, 443))


def _reached(what: str, host: str, port: int) -> Finding:
    """Connect, and send nothing: that costs nothing."""
    began = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        todo = "Look at its base_url, and whether this machine may reach it."
        return Finding(what, "wrong", f"{host}:{port} cannot be reached: {type(error).__name__}", todo, timed(began))
    return Finding(what, "ok", f"{host}:{port} takes connections; nothing was asked", milliseconds=timed(began))


# Celery


def celery(now: Runtime) -> Iterator[Finding]:  # noqa: ARG001
    """Look whether Celery is there, and whether the project's broker answers."""
    try:
        from celery import current_app
    except ImportError:
        yield Finding("celery", "wrong", "is not installed", "Run: pip install 'django-llmcache[celery]'")
        return
    app: Any = current_app
    began = time.monotonic()
    try:
        with app.connection_for_write(connect_timeout=_CONNECT_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_SECONDS)
            told = f"the broker answers ({connection.transport_cls})"
    except Exception as error:  # noqa: BLE001  # of whatever transport; its own words may show a password
        todo = "Look whether the broker runs, and at CELERY_BROKER_URL."
        yield Finding("celery", "wrong", f"the broker does not answer: {type(error).__name__}", todo, timed(began))
        return
    yield Finding("celery", "ok", told, milliseconds=timed(began))
