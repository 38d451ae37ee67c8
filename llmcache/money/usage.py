"""Usage: what an attempt consumed, in disjoint classes of tokens, however a provider tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt; the classes do not overlap and their sum is the total."""

    input_tokens: int
    """Input that the provider read anew and did not keep."""
    cache_read_tokens: int
    """Input that the provider took from its own prompt cache: a discount inside a paid call, never a hit."""
    output_tokens: int
    """Output, the model's reasoning included."""
    cache_write_tokens: int = 0
    """Input that the provider put into its own prompt cache."""

    @property
    def total_tokens(self) -> int:
        """The sum of the classes."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )


class _Unlikely(ValueError):
    """What is told cannot be: a negative count, a count that is no whole number, a part larger than its whole."""


def told_usage(told: Any) -> Usage | None:
    """Return the disjoint classes of a reply's ``usage``; None when it does not tell them or tells what cannot be.

    Known shapes: OpenAI's and Azure's (cached input inside ``prompt_tokens``), the same with ``input_tokens`` and
    ``output_tokens``, DeepSeek's (``prompt_cache_hit_tokens``), Anthropic's (cached input beside ``input_tokens``),
    and servers that count reasoning beside the output, which shows in ``total_tokens``.
    """
    if not isinstance(told, Mapping):
        return None
    usage = cast("Mapping[str, Any]", told)
    try:
        return _read(usage)
    except _Unlikely:
        return None


def _read(usage: Mapping[str, Any]) -> Usage | None:
    anew = _count(usage, "prompt_tokens", "input_tokens")
    output = _count(usage, "completion_tokens", "output_tokens")
    if anew is None or output is None:
        return None
    read = _detail(usage, "cached_tokens", "prompt_tokens_details", "input_tokens_details")
    read = _count(usage, "prompt_cache_hit_tokens") or 0 if read is None else read
    beside = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    if beside != (None, None) and "input_tokens" in usage and "prompt_tokens" not in usage:
        made = Usage(anew, beside[0] or 0, output, beside[1] or 0)
    else:
        written = _detail(usage, "cache_write_tokens", "prompt_tokens_details", "input_tokens_details") or 0
        if read + written > anew:
            raise _Unlikely
        made = Usage(anew - read - written, read, output, written)
    return _agreeing(made, usage)


def _agreeing(made: Usage, usage: Mapping[str, Any]) -> Usage | None:
    """Return the usage as far as the total that is told agrees with it, reasoning beside the output added."""
    total = _count(usage, "total_tokens")
    if total is None or total == made.total_tokens:
        return made
    reasoning = _detail(usage, "reasoning_tokens", "completion_tokens_details", "output_tokens_details") or 0
    if total == made.total_tokens + reasoning:
        return made + Usage(0, 0, reasoning)
    return None


def _detail(usage: Mapping[str, Any], name: str, *places: str) -> int | None:
    for place in places:
        details: Any = usage.get(place)
        if isinstance(details, Mapping) and name in details:
            return _count(cast("Mapping[str, Any]", details), name)
    return None


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        count: Any = usage.get(name)
        if count is not None:
            if type(count) is not int or not 0 <= count < 2**53:
                raise _Unlikely
            return count
    return None
