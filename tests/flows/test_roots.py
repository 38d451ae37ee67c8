"""Response types that are no objects: asked for in a wrapper, and given to every shape of use as what they are."""

import asyncio
import json
import logging
from collections.abc import Callable, Generator, Iterable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter

import llmcache
from llmcache import corrections, rewriting
from llmcache.testing import Fake
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.flows.odd_types import ODD, Cat, Coin, Thing, described

ROOTS = (
    *("tuple", "tuple of any length", "tuple of models", "named tuple", "set", "set of models", "frozenset"),
    *("optional that is None", "optional that is there", "optional list", "nested discriminated unions"),
    *("optional discriminated union", "tuple of discriminated unions", "constraints"),
)
VALUES: dict[str, Any] = {}


def test_one_call_serves_every_shape_of_use(sandbox: Sandbox) -> None:
    for number, name in enumerate(ROOTS, 1):
        annotation, answer = ODD[name]
        sandbox.answers[name] = answer
        streamed = list(llmcache.extract_partial(name, annotation))
        value, completion = llmcache.extract_with_completion(name, annotation)
        batch = llmcache.extract_many([name, name], annotation)
        found = [streamed[-1], *batch, asyncio.run(llmcache.aextract(name, annotation))]
        assert {described(each) for each in found} == {described(value)}, name
        assert (batch.errors, batch.outcomes, sandbox.calls) == ({}, ["hit", "hit"], number), name
        assert completion.choices[0].message.content.startswith('{"value":'), name
        assert list(llmcache.extract_partial(name, annotation)) == streamed, name
        schema = sandbox.requests[-1].body["response_format"]["json_schema"]["schema"]
        assert (schema["type"], schema["required"]) == ("object", ["value"]), name


def test_a_cached_function_keeps_them_all() -> None:
    ran: list[str] = []
    for name in ROOTS:
        annotation, answer = ODD[name]

        def given(text: str) -> Any:
            ran.append(text)
            return VALUES[text]

        given.__annotations__["return"] = annotation
        function = llmcache.cached(version="1")(given)
        VALUES[name] = TypeAdapter[Any](annotation).validate_json(json.dumps(answer))
        for _ in range(2):
            found = function(name)
            assert (type(found), found) == (type(VALUES[name]), VALUES[name])
    assert ran == list(ROOTS)


def test_no_value_is_a_value(sandbox: Sandbox) -> None:
    """The model has answered null: that is an answer, and is kept."""
    annotation = Cat | None
    sandbox.answers.update({"nobody": None, "some": [None, {"kind": "cat", "lives": 9}]})
    info = llmcache.extract_with_info("nobody", annotation)
    assert (info.value, info.outcome) == (None, "miss")
    again = llmcache.extract_with_info("nobody", annotation)
    assert (again.value, again.outcome, again.tier) == (None, "hit", "memory")
    assert llmcache.extract("nobody", annotation, cache="only") is None
    assert list(llmcache.extract_partial("nobody", annotation)) == [None]
    assert list(llmcache.extract_iterable("some", annotation)) == [None, Cat(kind="cat", lives=9)]
    batch = llmcache.extract_many(["nobody", ""], annotation, on_error="collect")
    assert (list(batch), list(batch.errors)) == ([None, None], [1])

    async def ended() -> list[Any]:
        return [(each.value, each.error) async for each in llmcache.as_completed(["nobody"], annotation)]

    assert asyncio.run(ended()) == [(None, None)]
    assert sandbox.calls == 2


def test_a_root_that_does_not_keep_its_constraints_is_no_answer(sandbox: Sandbox) -> None:
    sandbox.answers["x"] = [1]
    with pytest.raises(llmcache.ValidationFailed) as caught:
        llmcache.extract("x", Annotated[tuple[int, ...], Field(min_length=2)], max_reasks=0)
    assert caught.value.errors == ({"loc": ("value",), "type": "too_short"},)
    with pytest.raises(llmcache.ValidationFailed):
        llmcache.extract("x", tuple[int, int], max_reasks=0)
    assert llmcache.extract("x", tuple[int]) == (1,)


def test_kinds_are_named_as_the_type_is_written(sandbox: Sandbox) -> None:
    sandbox.answers["x"] = []
    long = tuple[dict[str, list[Thing]], dict[str, list[Thing]], dict[str, list[Thing]]]
    told = {
        tuple[int, ...]: "tuple[int, ...]",
        tuple[int, str]: "tuple[int, str]",
        set[Coin]: "set[Coin]",
        Cat | None: "Union[Cat, None]",
        Annotated[list[int], Field(max_length=3)]: "list[int]",
    }
    for annotation, kind in told.items():
        assert llmcache.explain("x", annotation).kind == kind
    kind = llmcache.explain("x", long).kind
    assert len(kind) == 100
    assert kind.startswith("tuple[dict[str, list[Union[Union[Cat, Bird], Egg]]], ")


def test_what_strict_mode_cannot_say_is_said_once_for_each_type(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.answers["x"] = [1, "a"]

    @llmcache.cached
    def nobody_is_asked(text: str) -> tuple[str, str]:
        return text, text

    with caplog.at_level(logging.INFO, logger="llmcache.call"):
        nobody_is_asked("x")
        for system in ("one", "two"):
            llmcache.extract("x", tuple[int, str], system=system)
            list(llmcache.extract_partial("x", tuple[int, str], system=system))
            # Written where it is used, it is another object each time.
            llmcache.extract("x", Annotated[tuple[int, str], Field(description="A pair.")], system=system)
    said = [record.getMessage() for record in caplog.records if "without strict mode" in record.getMessage()]
    assert len(said) == 2
    assert all("prefixItems" in each for each in said)
    assert sandbox.requests[-1].body["response_format"]["json_schema"]["strict"] is False


class Lazy(BaseModel):
    """Its items are looked at when they are gone through."""

    items: Iterable[int]


@pytest.mark.parametrize("annotation", [Iterable[int], Generator[int, None, None], list[Iterable[int]], Lazy])
def test_what_is_validated_later_is_no_response_type(annotation: Any, sandbox: Sandbox) -> None:
    sandbox.answers["x"] = {"items": ["not", "numbers"]}
    with pytest.raises(llmcache.UnsupportedType, match="write list"):
        llmcache.extract("x", annotation)
    assert sandbox.received == 0


def test_the_fake_takes_their_values(llmcache_fake: Fake) -> None:
    for text, annotation, value in (
        ("a", tuple[int, ...], (1, 2)),
        ("b", set[Coin], {Coin(cents=1), Coin(cents=2)}),
        ("c", Thing | None, Cat(kind="cat", lives=1)),
        ("d", Thing | None, None),
    ):
        llmcache_fake.answer(text, value)
        assert llmcache.extract(text, annotation) == value


@pytest.mark.django_db
def test_their_entries_are_refreshed_and_corrected(
    sandbox: Sandbox, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    registered = {
        "Union[Union[Cat, Bird], Egg]": {"type": "tests.flows.odd_types.Thing"},
        "Union[Cat, None]": {"type": Cat | None},
        "set[int]": {"type": set[int], "ttl": lambda numbers: 60 * len(numbers)},
    }
    sandbox.answers.update({"thing": {"kind": "egg"}, "nobody": None, "numbers": [1, 2, 2]})
    with llmcache_settings(KINDS=registered):
        thing = llmcache.extract_with_info("thing", Thing)
        numbers, nobody = (
            llmcache.extract_with_info(*asked) for asked in (("numbers", set[int]), ("nobody", Cat | None))
        )
        assert numbers.ttl_left_seconds == pytest.approx(120, abs=20)
        assert llmcache.flush()
        sandbox.answers["thing"] = {"kind": "cat", "lives": 1}
        assert rewriting.refresh(thing.key).is_other
        assert llmcache.extract("thing", Thing) == Cat(kind="cat", lives=1)
        with django_capture_on_commit_callbacks(execute=True):
            corrections.correct(nobody.key, '{"value":{"kind":"cat","lives":3}}')
            corrections.correct(numbers.key, '{"value":[7]}')
        assert llmcache.extract("nobody", Cat | None) == Cat(kind="cat", lives=3)
        assert llmcache.extract("numbers", set[int]) == {7}
