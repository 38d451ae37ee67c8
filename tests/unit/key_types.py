"""Response types whose keys are written down; a change here changes golden keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Person(BaseModel):
    """A person."""

    name: str
    age: int | None = None


class Ticket(BaseModel):
    title: str = Field(description="One line.")
    price: float
    open: bool
    colour: Colour
    level: Literal["low", "high"]
    at: datetime
    people: list[Person]
    counts: dict[str, int]
    owner: Person | None = None


class Page(BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Point:
    x: int
    y: int


class Row(TypedDict):
    a: str
    b: int


class Node(BaseModel):
    value: int
    children: list[Node]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


Animal = Annotated[Cat | Dog, Field(discriminator="kind")]


class Pair(NamedTuple):
    left: int
    right: str
