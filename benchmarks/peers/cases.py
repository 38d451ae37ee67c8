"""The two calls that everybody answers: those of ``benchmarks.hits``, in a module that needs nothing but pydantic."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel


class Small(BaseModel):
    """Two fields."""

    name: str
    age: int


class Item(BaseModel):
    """One of many."""

    title: str
    price: float
    count: int
    tags: list[str]
    notes: str


class Large(BaseModel):
    """Fifty nested items, 10 KB."""

    items: list[Item]


@dataclass(frozen=True)
class Case:
    """A text, the type that is asked for, and the data that the provider answers."""

    text: str
    model: type[BaseModel]
    answer: dict[str, Any]


CASES: Final = {
    "small": Case(
        "Ada Lovelace, thirty-six years old, of London, mathematician".ljust(60),
        Small,
        {"name": "Ada Lovelace", "age": 36},
    ),
    "large": Case(
        ("The quick brown fox jumps over the lazy dog. " * 200)[:8_192],
        Large,
        {
            "items": [
                {
                    "title": f"Item number {n}",
                    "price": n * 1.25,
                    "count": n,
                    "tags": ["red", "blue"],
                    "notes": "x" * 108,
                }
                for n in range(50)
            ]
        },
    ),
}
