"""What a call costs, and the file that says what was charged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Primes in nobody's price list: a cost made of them can only come from the sandbox's answers.
INPUT_PICO_USD: Final = 1_370_021
"""Price of one uncached input token, in 10⁻¹² US dollars."""
CACHED_INPUT_PICO_USD: Final = 171_383
"""Price of one input token that came from the provider's own prompt cache, in 10⁻¹² US dollars."""
OUTPUT_PICO_USD: Final = 5_480_063
"""Price of one output token, reasoning included, in 10⁻¹² US dollars."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one call, in classes that do not overlap."""

    input_tokens: int
    """Uncached input."""
    cache_read_tokens: int
    output_tokens: int
    """Reasoning included."""
    reasoning_tokens: int

    @property
    def price_pico_usd(self) -> int:
        """The call's price in 10⁻¹² US dollars."""
        paid_input = self.input_tokens * INPUT_PICO_USD + self.cache_read_tokens * CACHED_INPUT_PICO_USD
        return paid_input + self.output_tokens * OUTPUT_PICO_USD

    def as_usage(self) -> dict[str, Any]:
        """Return them as OpenAI tells them: cached input inside the prompt, reasoning inside the completion."""
        prompt = self.input_tokens + self.cache_read_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.output_tokens,
            "total_tokens": prompt + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cache_read_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def tokens_of_call(seed: int, number: int) -> Tokens:
    """Return the tokens of the `number`-th charged call: a function of both alone, whatever is asked and by whom."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=10).digest()
    prompt, cached, visible, reasoning = (int.from_bytes(digest[at : at + 2]) for at in (0, 2, 4, 6))
    prompt = 60 + prompt % 1_940
    # Every third call or so finds a part of its prompt in the provider's cache, seldom the whole of it.
    cached = cached % (prompt + 1) if digest[8] % 3 == 0 else 0
    reasoning = reasoning % 400 if digest[9] % 4 == 0 else 0
    return Tokens(prompt - cached, cached, 1 + visible % 600 + reasoning, reasoning)


def read_charges(path: str | Path, start: int = 0) -> list[dict[str, Any]]:
    """Return the charged calls in a charge file, from byte `start` on, in the order in which they were charged.

    Each has ``n`` (the call's number), ``id`` (the completion's), ``client_request_id`` (the header
    ``X-Client-Request-Id``, or None), ``model``, ``input_tokens`` (uncached), ``cache_read_tokens``,
    ``output_tokens``, ``price_pico_usd`` and ``t`` (unix seconds). May be called while another process writes.
    """
    with Path(path).open("rb") as file:
        file.seek(start)
        whole, _, _ = file.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


class ChargeFile:
    """A file with one line of JSON for each charged call, in a place of its own unless `path` is given."""

    def __init__(self, path: str | Path | None) -> None:
        self._own_folder = Path(tempfile.mkdtemp(prefix="llmcache-sandbox-")) if path is None else None
        self.path = Path(path) if path is not None else Path(f"{self._own_folder}/charges.jsonl")
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._start = os.fstat(self._file).st_size
        self._kept: list[dict[str, Any]] | None = None

    def append(self, charge: dict[str, Any]) -> None:
        """Add a call in one write, so that no reader and no other writer sees half a line."""
        line = json.dumps(charge, separators=(",", ":")).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"the charge file {self.path} took only a part of a line; is the disk full?")

    def read(self) -> list[dict[str, Any]]:
        """Return the calls that were charged since this object was made."""
        return read_charges(self.path, self._start) if self._kept is None else self._kept

    def close(self) -> None:
        """Close the file; one in a place of its own is removed, and `read` goes on telling what was in it."""
        if self._kept is None:
            self._kept = self.read()
            os.close(self._file)
            if self._own_folder is not None:
                shutil.rmtree(self._own_folder)
