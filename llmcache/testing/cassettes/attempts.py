"""One attempt that is answered by a cassette, and one that a provider answers and a cassette takes down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llmcache.engine.call import Call
from llmcache.providers.base import Body, Failure, Reply
from llmcache.testing.cassettes import replies
from llmcache.testing.cassettes.cleaning import Clean, cleaned_text
from llmcache.testing.cassettes.interactions import Interaction


class Played:
    """An attempt that is answered as it was the first time."""

    def __init__(self, interaction: Interaction, call: Call) -> None:
        self._interaction = interaction
        self._provider = call.plan.provider

    def call(self, body: Body, *, call_id: str, timeout: float, max_bytes: int) -> Reply | Failure:  # noqa: ARG002
        """Return what is recorded."""
        reply = self._interaction.reply
        if isinstance(reply, Failure) or reply.rest:
            return reply
        return replace(reply, rest=self._provider.rest(body, 0.0, usage=reply.usage))

    async def acall(
        self,
        body: Body,
        *,
        call_id: str,
        timeout: float,
        max_bytes: int,
        told: Callable[[str], object] | None = None,
    ) -> Reply | Failure:
        """Return what is recorded; where it is a stream, its text is told at once."""
        reply = self.call(body, call_id=call_id, timeout=timeout, max_bytes=max_bytes)
        text = (reply.answer if isinstance(reply, Reply) else self._interaction.told) or ""
        if told is not None and text:
            told(text)
        return reply


class Recording:
    """An attempt that its provider answers.

    ``begin`` is called when it leaves, and what that returns when it has ended: with what came of it, or with None
    where it was broken off.
    """

    def __init__(
        self,
        call: Call,
        request: dict[str, Any],
        clean: Clean,
        begin: Callable[[], Callable[[Interaction | None], None]],
    ) -> None:
        self._transport = call.plan.provider.transport(call)
        self._request, self._clean, self._begin = request, clean, begin
        self._unkeyed = call.unkeyed

    def call(self, body: Body, *, call_id: str, timeout: float, max_bytes: int) -> Reply | Failure:
        """Make the attempt."""
        made: Interaction | None = None
        end = self._begin()
        try:
            reply = self._transport.call(body, call_id=call_id, timeout=timeout, max_bytes=max_bytes)
            made = self._interaction(reply, "")
        finally:
            end(made)
        return reply

    async def acall(
        self,
        body: Body,
        *,
        call_id: str,
        timeout: float,
        max_bytes: int,
        told: Callable[[str], object] | None = None,
    ) -> Reply | Failure:
        """Make the attempt."""
        made: Interaction | None = None
        end = self._begin()
        pieces: list[str] = []

        def tell(piece: str) -> None:
            pieces.append(piece)
            if told is not None:
                told(piece)

        listener = None if told is None else tell
        try:
            reply = await self._transport.acall(
                body, call_id=call_id, timeout=timeout, max_bytes=max_bytes, told=listener
            )
            made = self._interaction(reply, "".join(pieces))
        finally:
            end(made)
        return reply

    def _interaction(self, reply: Reply | Failure, told: str) -> Interaction:
        told = cleaned_text(told, self._clean) if isinstance(reply, Failure) else ""
        return Interaction(self._request, replies.cleaned(reply, self._clean, self._unkeyed), told)
