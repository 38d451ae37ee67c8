"""The runtime of this process: made at the first call, never by an import.

It is made anew when a test changes a setting, and under Django's test environment each test has one of its own. A
forked child starts with its parent's entries, and with no flights, sockets, journal or counts.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.signals import setting_changed

from llmcache.exceptions import ConfigurationError

if TYPE_CHECKING:
    from llmcache.engine.counts import Counts
    from llmcache.engine.runtime import Runtime
    from llmcache.tenancy import Tenancy

_lock = threading.Lock()
_current: Runtime | None = None
_of_test: Runtime | None = None
"""The running test's, found anew at each call."""
_counted: tuple[str | None, Counts] | None = None
"""A test and what it had counted when a setting changed."""


def current() -> Runtime:
    """Return this process's runtime, made at the first call.

    Raises ``ConfigurationError`` before ``django.setup()``, without the app, and for settings that cannot be used.
    """
    runtime = _current
    return runtime if runtime is not None else _make()


def current_if_made() -> Runtime | None:
    """Return ``current()``, or None where this process has none yet: making the first one holds up an event loop."""
    runtime = _current
    if runtime is None and "django.test.utils" in sys.modules:
        from llmcache.engine import isolation

        # Only the caller's own thread knows which test it is in.
        if isolation.in_tests():
            return _make()
    return runtime


def tenancy() -> Tenancy | None:
    """Return what the settings say of tenants, without making the runtime; errors as ``current``."""
    _require_setup()
    from llmcache import conf
    from llmcache.tenancy import configured_tenancy

    return configured_tenancy(conf.current())


def _require_setup() -> None:
    if not django_settings.configured and "DJANGO_SETTINGS_MODULE" not in os.environ:
        raise ConfigurationError("Django has no settings: set DJANGO_SETTINGS_MODULE and call django.setup() first.")
    if not apps.ready:
        raise ConfigurationError("Django is not set up: call django.setup() before the first call to llmcache.")
    if not apps.is_installed("llmcache"):
        raise ConfigurationError("The app is not installed: add 'llmcache' to INSTALLED_APPS.")


def _make() -> Runtime:
    global _current
    _require_setup()
    from llmcache import conf
    from llmcache.engine import isolation
    from llmcache.engine.runtime import Runtime

    if isolation.in_tests():
        return _make_for(isolation.current_test())
    with _lock:
        if _current is None:
            _current = Runtime(conf.current())
        return _current


def _make_for(test: str) -> Runtime:
    global _of_test
    previous = _of_test
    if previous is not None and previous.test == test:
        return previous
    from llmcache import conf
    from llmcache.engine.runtime import Runtime

    with _lock:
        previous = runtime = _of_test
        if runtime is None or runtime.test != test:
            runtime = _of_test = Runtime(conf.current(), test=test, like=previous)
            if _counted is not None and _counted[0] == test:
                runtime.counts = _counted[1]
    if previous is not None and previous is not runtime:
        previous.forget(runtime)
    return runtime


def install(runtime: Runtime | None) -> None:
    """Put another runtime in force; None means one made from the settings at the next call."""
    global _current, _of_test, _counted
    with _lock:
        previous, _current, _of_test = (_current, _of_test), runtime, None
        if previous[1] is not None:
            # The settings have changed within a test, which goes on.
            _counted = previous[1].test, previous[1].counts
    for each in previous:
        if each is not None and each is not runtime:
            each.close()


def finish(timeout: float) -> None:
    """Bring what this process knows into the database before it ends, within ``timeout`` seconds.

    Before that, asynchronous calls that are being paid for get some seconds to come to their end.
    """
    background = sys.modules.get("llmcache.engine.background")
    if background is not None:
        background.finish()
    runtime = _current
    if runtime is not None:
        if runtime.leases is not None:
            runtime.leases.finish()
        runtime.tiers.drain(timeout)
        runtime.writer.stop(timeout)


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting in ("LLMCACHE", "CACHES", "DATABASES", "INSTALLED_APPS"):
        install(None)


def _reset_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for runtime in (_current, _of_test):
        if runtime is not None:
            runtime.reset_after_fork()


setting_changed.connect(_on_setting_changed, dispatch_uid="llmcache.engine.process")
os.register_at_fork(after_in_child=_reset_in_child)
