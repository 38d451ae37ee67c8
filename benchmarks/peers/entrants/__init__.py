"""The calls that are timed. A function is called once with its surroundings; what it returns makes a call of a case.

A call takes nothing and returns an object of the case's type, or something to await that does. Each is written as that
project's own documentation has it, with the structured output that it offers for OpenAI's API.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.cases import Case

Call = Callable[[], Any]
Asker = Callable[[Case], Call]

MODEL: Final = "gpt-5-mini"
KEY: Final = "sandbox"


@dataclass(frozen=True)
class Place:
    """What an entrant may use."""

    base_url: str
    """The provider's."""
    redis_port: int
    """A Redis on 127.0.0.1; databases are not shared: each entrant has its own names in 0."""
    folder: Path
    """A folder of the entrant's own."""

    @property
    def redis_url(self) -> str:
        """The same Redis as a URL."""
        return f"redis://127.0.0.1:{self.redis_port}/0"


def messages(text: str) -> list[Any]:
    """Return the chat that asks about a text."""
    return [{"role": "user", "content": text}]
