"""Types whose values do not survive a dump and reload, each with an answer."""

import json
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

T = TypeVar("T")


class Aliased(BaseModel):
    first_name: str = Field(alias="firstName")
    last_name: str = Field(validation_alias=AliasChoices("lastName", "surname"))


class Excluded(BaseModel):
    shown: str
    hidden: str = Field(exclude=True)


class Serialised(BaseModel):
    value: int

    @field_serializer("value")
    def shout(self, value: int) -> str:
        return f"number {value}"


class Floats(BaseModel):
    nan: float
    most: float
    least: float


class Secret(BaseModel):
    token: SecretStr


class Bytes(BaseModel):
    data: bytes


class Animal(BaseModel):
    name: str


class Dog(Animal):
    breed: str


class Owner(BaseModel):
    """A field typed with the base, filled by a validator with a subclass."""

    animal: Animal

    @field_validator("animal", mode="before")
    @classmethod
    def choose(cls, value: Any) -> Any:
        return Dog(**value) if isinstance(value, dict) and "breed" in value else value


class Cents(BaseModel):
    """A validator that is not idempotent: what was dumped would be multiplied again."""

    price: float

    @field_validator("price")
    @classmethod
    def in_cents(cls, value: float) -> float:
        return value * 100


class Computed(BaseModel):
    width: int

    @computed_field
    @property
    def area(self) -> int:
        return self.width**2


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


class Private(BaseModel):
    name: str
    _seen: int = PrivateAttr(default=3)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str


class Defaults(BaseModel):
    given: int = 1
    made: list[int] = Field(default_factory=lambda: [1])


class Checked(BaseModel):
    low: int
    high: int

    @model_validator(mode="after")
    def ordered(self) -> "Checked":
        if self.low > self.high:
            self.low, self.high = self.high, self.low
        return self


class Names(RootModel[list[str]]):
    pass


class ByName(RootModel[dict[str, int]]):
    pass


class Node(BaseModel):
    value: int
    children: "list[Node]" = []


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: T | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Bird(BaseModel):
    kind: Literal["bird"]
    wings: int


class Egg(BaseModel):
    kind: Literal["egg"] = "egg"


class Coin(BaseModel):
    model_config = ConfigDict(frozen=True)

    cents: int


class Place(NamedTuple):
    line: int
    name: str


Animal = Annotated[Cat | Bird, Field(discriminator="kind")]
Thing = Annotated[Animal | Egg, Field(discriminator="kind")]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Row(TypedDict):
    a: int
    b: NotRequired[str]


@dataclass
class Point:
    x: int
    y: int
    labels: list[str] = field(default_factory=list)


class Many(BaseModel):
    at: datetime
    on: date
    lasting: timedelta
    price: Decimal
    id: UUID
    place: Path
    colours: set[Colour]
    pair: tuple[int, str]
    level: Level


ODD: dict[str, tuple[Any, Any]] = {
    "aliases": (Aliased, {"firstName": "Ada", "surname": "Lovelace"}),
    "excluded field": (Excluded, {"shown": "a", "hidden": "b"}),
    "custom serialiser": (Serialised, {"value": 3}),
    "nan and infinity": (Floats, '{"nan": NaN, "most": Infinity, "least": -Infinity}'),
    "secret": (Secret, {"token": "hush"}),
    "bytes": (Bytes, {"data": "\u00e9\u0000"}),
    "subclass in a base-typed field": (Owner, {"animal": {"name": "Rex", "breed": "Pug"}}),
    "validator that is not idempotent": (Cents, {"price": 1.5}),
    "computed field": (Computed, {"width": 4}),
    "extra allowed": (Extra, {"name": "Ada", "more": [1, {"a": None}]}),
    "private attribute": (Private, {"name": "Ada"}),
    "frozen": (Frozen, {"name": "Ada"}),
    "defaults left out": (Defaults, {"given": 1}),
    "model validator": (Checked, {"low": 5, "high": 2}),
    "root model of a list": (Names, ["a", "b"]),
    "root model of a dict": (ByName, {"a": 1}),
    "recursive": (Node, {"value": 1, "children": [{"value": 2, "children": []}]}),
    "generic": (Page[int], {"items": [1, 2], "next": None}),
    "generic of a model": (Page[Cat], {"items": [{"kind": "cat", "lives": 9}], "next": None}),
    "list of models": (list[Cat], [{"kind": "cat", "lives": 9}, {"kind": "cat", "lives": 1}]),
    "dict of models": (dict[str, Cat], {"tom": {"kind": "cat", "lives": 9}}),
    "typed dict": (Row, {"a": 1}),
    "dataclass": (Point, {"x": 1, "y": 2, "labels": ["a"]}),
    "enum": (Colour, "red"),
    "int enum": (Level, 2),
    "literal": (Literal["yes", "no", 3], 3),
    "union": (Cat | Bird, {"kind": "bird", "wings": 2}),
    "discriminated union": (Annotated[Cat | Bird, Field(discriminator="kind")], {"kind": "cat", "lives": 3}),
    "optional that is None": (Cat | None, None),
    "int or str": (int | str, "7"),
    "int": (int, 7),
    "float for int": (int, 7.0),
    "bool": (bool, True),
    "str": (str, "Zo\u00eb \U0001f600"),
    "tuple": (tuple[int, str], [1, "a"]),
    "set": (set[int], [1, 2, 2]),
    "tuple of any length": (tuple[int, ...], [1, 2, 30]),
    "named tuple": (Place, [1, "a b"]),
    "tuple of models": (tuple[Cat, Coin | None], [{"kind": "cat", "lives": 9}, None]),
    "set of models": (set[Coin], [{"cents": 1}, {"cents": 2}, {"cents": 1}]),
    "frozenset": (frozenset[str], ["a b", "c"]),
    "optional that is there": (Cat | None, {"kind": "cat", "lives": 9}),
    "optional list": (list[Cat] | None, None),
    "nested discriminated unions": (Thing, {"kind": "egg"}),
    "optional discriminated union": (Thing | None, {"kind": "bird", "wings": 2}),
    "tuple of discriminated unions": (
        tuple[Animal, ...],
        [{"kind": "bird", "wings": 2}, {"kind": "cat", "lives": 3}],
    ),
    "constraints": (Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2)], [0, 1]),
    "many scalars": (
        Many,
        {
            "at": "2026-01-02T03:04:05+02:00",
            "on": "2026-01-02",
            "lasting": "P1DT2H",
            "price": "1.10",
            "id": "12345678-1234-5678-1234-567812345678",
            "place": "/a/b",
            "colours": ["red"],
            "pair": [1, "x"],
            "level": 2,
        },
    ),
}


def described(value: Any) -> str:
    """Say all that can be seen of a value, in one line that is the same in every process."""
    if isinstance(value, BaseModel):
        parts: dict[str, Any] = {name: described(item) for name, item in value}
        parts |= {f"extra {name}": described(item) for name, item in (value.model_extra or {}).items()}
        return f"{type(value).__name__}{json.dumps(parts)}{sorted(value.model_fields_set)}"
    if isinstance(value, SecretStr):
        return f"SecretStr({value.get_secret_value()!r})"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}{sorted(map(described, value))}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}{[described(item) for item in value]}"
    if isinstance(value, dict):
        return f"dict{[(key, described(item)) for key, item in value.items()]}"
    return f"{type(value).__name__}({value!r})"
