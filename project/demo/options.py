"""Numbers as options of the demo's commands."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable


def between(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds, both included, that says what it takes."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ArgumentTypeError(f"must be a whole number from {low} to {high:,}, not {text!r}")
        return number

    return read
