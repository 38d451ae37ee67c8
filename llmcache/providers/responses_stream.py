"""A response of the Responses API that comes in events. The last of them has it whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.providers.base import Told
from llmcache.providers.faces import told_by

_LAST: Final = ("response.completed", "response.incomplete", "response.failed")
_TEXT: Final = "response.output_text.delta"
_ARGUMENTS: Final = "response.function_call_arguments.delta"
_MOST_ITEMS: Final = 1_000
"""Items of one output: whoever sends more does not fill this process's memory."""


def is_aside(item: Mapping[str, Any]) -> bool:
    """Return whether a message is what a model says on its way to the answer."""
    return item.get("phase") == "commentary"


class WrittenResponse:
    """What has arrived of a stream of events.

    ``told`` is given the pieces of the message that answers; where a function is to be called, those of its arguments.
    """

    def __init__(self, told: Callable[[str], object], function: str | None) -> None:
        self._told = told
        self._function = function
        self._items: dict[int, Any] = {}
        self._answering: int | None = None
        self._asides: set[int] = set()
        self._last: dict[str, Any] | None = None
        self.has_told = False

    @sensitive_variables()
    def add(self, event: Any) -> None:
        kind = getattr(event, "type", None)
        if kind in _LAST:
            self._last = _data(getattr(event, "response", None))
            if self._last is not None and self._last.get("status") is None:
                self._last["status"] = kind.removeprefix("response.")
        elif kind == "error":
            # It has no response in it: this is what one would say.
            code = getattr(event, "code", None)
            self._last = {"status": "failed", "output": [], "error": {"code": code}}
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._add_item(kind, getattr(event, "output_index", 0), _data(getattr(event, "item", None)))
        elif kind == (_TEXT if self._function is None else _ARGUMENTS):
            self._tell(getattr(event, "output_index", 0), getattr(event, "delta", None))

    @sensitive_variables()
    def _add_item(self, kind: str, index: Any, item: dict[str, Any] | None) -> None:
        if item is None or type(index) is not int or len(self._items) >= _MOST_ITEMS:
            return
        if kind.endswith("done"):
            self._items[index] = item
        elif is_aside(item) or (self._function is not None and item.get("name") != self._function):
            self._asides.add(index)

    def _tell(self, index: Any, piece: Any) -> None:
        if index in self._asides or not isinstance(piece, str) or not piece:
            return
        if self._answering is None:
            self._answering = index
        if index == self._answering:
            self.has_told = True
            self._told(piece)

    @sensitive_variables()
    def whole(self) -> bytes | None:
        if self._last is None:
            return None
        if not self._last.get("output") and self._items:
            # Some servers tell the items once.
            self._last["output"] = [self._items[index] for index in sorted(self._items)]
        return json.dumps(self._last, separators=(",", ":")).encode()

    def told(self) -> Told | None:
        # It is told at the end, or not at all.
        return None if self._last is None else told_by(self._last, has_output=self.has_told)


def _data(value: Any) -> dict[str, Any] | None:
    """Return what the SDK has made an object of, as data; None for what is none."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    return value.to_dict(mode="json", warnings=False) if hasattr(value, "to_dict") else None
