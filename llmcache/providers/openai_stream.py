"""A completion that comes in chunks, put together as if it had come whole.

So what is kept of it, and what it is validated by, are those of any other: only the caller gets to read it before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.providers.base import Body


def streamed(body: Body) -> dict[str, Any]:
    """Return what asks for a stream, with its usage at its end: without that nobody would know what it cost."""
    told: Any = body.get("stream_options")
    options = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    return {"stream": True, "stream_options": {**options, "include_usage": True}}


class Written:
    """What has arrived of a stream; ``told`` is given the answer's pieces."""

    def __init__(self, told: Callable[[str], object]) -> None:
        self._told = told
        self._facts: dict[str, Any] = {"id": "", "object": "chat.completion", "created": 0, "model": ""}
        self._pieces: list[str] = []
        self._refusal: list[str] = []
        self._finish: str | None = None

    @property
    def answer(self) -> str:
        """The answer's text so far."""
        return "".join(self._pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the provider has said how the answer ends."""
        return self._finish is not None

    @sensitive_variables()
    def add(self, chunk: Any) -> None:
        """Take in one of the SDK's chunks; whatever a server has put there, for the SDK checks none of it."""
        for name in ("id", "created", "model", "service_tier", "system_fingerprint"):
            value = getattr(chunk, name, None)
            if value is not None:
                self._facts[name] = value
        usage: Any = getattr(chunk, "usage", None)
        if usage is not None:
            # The last word holds: some tell it with each chunk.
            self._facts["usage"] = usage if isinstance(usage, Mapping) else usage.to_dict(mode="json")
        for choice in getattr(chunk, "choices", None) or ():
            if getattr(choice, "index", 0) == 0:
                self._add_choice(choice)

    @sensitive_variables()
    def _add_choice(self, choice: Any) -> None:
        delta = getattr(choice, "delta", None)
        refusal, piece = getattr(delta, "refusal", None), getattr(delta, "content", None)
        if isinstance(refusal, str):
            self._refusal.append(refusal)
        if isinstance(piece, str) and piece:
            self._pieces.append(piece)
            self._told(piece)
        finish = getattr(choice, "finish_reason", None)
        if isinstance(finish, str):
            self._finish = finish

    @sensitive_variables()
    def completion(self) -> bytes:
        """Return the completion as its body would be."""
        message = {
            "role": "assistant",
            "content": self.answer if self._pieces else None,
            "refusal": "".join(self._refusal) or None,
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        return json.dumps({**self._facts, "choices": [choice]}, separators=(",", ":")).encode()
