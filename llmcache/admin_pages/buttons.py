"""The row of buttons on the page of one entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Button:
    """Something that can be done with an entry, on a page of its own."""

    name: str
    """A word by which the page tells it from others."""
    label: Any
    address: str = ""
    reason: Any = ""
    """What is in the way. Then it is greyed, and leads nowhere."""
