"""``override_llmcache``: some keys of ``LLMCACHE`` changed for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.test import SimpleTestCase
from django.test.utils import override_settings

from llmcache import conf


class override_llmcache(override_settings):  # noqa: N801  # named as Django's own
    """Change some keys of ``LLMCACHE`` and keep the others; used as Django's ``override_settings``.

    As a context manager, or as the decorator of a function, a coroutine function or a ``SimpleTestCase`` class. What is
    kept is what is in force when it begins, not when it is made, so that overrides nest. An unknown key, or a value
    that cannot be used, is a ``ConfigurationError`` at that moment.
    """

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self._changes = changes

    def enable(self) -> None:
        self.options = {"LLMCACHE": merged(getattr(settings, "LLMCACHE", {}), self._changes)}
        super().enable()

    def decorate_class(self, cls: Any) -> Any:
        """Let the class's tests run with the changes; a subclass adds its own, and wins."""
        if not issubclass(cls, SimpleTestCase):
            raise TypeError("Only subclasses of Django's SimpleTestCase can be decorated with override_llmcache.")
        _merge_at_set_up(cls)
        cls._llmcache_changes = {**getattr(cls, "_llmcache_changes", {}), **self._changes}  # pyright: ignore[reportAttributeAccessIssue]
        return cls


def merged(base: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value of ``LLMCACHE`` with some keys changed; ``ConfigurationError`` when it cannot be used."""
    if not isinstance(base, Mapping):
        conf.read(base)
    made = {**base, **changes}
    conf.read(made)
    return made


def _merge_at_set_up(cls: Any) -> None:
    """Let a class merge its changes at the moment when Django puts a class's overridden settings in force."""
    set_up = cls.setUpClass.__func__

    def setUpClass(klass: Any) -> None:
        before = klass._overridden_settings
        options = before or {}
        base = options.get("LLMCACHE", getattr(settings, "LLMCACHE", {}))
        klass._overridden_settings = {**options, "LLMCACHE": merged(base, klass._llmcache_changes)}
        try:
            set_up(klass)
        finally:
            # The class may run again, on other settings.
            klass._overridden_settings = before

    cls.setUpClass = classmethod(setUpClass)
