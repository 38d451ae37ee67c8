"""What is kept between calls never makes one call's answer another's."""

import abc
import gc
from enum import Enum
from typing import Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

import llmcache
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox
from tests.conftest import JournalReader
from tests.keys_of import key_of


class Person(BaseModel):
    """A person."""

    name: str


def test_what_a_caller_changes_later_is_not_sent_for_another(sandbox: Sandbox) -> None:
    stop = ["a"]
    llmcache.extract("one", Person, stop=stop)
    stop.append("b")
    llmcache.extract("two", Person, stop=["a"])
    assert sandbox.requests[-1].body["stop"] == ["a"]
    llmcache.extract("three", Person, stop=stop)
    assert sandbox.requests[-1].body["stop"] == ["a", "b"]


class CaseBlind(str):
    """A str that calls texts equal which are not."""

    def __eq__(self, other: object) -> bool:
        return self.lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(self.lower())


class Span(NamedTuple):
    low: float


class Number(float):
    pass


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tenant": CaseBlind("ACME")}, {"tenant": CaseBlind("acme")}),
        ({"kind": CaseBlind("A")}, {"kind": CaseBlind("a")}),
        ({"span": Span(1)}, {"span": Span(True)}),
        ({"span": (1,)}, {"span": (True,)}),
        ({"bias": Number(0.0)}, {"bias": Number(-0.0)}),
        ({"bias": 0.0}, {"bias": -0.0}),
        ({"bias": 1}, {"bias": True}),
        ({"bias": 1}, {"bias": 1.0}),
        ({"variant": 1}, {"variant": "1"}),
        ({"tags": ("a", "b")}, {"tags": ("ab",)}),
    ],
    ids=str,
)
def test_arguments_that_python_calls_equal_are_told_apart(
    one: dict[str, Any], other: dict[str, Any], sandbox: Sandbox
) -> None:
    assert llmcache.extract_with_info("x", Person, **one).outcome == "miss"
    # The quick way, which is open to the first of them by now.
    llmcache.extract("x", Person, **other)
    assert sandbox.calls == 2
    assert llmcache.extract_with_info("x", Person, **other).outcome == "hit"
    for options in (one, other):
        llmcache.extract("x", Person, **options)
    assert sandbox.calls == 2


class Sulking(str):
    """A str that cannot be hashed, and not for want of a hash."""

    def __hash__(self) -> int:
        raise RuntimeError("not now")


class Equal(str):
    """A str that calls everything equal to it, and has the hash of another."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("acme")


@pytest.mark.parametrize("option", ["tenant", "system", "kind", "subject", "version"])
def test_a_word_of_another_type_is_not_looked_up(option: str, sandbox: Sandbox) -> None:
    """It has the hash of a word that was, says that it is equal, and is another."""
    options: dict[str, Any] = {option: "acme"}
    for _ in range(2):
        llmcache.extract("x", Person, **options)
    for word in (Equal("initech"), Sulking("hooli"), CaseBlind("ACME")):
        assert llmcache.extract_with_info("x", Person, **{option: word}).outcome == "miss"
        llmcache.extract("x", Person, **{option: word})
        assert llmcache.extract_with_info("x", Person, **{option: str.__str__(word)}).outcome == "hit"
    assert sandbox.calls == 4


@pytest.mark.parametrize("given", [{"tags": ["a"]}, {"tags": {"a"}}, {"stop": ["a"]}, {"bias": {"a": 1}}], ids=str)
def test_what_cannot_be_hashed_is_checked_anew_each_time(given: dict[str, Any], sandbox: Sandbox) -> None:
    for _ in range(3):
        llmcache.extract("x", Person, **given)
    assert sandbox.calls == 1
    assert not any(isinstance(lookup, tuple) for lookup in process.current().prepared._found)


def test_a_parameter_is_sent_as_what_it_is_in_json(sandbox: Sandbox) -> None:
    class Effort(str, Enum):  # noqa: UP042  # what projects on older Pythons have
        LOW = "low"

    llmcache.extract("x", Person, reasoning_effort=Effort.LOW, pair=(1, 2), name=CaseBlind("A"))
    body = sandbox.requests[-1].body
    assert (body["reasoning_effort"], body["pair"], body["name"]) == ("low", [1, 2], "A")
    assert llmcache.extract_with_info("x", Person, reasoning_effort="low", pair=[1, 2], name="A").outcome == "hit"


def test_types_that_python_calls_equal_are_told_apart(sandbox: Sandbox) -> None:
    for annotation in (Literal[1], Literal[True], Literal["a", "b"], Literal["b", "a"], int | str, str | int):
        assert llmcache.extract_with_info("x", annotation).outcome == "miss"
        llmcache.extract("x", annotation)
    assert sandbox.calls == 6


def test_a_list_of_a_rebuilt_model_is_another_type(sandbox: Sandbox) -> None:
    model = create_model("Rebuilt", x=(int, ...))
    before, before_list = key_of("a", model), key_of("a", list[model])  # type: ignore[valid-type]
    llmcache.extract("a", list[model])  # type: ignore[valid-type]
    llmcache.extract("a", model)
    model.model_fields["y"] = FieldInfo(annotation=str)
    model.model_rebuild(force=True)
    assert key_of("a", model) != before
    assert key_of("a", list[model]) != before_list  # type: ignore[valid-type]
    assert hasattr(llmcache.extract("a", list[model])[0], "y")  # type: ignore[valid-type]
    llmcache.extract("a", model)
    kept = process.current().prepared.get(id(model))
    assert kept is not None
    assert kept.plan.response.current()  # the quick way is open again


def test_a_class_that_is_gone_leaves_its_place_to_no_other(sandbox: Sandbox) -> None:
    seen = set()
    for number in range(200):
        model = create_model("Fleeting", **{f"field_{number}": (int, ...)})  # type: ignore[call-overload]
        seen.add(llmcache.extract_with_info("x", model).key)
        assert f"field_{number}" in llmcache.extract("x", model).model_dump()
        del model
        gc.collect(0)
    assert len(seen) == 200


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (list["Person"], "'Person'"),
        (dict[str, list["ResponseSchema"]], "'ResponseSchema'"),  # noqa: F821
        (BaseModel, "cannot be used"),
    ],
    ids=str,
)
def test_an_annotation_that_cannot_be_used_says_so(annotation: Any, says: str, sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.UnsupportedType, match=says):
        llmcache.extract("x", annotation)
    assert sandbox.received == 0


def test_an_abstract_model_is_refused_before_it_is_paid_for(sandbox: Sandbox) -> None:
    class Shape(BaseModel, abc.ABC):
        """Has no values."""

        @abc.abstractmethod
        def area(self) -> float: ...

    with pytest.raises(llmcache.UnsupportedType, match="abstract"):
        llmcache.extract("x", Shape)
    assert sandbox.received == 0


def test_a_type_whose_hooks_raise_is_refused(sandbox: Sandbox) -> None:
    class Odd:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            raise LookupError("Canary")

    with pytest.raises(llmcache.UnsupportedType, match="LookupError") as caught:
        llmcache.extract("x", Odd)
    assert "Canary" not in str(caught.value)


def test_values_of_an_inline_type_are_in_no_name(sandbox: Sandbox, journal: JournalReader) -> None:
    annotation = Literal["Canary of Ada", "other"]
    value = llmcache.extract("x", annotation)
    assert value in ("Canary of Ada", "other")
    assert "Canary" not in journal.text()
    llmcache.extract("x", Literal[tuple(f"value {number}" for number in range(30_000))])  # type: ignore[valid-type]
    assert [record.event for record in journal.records()] == ["started", "settled"] * 2


def test_prompts_that_are_new_each_time_do_not_pile_up(sandbox: Sandbox) -> None:
    plans, prepared = process.current().plans, process.current().prepared
    for number in range(60):
        with pytest.raises(llmcache.NotCached):
            llmcache.extract("x", Person, system=f"{number}" + "x" * 500_000, cache="only")
    llmcache.extract("x", Person, system="y" * 500_000)
    assert plans._size <= 16 * 2**20 + 600_000
    assert prepared._size <= 4 * 2**20
