"""Usage: what an attempt consumed, in disjoint classes of tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt; the classes do not overlap and their sum is the total."""

    input_tokens: int
    """Input that the provider read anew."""
    cache_read_tokens: int
    """Input that the provider took from its own prompt cache: a discount inside a paid call, never a hit."""
    output_tokens: int
    """Output, the model's reasoning included."""

    @property
    def total_tokens(self) -> int:
        """The sum of the classes."""
        return self.input_tokens + self.cache_read_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.output_tokens + other.output_tokens,
        )
