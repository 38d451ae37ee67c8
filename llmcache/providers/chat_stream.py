"""A chat completion that comes in chunks, put together as if it had come whole.

So what is kept of it, and what it is validated by, are those of any other: only the caller gets to read it before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache.money.usage import told_usage
from llmcache.providers.base import Told
from llmcache.providers.faces import told_by

_MOST_CALLS: Final = 100
"""Function calls of one message: whoever numbers them higher does not fill this process's memory."""


class WrittenChat:
    """What has arrived of a stream of chunks.

    ``told`` is given the pieces of the text; where a function is to be called, those of the arguments of its call.
    """

    def __init__(self, told: Callable[[str], object], function: str | None) -> None:
        self._told = told
        self._function = function
        self._facts: dict[str, Any] = {"id": "", "object": "chat.completion", "created": 0, "model": ""}
        self._pieces: list[str] = []
        self._calls: dict[int, _Called] = {}
        self._refusal: list[str] = []
        self._finish: str | None = None
        self._length = 0
        """Characters that have arrived, of whatever it is."""
        self._is_counted = False
        """Whether what was told of the usage is of all that has arrived."""
        self.has_told = False

    @sensitive_variables()
    def add(self, event: Any) -> None:
        for name in ("id", "created", "model", "service_tier", "system_fingerprint"):
            value = getattr(event, name, None)
            if value is not None:
                self._facts[name] = value
        had = self._length
        for choice in getattr(event, "choices", None) or ():
            if getattr(choice, "index", 0) == 0:
                self._add_choice(choice)
        usage: Any = getattr(event, "usage", None)
        if usage is not None:
            # The last word holds: some tell it with each chunk.
            self._facts["usage"] = usage if isinstance(usage, Mapping) else usage.to_dict(mode="json")
            self._is_counted = True
        elif self._length > had:
            self._is_counted = False

    @sensitive_variables()
    def _add_choice(self, choice: Any) -> None:
        delta = getattr(choice, "delta", None)
        refusal, piece = getattr(delta, "refusal", None), getattr(delta, "content", None)
        if isinstance(refusal, str):
            self._refusal.append(refusal)
            self._length += len(refusal)
        if isinstance(piece, str) and piece:
            self._pieces.append(piece)
            self._length += len(piece)
            if self._function is None:
                self._tell(piece)
        for part in getattr(delta, "tool_calls", None) or ():
            self._add_call(part)
        finish = getattr(choice, "finish_reason", None)
        if isinstance(finish, str):
            self._finish = finish

    @sensitive_variables()
    def _add_call(self, part: Any) -> None:
        index: Any = getattr(part, "index", 0) or 0
        if type(index) is not int or (index not in self._calls and len(self._calls) >= _MOST_CALLS):
            return
        call = self._calls.setdefault(index, _Called())
        function = getattr(part, "function", None)
        call.id = call.id or _text(getattr(part, "id", None))
        call.name = call.name or _text(getattr(function, "name", None))
        piece = _text(getattr(function, "arguments", None))
        if piece:
            call.pieces.append(piece)
            self._length += len(piece)
            if index == min(self._calls) and call.name == self._function:
                self._tell(piece)

    def _tell(self, piece: str) -> None:
        self.has_told = True
        self._told(piece)

    @sensitive_variables()
    def whole(self) -> bytes | None:
        if self._finish is None:
            return None
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._pieces) if self._pieces else None,
            "refusal": "".join(self._refusal) or None,
        }
        if self._calls:
            message["tool_calls"] = [self._calls[index].as_told() for index in sorted(self._calls)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        facts = {**self._facts, "choices": [choice]}
        if not self._is_usage_whole():
            facts.pop("usage", None)
        return json.dumps(facts, separators=(",", ":")).encode()

    def _is_usage_whole(self) -> bool:
        """Return whether what was told of the usage is of the answer too: some tell it before there is any."""
        usage = told_usage(self._facts.get("usage"))
        return self._is_counted and not (usage is not None and self._length > 0 and not usage.output_tokens)

    def told(self) -> Told | None:
        # What is told before there is anything is of the question alone, and the model may be thinking.
        has_come = self._length > 0 or self._finish is not None
        return told_by(self._facts, has_output=self._length > 0) if self._is_counted and has_come else None


class _Called:
    """A function's call as far as it has arrived."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []

    def as_told(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": "".join(self.pieces)}
        return {"id": self.id, "type": "function", "function": function}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
