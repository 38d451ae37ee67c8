"""``@cached``: which calls share a value, what is kept and what is not, and how the engine is behind it."""

import asyncio
import copy
import dataclasses
import enum
import inspect
import logging
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextvars import ContextVar, copy_context
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from types import MethodType, SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from asgiref.sync import iscoroutinefunction
from django.contrib.auth.models import Group
from django.utils.safestring import SafeString
from pydantic import BaseModel, Field, PrivateAttr, field_serializer, field_validator

import llmcache
from llmcache import CacheInfo, cached
from llmcache.engine import process
from llmcache.functions.arguments import content_of
from llmcache.models import CacheEntry, ProviderCall
from llmcache.testing.sandbox import Sandbox
from tests.conftest import JournalReader, MovedClock, child_environment, llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.flows.test_flights import together, wait_until

ran: list[Any] = []
"""What the functions here were called with."""


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


class Point(BaseModel):
    """A place."""

    x: float
    label: str = ""


@cached
def locate(city: str, precision: int = 2, *rest: Any, **more: Any) -> Point:
    """Find a city."""
    ran.append((city, precision, *rest, *more.items()))
    return Point(x=len(city), label=city)


@cached(ttl=60)
async def alocate(city: str) -> list[Point]:
    ran.append(city)
    await asyncio.sleep(0)
    return [Point(x=1, label=city)]


@cached
def places(count: int) -> Iterator[Point]:
    for number in range(count):
        ran.append(number)
        yield Point(x=number)
    if count > 90:
        raise RuntimeError("too many")


@cached
async def aplaces(count: int) -> AsyncIterator[str]:
    for number in range(count):
        ran.append(number)
        yield f"place {number}"


class Service:
    """Has methods whose values are kept."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    @cached
    def whole(self, number: int) -> int:
        ran.append((type(self).__name__, number))
        return number

    @cached(key=lambda self, number: [self.name, number])
    def own(self, number: int) -> str:
        ran.append((self.name, number))
        return f"{self.name} {number}"

    @classmethod
    @cached
    def of_class(cls, number: int) -> str:
        ran.append((cls.__name__, number))
        return cls.__name__

    @staticmethod
    @cached
    def of_nobody(number: int) -> int:
        ran.append(number)
        return number

    @cached
    async def later(self, number: int) -> int:
        ran.append(number)
        return number


class OtherService(Service):
    """Inherits them."""


# -- which calls share a value


def test_a_repeat_is_answered_from_the_cache_as_a_fresh_object(forget_memory: Callable[[], None]) -> None:
    first, second = locate("Rome"), locate("Rome")
    assert (first, second, ran) == (Point(x=4, label="Rome"), first, [("Rome", 2)])
    assert first is not second
    second.label = "changed"
    forget_memory()
    assert [locate("Rome", 2), locate(city="Rome"), locate(precision=2, city="Rome")] == [first] * 3
    assert len(ran) == 1
    assert locate("Rome", 3) == first
    assert locate("Rome", 2, "more", b=1, a=2) == locate("Rome", 2, "more", a=2, b=1)
    assert len(ran) == 3
    assert (pickle.loads(pickle.dumps(locate)), copy.deepcopy(locate)) == (locate, locate)
    assert (locate.__name__, locate.__doc__, locate.__wrapped__("Oslo")) == ("locate", "Find a city.", locate("Oslo"))


CHILD = """
import django
django.setup()
from tests.flows.test_decorated import locate, places, ran
print(locate("Rome").label, [each.x for each in places(2)], len(ran), locate.key("Rome"))
"""


def test_another_process_finds_the_value() -> None:
    locate("Rome")
    list(places(2))
    command = [sys.executable, "-c", CHILD]
    environment = child_environment(PYTHONHASHSEED="7")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"Rome [0.0, 1.0] 0 {locate.key('Rome')}\n", done.stderr


class Color(enum.IntEnum):
    """Is equal to a number."""

    RED = 1


class Pair(NamedTuple):
    """Is equal to a tuple."""

    a: int
    b: int


@dataclasses.dataclass
class Box:
    """Holds something."""

    held: Any


VALUES: list[Any] = [
    *(0, 0.0, -0.0, False, None, 1, 1.0, True, "1", b"1", Color.RED, Decimal(1), Decimal("1.0"), SafeString("1")),
    *([1], (1,), Pair(1, 2), (1, 2), {1}, frozenset({1}), {1: 2}, {"1": 2}, {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    *([], (), {}, set(), "", b"", [[1], 2], [1, [2]], ["1,2"], ["1", "2"], bytearray(b"1")),
    *(date(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), timedelta(1), int, str, Point),  # noqa: DTZ001
    *(datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/London")), UUID(int=1), PurePosixPath("1"), "é", "e\u0301"),
    *(Box(1), Box("1"), Box(Box(1)), Point(x=1), Point(x=1, label="a"), {"x": 1.0, "label": ""}),
]


def test_each_value_is_an_argument_of_its_own_and_equal_to_its_like() -> None:
    written = [content_of("f", {"a": value}, None) for value in VALUES]
    assert len(set(written)) == len(VALUES)
    assert [content_of("f", {"a": value}, None) for value in VALUES] == written
    assert content_of("f", {"a": {3, 1, 2}}, None) == content_of("f", {"a": {2, 3, 1}}, None)
    assert content_of("f", {"a": 1}, "one.Class") != content_of("f", {"a": 1}, None)
    assert content_of("f", {"a": 1, "b": 2}, None) != content_of("f", {"a": [1, ["b", 2]]}, None)
    # Also where they are looked up before they are written.
    for value in (0, 0.0, False, -0.0, None, "0", b"0") * 2:
        locate("x", value)
    assert len(ran) == 7


@pytest.mark.parametrize(
    "value",
    [object(), lambda: 1, float("nan"), [float("inf")], {"a": [object()]}, Group(name="a"), iter([1]), range(3)],
    ids=["object", "lambda", "nan", "infinity", "nested", "row", "iterator", "range"],
)
def test_what_cannot_be_in_a_key_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(llmcache.InvalidRequest, match=r"The argument precision= of .*locate\(\) cannot be in a key"):
        locate("Rome", value)
    holding_itself: list[Any] = []
    holding_itself.append(holding_itself)
    with pytest.raises(llmcache.InvalidRequest, match="holds itself"):
        locate("Rome", holding_itself)  # type: ignore[arg-type]
    with pytest.raises(llmcache.InvalidText, match="lone surrogate"):
        locate("\ud800")
    with llmcache_settings(MAX_TEXT_BYTES=100), pytest.raises(llmcache.InputTooLarge, match="key= function"):
        locate("x" * 200)
    with pytest.raises(TypeError, match="missing a required argument: 'city'"):
        locate()  # type: ignore[call-arg]
    assert ran == []


@pytest.mark.django_db
def test_methods_leave_the_instance_out_and_the_class_in() -> None:
    one, other = Service("one"), Service("other")
    assert [one.whole(1), other.whole(1), Service.whole(one, 1), OtherService().whole(1), one.whole(1)] == [1] * 5
    assert ran == [("Service", 1), ("OtherService", 1)]
    assert [one.own(1), other.own(1), one.own(1)] == ["one 1", "other 1", "one 1"]
    assert [Service.of_class(1), OtherService.of_class(1), one.of_class(1)] == ["Service", "OtherService", "Service"]
    assert [Service.of_nobody(1), one.of_nobody(1)] == [1, 1]
    assert len(ran) == 7
    assert one.whole.key(1) == other.whole.key(1) != OtherService().whole.key(1)
    assert asyncio.run(one.later(1)) == asyncio.run(other.later(1)) == 1
    assert (len(ran), iscoroutinefunction(one.later), iscoroutinefunction(one.whole)) == (8, True, False)
    one.whole.cache_clear()
    assert one.whole.cache_info() == CacheInfo(0, 0, None, 0)


def test_a_class_method_whose_class_nobody_tells_has_no_key() -> None:
    # As Python does from 3.13 on.
    found = MethodType(Service.__dict__["of_class"].__func__, OtherService)
    assert (found(1), ran) == ("OtherService", [("OtherService", 1)])
    assert found.key(OtherService, 1) != found.key(Service, 1)
    for call in (found.key, found.invalidate):
        with pytest.raises(TypeError, match=r"Service\.of_class\(\) is a class method.* Pass that first"):
            call(1)


def test_a_method_looks_like_one() -> None:
    one, other = Service("one"), Service("other")
    assert one.whole == one.whole
    assert hash(one.whole) == hash(one.whole)
    assert one.whole not in (other.whole, one.own)
    assert list(inspect.signature(one.whole).parameters) == ["number"]
    assert one.whole.__wrapped__(1) == 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="has no attribute 'holw'"):
        one.whole.holw  # type: ignore[attr-defined]  # noqa: B018
    assert copy.copy(one.whole) == one.whole


def test_recursion_is_a_call_as_any_other_unless_it_is_the_same() -> None:
    assert fibonacci(25) == 75_025
    assert fibonacci.cache_info().misses == 26
    with pytest.raises(llmcache.RecursiveExtract):
        itself(1)
    with pytest.raises(llmcache.RecursiveExtract):
        asyncio.run(aitself(1))


def test_generators_call_themselves_with_other_arguments_only() -> None:
    assert list(countdown(3)) == list(countdown(3)) == [3, 2, 1, 0]
    assert asyncio.run(all_of(acountdown(3))) == [3, 2, 1, 0]
    with pytest.raises(llmcache.RecursiveExtract, match="calls itself with its own arguments"):
        list(countdown(-1))
    with pytest.raises(llmcache.RecursiveExtract):
        asyncio.run(all_of(acountdown(-1)))
    # While one of them stands still, whoever goes through it may begin it anew.
    begun = countdown(4)
    assert next(begun) == 4
    assert list(countdown(4)) == [4, 3, 2, 1, 0]


@cached
def countdown(n: int) -> Iterator[int]:
    yield n
    if n:
        yield from countdown(max(n - 1, -1))


@cached
async def acountdown(n: int) -> AsyncIterator[int]:
    yield n
    if n:
        async for each in acountdown(max(n - 1, -1)):
            yield each


async def all_of(values: AsyncIterator[int]) -> list[int]:
    return [each async for each in values]


@cached
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@cached
def itself(n: int) -> int:
    return itself(n)


@cached
async def aitself(n: int) -> int:
    return await aitself(n)


# -- asynchronous, generators


def test_an_asynchronous_function_runs_once_in_its_callers_loop() -> None:
    assert iscoroutinefunction(alocate)
    assert not iscoroutinefunction(locate)
    assert asyncio.run(alocate("Rome")) == asyncio.run(alocate("Rome")) == [Point(x=1, label="Rome")]

    async def many() -> None:
        found = await asyncio.gather(*(slow("a") for _ in range(20)))
        assert set(found) == {str(id(asyncio.get_running_loop()))}

    asyncio.run(many())
    assert (ran.count("Rome"), ran.count("a")) == (1, 1)
    assert slow.cache_info()[:2] == (19, 1)


@cached
async def slow(name: str) -> str:
    ran.append(name)
    await asyncio.sleep(0.05)
    return str(id(asyncio.get_running_loop()))


def test_who_is_cancelled_leaves_it_to_the_others() -> None:
    async def main() -> tuple[str, str]:
        first = asyncio.ensure_future(slow("b"))
        while "b" not in ran:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(slow("b"))
        await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second, await slow("b")

    one, other = asyncio.run(main())
    assert (one == other, ran) == (True, ["b", "b"])


def test_a_loop_that_is_closed_while_it_runs_one_strands_nobody() -> None:
    loop, flights = asyncio.new_event_loop(), process.current().flights

    async def until_it_runs() -> None:
        while "c" not in ran:
            await asyncio.sleep(0)

    stranded, context = slow("c"), copy_context()
    task = loop.create_task(stranded, context=context)
    loop.run_until_complete(until_it_runs())
    loop.close()
    assert len(flights) == 1
    assert asyncio.run(asyncio.wait_for(slow("c"), 30))
    assert (len(flights), ran) == (0, ["c", "c"])
    # Nothing else ends it, and asyncio would complain.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    context.run(stranded.close)


def test_arguments_that_change_before_the_function_runs_keep_nothing() -> None:
    async def main() -> Any:
        given = [1]
        call = total(given)
        given.append(2)
        return await call, await total([1]), await total([1]), await total([1, 2])

    assert asyncio.run(main()) == (3, 1, 1, 3)
    assert ran == [[1, 2], [1], [1, 2]]
    given = [1]
    items = each_of(given)
    given.append(2)
    assert (list(items), list(each_of([1])), list(each_of([1]))) == ([1, 2], [1], [1])
    # What it changes itself is its own affair.
    assert (emptied([1, 2]), emptied([1, 2]), emptied.cache_info().hits) == (2, 2, 1)


@cached
def each_of(numbers: list[int]) -> Iterator[int]:
    yield from numbers


@cached
def emptied(numbers: list[int]) -> int:
    found = len(numbers)
    numbers.clear()
    return found


@cached
async def total(numbers: list[int]) -> int:
    ran.append(numbers)
    return sum(numbers)


def test_a_function_that_would_stop_a_loop_is_refused() -> None:
    async def main() -> int:
        for call in (lambda: locate("Rome"), lambda: list(places(1))):
            with pytest.raises(llmcache.AsyncContext, match="async def"):
                call()
        for call, instead in ((lambda: locate.invalidate("Rome"), "ainvalidate"), (locate.cache_clear, "acache_clear")):
            with pytest.raises(llmcache.AsyncContext, match=rf"locate\..* Await \.{instead}\(\)"):
                call()
        return (await asyncio.to_thread(locate, "Rome")).x

    assert asyncio.run(main()) == 4


def test_threads_that_ask_at_once_run_it_once() -> None:
    found = together(8, lambda: waits("a"))
    assert (found, ran) == (["a"] * 8, ["a"])
    assert waits.cache_info()[:2] == (7, 1)


@cached
def waits(name: str) -> str:
    ran.append(name)
    flights = process.current().flights._flights
    flight = next(iter(flights.values()))
    wait_until(lambda: len(flight.landed._cond._waiters) >= 7)  # type: ignore[attr-defined]
    return name


def test_a_generator_is_kept_at_a_clean_end_and_replayed() -> None:
    first = list(places(3))
    assert (list(places(3)), ran) == (first, [0, 1, 2])
    assert list(places(0)) == list(places(0)) == []
    ran.clear()

    async def main() -> list[list[str]]:
        return [[each async for each in aplaces(2)] for _ in range(2)]

    assert asyncio.run(main()) == [["place 0", "place 1"]] * 2
    assert ran == [0, 1]
    assert places.cache_info()[:2] == (2, 2)


def test_a_generator_that_is_closed_early_or_fails_is_not_kept() -> None:
    opened = places(3)
    assert next(opened) == Point(x=0)
    opened.close()  # type: ignore[attr-defined]
    ran.clear()
    assert len(list(places(3))) == 3 == len(ran)
    for _ in range(2):
        ran.clear()
        with pytest.raises(RuntimeError, match="too many"):
            list(places(91))
        assert len(ran) == 91

    async def main() -> None:
        async for _ in aplaces(5):
            break
        ran.clear()
        assert len([each async for each in aplaces(5)]) == 5 == len(ran)

    asyncio.run(main())


def test_an_item_is_kept_as_it_was_given() -> None:
    for each in places(4):
        each.label = "changed by who got it"
    ran.clear()
    assert [each.label for each in places(4)] == [""] * 4
    assert ran == []


@pytest.mark.django_db
def test_what_is_invalidated_while_a_function_runs_is_not_served() -> None:
    assert invalidating(1) == 1
    assert invalidating(1) == 1
    assert ran == [1, 1]
    assert list(ainvalidating(1)) == list(ainvalidating(1)) == [1]
    assert ran == [1, 1, 2, 2]


@cached
def invalidating(n: int) -> int:
    ran.append(n)
    if len(ran) == 1:
        llmcache.invalidate(kind="invalidating")
    return n


@cached
def ainvalidating(n: int) -> Iterator[int]:
    ran.append(2)
    if len(ran) == 3:
        llmcache.invalidate(kind="ainvalidating")
    yield n


# -- at decoration


def test_what_cannot_be_cached_is_refused_where_it_is_decorated() -> None:
    def unsaid(a: int):  # type: ignore[no-untyped-def]
        return a

    def nothing() -> None: ...
    def anything() -> Any: ...
    def handle() -> Callable[[], int]: ...  # type: ignore[empty-body]
    def iterator() -> Iterator[int]: ...  # type: ignore[empty-body]
    def given() -> list[int]:
        yield 1  # type: ignore[misc]

    def sent() -> Generator[int, str, None]:
        yield 1

    def returning() -> Generator[int, None, str]:
        yield 1
        return "a"

    for function, says in (
        (unsaid, "does not say in an annotation"),
        (nothing, "does not say in an annotation"),
        (anything, "does not say in an annotation"),
        (handle, "cannot be used"),
        (iterator, "Make it a generator function"),
        (given, "Iterator"),
        (sent, "sent values"),
        (returning, "returns one at its end"),
    ):
        with pytest.raises(llmcache.UnsupportedType, match=says):
            cached(function)
    for wrong in (len, Point, 7, classmethod(nothing), staticmethod(nothing)):
        with pytest.raises(llmcache.ConfigurationError, match="@cached"):
            cached(wrong)  # type: ignore[call-overload]
    with pytest.raises(llmcache.InvalidRequest, match="has no argument tll="):
        cached(tll=3)  # type: ignore[call-overload]
    with pytest.raises(llmcache.InvalidRequest, match="key= of @cached"):
        cached(key="a")  # type: ignore[call-overload]
    with pytest.raises(llmcache.InvalidRequest, match="kind="):
        cached(kind="")


def test_a_function_that_depends_on_what_is_round_it_needs_a_name_for_that() -> None:
    def make(factor: int, **given: Any) -> Callable[[int], int]:
        @cached(**given)
        def times(n: int) -> int:
            ran.append(n)
            return n * factor

        return times

    with pytest.raises(llmcache.ConfigurationError, match="uses 'factor'"):
        make(2)
    assert [make(2, version="2")(3), make(3, version="3")(3), make(2, version="2")(3)] == [6, 9, 6]
    assert make(4, key=lambda n: [4, n])(3) == 12
    assert len(ran) == 3

    def helper(n: int) -> int:
        return n + 1

    @cached
    def helped(n: int) -> int:
        return helper(n) if n > 9 else helped(n + 1)

    assert helped(8) == 11


def test_the_function_of_a_program_is_named_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(n: int) -> int:
        return n

    plain.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    alone = cached(plain)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="project.job"))
    named = cached(plain)
    assert repr(alone).startswith("<cached function __main__.test_decorated.test_the_function")
    assert repr(named).startswith("<cached function project.job.test_the_function")
    assert alone.key(1) != named.key(1)


def test_a_type_that_is_defined_later_is_looked_for_at_the_call() -> None:
    @cached
    def later() -> "Later":  # noqa: F821  # type: ignore[name-defined]
        return Point(x=1)

    with pytest.raises(llmcache.UnsupportedType, match="refers to Later, which is not defined"):
        later()
    globals()["Later"] = Point
    try:
        assert later() == Point(x=1)
    finally:
        del globals()["Later"]


# -- what does not come back equal


class Hidden(BaseModel):
    """Leaves something out of its dump."""

    a: int
    secret: str = Field(default="", exclude=True)


class Serialized(BaseModel):
    """Writes something else than it holds."""

    a: int

    @field_serializer("a")
    def more(self, a: int) -> int:
        return a + 1


class Counting(BaseModel):
    """Changes what it is given."""

    a: int

    @field_validator("a")
    @classmethod
    def more(cls, a: int) -> int:
        return a + 1


class Private(BaseModel):
    """Holds what is no field."""

    a: int
    _kept: int = PrivateAttr(default=0)


class Loose(BaseModel):
    """Holds anything."""

    model_config = {"arbitrary_types_allowed": True}
    a: Any


class Wide(Point):
    """Has more than its base."""

    y: float = 0.0


class Outer(BaseModel):
    """Holds several."""

    points: list[Point]
    at: datetime | None = None


def privately() -> Private:
    made = Private(a=1)
    made._kept = 7
    return made


LOST: dict[str, tuple[Any, Callable[[], Any], str]] = {
    "excluded": (Hidden, lambda: Hidden(a=1, secret="s"), "secret, a str, comes back as another"),
    "serializer": (Serialized, lambda: Serialized(a=1), "a, a int, comes back as another"),
    "validator": (Counting, lambda: Counting(a=1), "a, a int, comes back as another"),
    "private": (Private, privately, "_kept"),
    "nan": (Point, lambda: Point(x=float("nan")), "x does not load again"),
    "constraint": (Annotated[int, Field(gt=3)], lambda: 1, r": the value does not load again \(greater_than\)"),
    "item's constraint": (list[Annotated[int, Field(gt=3)]], lambda: [4, 1], r": the value\[1\] does not load again"),
    "subclass": (Point, lambda: Wide(x=1, y=2), "Wide"),
    "subclass within": (Outer, lambda: Outer(points=[Point(x=1), Wide(x=1, y=2)]), "is not what|points"),
    "tuple in anything": (Loose, lambda: Loose(a=(1, 2)), "a is a tuple and comes back as a list"),
    "bytes in anything": (Loose, lambda: Loose(a=b"1"), "a is a bytes"),
    "zone": (Outer, lambda: Outer(points=[], at=datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Oslo"))), "at, a date"),
    "another type": (Point, lambda: {"x": 1.0}, "is not what the function's annotation says|dict"),
    "number for a text": (str, lambda: 1, "is not what the function's annotation says|int"),
    "key of a dict": (dict[Any, int], lambda: {1: 2}, "comes back with other parts"),
}


@pytest.mark.parametrize("case", LOST)
def test_what_does_not_come_back_equal_is_given_and_not_kept(case: str, caplog: pytest.LogCaptureFixture) -> None:
    annotation, make, says = LOST[case]
    made: list[Any] = []

    def odd(n: int) -> Any:
        made.append(make())
        return made[-1]

    odd.__annotations__["return"] = annotation
    function = cached(version="1")(odd)
    with caplog.at_level(logging.WARNING, "llmcache.call"):
        assert function(1) is made[0]
        assert function(1) is made[1]
        assert function(2) is made[2]
    (record,) = [each for each in caplog.records if "is not kept" in each.getMessage()]
    assert re.search(says, record.getMessage()), record.getMessage()
    assert "odd()" in record.getMessage()
    assert function.cache_info() == CacheInfo(0, 3, None, 0)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Outer, Outer(points=[Point(x=-0.0)], at=datetime(2026, 1, 1, tzinfo=UTC))),
        (dict[str, list[Point]], {"b": [Point(x=1)], "a": []}),
        (tuple[int, str], (1, "a")),
        (set[int], {3, 1}),
        (Pair, Pair(1, 2)),
        (Literal["a", "b"], "a"),
        (Point | Hidden, Hidden(a=1)),
        (Color, Color.RED),
        (Decimal, Decimal("1.10")),
        (bytes, b"abc"),
        (str, ""),
        (int | None, None),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_what_comes_back_equal_is_kept(annotation: Any, value: Any) -> None:
    def good(n: int) -> Any:
        ran.append(n)
        return value

    good.__annotations__["return"] = annotation
    function = cached(version="1")(good)
    for _ in range(2):
        found = function(1)
        assert (found, type(found)) == (value, type(value))
        # pydantic has a class of its own for a zone.
        assert repr(found).replace("TzInfo(0)", "datetime.timezone.utc") == repr(value)
    assert ran == [1]


def test_what_a_function_raises_is_its_callers_and_is_not_kept() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            divided(0)
        with pytest.raises(ZeroDivisionError):
            asyncio.run(adivided(0))
    assert divided(2) == 0.5
    assert (len(ran), divided.cache_info()[:2]) == (5, (0, 3))


@cached
def divided(n: int) -> float:
    ran.append(n)
    return 1 / n


@cached
async def adivided(n: int) -> float:
    ran.append(n)
    return 1 / n


# -- options


tenant: ContextVar[str | None] = ContextVar("tenant", default=None)


def test_tenants_never_meet() -> None:
    with llmcache_settings(TENANT="tests.flows.test_decorated.tenant_here"):
        process.install(None)
        for name in ("a", "b", "a", "b", None):
            tenant.set(name)
            locate("Rome")
            assert asyncio.run(alocate("Rome"))
            assert list(places(1))
        assert (len(ran), ran.count("Rome")) == (9, 3)
        assert locate.cache_info().hits == 2
    with llmcache_settings(TENANT_REQUIRED=True), pytest.raises(llmcache.TenantMissing):
        process.install(None)
        locate("Rome")


def tenant_here() -> str | None:
    return tenant.get()


@pytest.mark.django_db
def test_tenant_subject_and_tags_may_follow_from_the_arguments() -> None:
    assert [mail("ann", 1), mail("ben", 1), mail("ann", 1)] == [1, 1, 1]
    assert ran == ["ann", "ben"]
    llmcache.invalidate(subject="ann")
    assert [mail("ann", 1), mail("ben", 1)] == [1, 1]
    assert ran == ["ann", "ben", "ann"]
    llmcache.invalidate(tag="n1", tenant="acme")
    assert [mail("ann", 1), mail("ben", 1)] == [1, 1]
    assert len(ran) == 5


@cached(tenant="acme", subject=lambda user, n: user, tags=lambda user, n: [f"n{n}"])
def mail(user: str, n: int) -> int:
    ran.append(user)
    return n


def test_time_and_kinds_hold_as_for_a_provider(clock: MovedClock) -> None:
    with clock.kept(), llmcache_settings(KINDS={"locate": {"ttl": 100}}), clock.kept():
        asyncio.run(alocate("Rome"))
        locate("Rome")
        clock.move(70)
        asyncio.run(alocate("Rome"))
        locate("Rome")
        assert [ran.count("Rome"), len(ran)] == [2, 3]
        clock.move(70)
        locate("Rome")
        assert len(ran) == 4


def test_a_stale_value_is_given_and_renewed_in_the_background(clock: MovedClock) -> None:
    with clock.kept():
        assert aged(1) == "1 of MainThread"
        clock.move(100)
        assert aged(1) == "1 of MainThread"
        assert process.current().refreshes.wait(30)
        assert aged(1).startswith("2 of llmcache-functions")

        async def main() -> None:
            here = str(id(asyncio.get_running_loop()))
            assert await aaged(1) == here
            clock.move(100)
            assert await aaged(1) == here
            # It runs where what it uses belongs.
            while not process.current().refreshes.wait(0):
                await asyncio.sleep(0.01)
            assert ran[2:] == [here, here]
            assert await aaged(1) == here

        asyncio.run(main())
        assert len(ran) == 4


@cached(ttl=60, stale_ttl=1_000)
def aged(n: int) -> str:
    ran.append(n)
    return f"{len(ran)} of {threading.current_thread().name}"


@cached(ttl=60, stale_ttl=1_000)
async def aaged(n: int) -> str:
    ran.append(str(id(asyncio.get_running_loop())))
    return ran[-1]


def test_the_cache_can_be_left_alone() -> None:
    with llmcache.bypass():
        locate("Rome")
        assert list(places(1))
    assert locate.bypass("Rome") == Point(x=4, label="Rome")
    with llmcache_settings(ENABLED=False):
        process.install(None)
        locate("Rome")
    assert len(ran) == 4
    assert [never("a"), never("a")] == ["a", "a"]
    with pytest.raises(llmcache.NotCached):
        only("a")
    assert fresh("a") == fresh("a")
    assert len(ran) == 8


@cached(ttl=0)
def never(name: str) -> str:
    ran.append(name)
    return name


@cached(cache="only")
def only(name: str) -> str:
    ran.append(name)
    return name


@cached(cache="refresh")
def fresh(name: str) -> str:
    ran.append(name)
    return name


@pytest.mark.django_db
def test_what_functools_tells_and_more() -> None:
    for name in ("a", "b", "a"):
        locate(name)
    assert locate.cache_info() == CacheInfo(hits=1, misses=2, maxsize=None, currsize=2)
    locate.invalidate("a")
    locate("a")
    locate("b")
    assert [each[0] for each in ran] == ["a", "b", "a"]
    locate.cache_clear()
    assert locate.cache_info() == CacheInfo(0, 0, None, 0)
    locate("b")
    assert (len(ran), locate.cache_info()) == (4, CacheInfo(0, 1, None, 1))
    assert (len(locate.key("a")), locate.key("a")) == (64, locate.key(city="a", precision=2))
    assert locate.key("a") != locate.key("b")
    for call in (locate, locate.key, locate.invalidate):
        with pytest.raises(TypeError, match=r"^locate\(\) takes other arguments: .*'city'"):
            call(precision=1)  # type: ignore[call-arg]


@pytest.mark.django_db(transaction=True)
def test_what_functools_tells_awaited() -> None:
    async def main() -> None:
        await alocate("a")
        await alocate.ainvalidate("a")
        await alocate("a")
        await alocate.acache_clear()
        await alocate("a")

    asyncio.run(main())
    assert ran == ["a"] * 3


# -- money, counts, rows


class Ticket(BaseModel):
    """A ticket."""

    title: str


@cached
def sorted_out(text: str, depth: int = 0) -> Ticket:
    ran.append(text)
    if depth:
        return sorted_out(text, depth - 1)
    return llmcache.extract(text, Ticket)


@cached
async def asorted_out(text: str) -> list[Ticket]:
    ran.append(text)
    return [await llmcache.aextract(text, Ticket)]


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["sync", "nested", "async"])
def test_a_function_that_asks_inside_is_not_counted_twice(way: str, sandbox: Sandbox, journal: JournalReader) -> None:
    """Spent and saved together are what all of it would have cost without a cache."""
    calls: Mapping[str, Callable[[], Any]] = {
        "sync": lambda: sorted_out("a"),
        "nested": lambda: sorted_out("a", 2),
        "async": lambda: asyncio.run(asorted_out("a")),
    }
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        process.install(None)
        for _ in range(3):
            calls[way]()
        # Asked by somebody else before: a hit inside saves, and so does each hit of the function.
        llmcache.extract("b", Ticket)
        for _ in range(2):
            sorted_out("b")
        costs = {charge["price_pico_usd"] for charge in sandbox.charges()}
        a, b = (charge["price_pico_usd"] for charge in sandbox.charges())
        assert (sandbox.calls, len(costs)) == (2, 2)
        whole = llmcache.stats()
        by = llmcache.stats(by="kind")
        assert whole.spent_usd == Decimal(a + b) / 10**12
        assert whole.saved_usd == Decimal(2 * a + 2 * b) / 10**12
        assert by["Ticket"].saved_usd == Decimal(b) / 10**12
        assert (whole.coverage, ProviderCall.objects.count()) == (1, 2)
        assert [record.event for record in journal.records()] == ["started", "settled"] * 2
        assert (by["Ticket"].misses, by["Ticket"].hits) == (2, 1)
        name = "asorted_out" if way == "async" else "sorted_out"
        entry = CacheEntry.objects.get(kind=name, key=_key_of(way))
        assert (entry.cost_pico_usd, entry.response_type.startswith(("Ticket", "list"))) == (a, True)
        assert (entry.model, entry.source) == (f"function/{__name__}.{name}", "function")


def _key_of(way: str) -> str:
    return asorted_out.key("a") if way == "async" else sorted_out.key("a", 2 if way == "nested" else 0)


@pytest.mark.django_db
def test_a_generator_tells_what_it_cost_inside(sandbox: Sandbox) -> None:
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        process.install(None)
        for _ in range(3):
            assert len(list(tickets("a b c"))) == 3
        bill = Decimal(sandbox.bill_pico_usd) / 10**12
        stats = llmcache.stats()
        assert (stats.spent_usd, stats.saved_usd, sandbox.calls) == (bill, 2 * bill, 3)


@cached
def tickets(text: str) -> Iterator[Ticket]:
    for word in text.split():
        yield llmcache.extract(word, Ticket)
