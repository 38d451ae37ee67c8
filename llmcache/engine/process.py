"""The runtime of this process: made at the first call, never by an import.

It is made anew when a test changes a setting. A forked child starts with its parent's entries, and with no flights,
sockets, journal or counts.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.signals import setting_changed

from llmcache.exceptions import ConfigurationError

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

_lock = threading.Lock()
_current: Runtime | None = None


def current() -> Runtime:
    """Return this process's runtime, made at the first call.

    Raises ``ConfigurationError`` before ``django.setup()``, without the app, and for settings that cannot be used.
    """
    runtime = _current
    return runtime if runtime is not None else _make()


def _make() -> Runtime:
    global _current
    if not django_settings.configured and "DJANGO_SETTINGS_MODULE" not in os.environ:
        raise ConfigurationError("Django has no settings: set DJANGO_SETTINGS_MODULE and call django.setup() first.")
    if not apps.ready:
        raise ConfigurationError("Django is not set up: call django.setup() before the first call to llmcache.")
    if not apps.is_installed("llmcache"):
        raise ConfigurationError("The app is not installed: add 'llmcache' to INSTALLED_APPS.")
    from llmcache import conf
    from llmcache.engine.runtime import Runtime

    with _lock:
        if _current is None:
            _current = Runtime(conf.current())
        return _current


def install(runtime: Runtime | None) -> None:
    """Put another runtime in force; None means one made from the settings at the next call."""
    global _current
    with _lock:
        previous, _current = _current, runtime
    if previous is not None and previous is not runtime:
        previous.close()


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting in ("LLMCACHE", "CACHES", "DATABASES", "INSTALLED_APPS"):
        install(None)


def _reset_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    if _current is not None:
        _current.reset_after_fork()


setting_changed.connect(_on_setting_changed, dispatch_uid="llmcache.engine.process")
os.register_at_fork(after_in_child=_reset_in_child)
