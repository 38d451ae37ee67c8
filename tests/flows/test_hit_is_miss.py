"""A hit is a miss without the wait: whatever a type does with an answer, it does again with the same bytes."""

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

import llmcache
from llmcache.testing.sandbox import Sandbox
from tests.conftest import child_environment
from tests.flows import odd_types
from tests.flows.odd_types import ODD

NUMBERS = itertools.count()


def same(one: Any, other: Any) -> bool:
    """Equality in which NaN is NaN and types have to agree."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, BaseModel):
        return (
            same(dict(one), dict(other))
            and same(one.model_extra, other.model_extra)
            and one.model_fields_set == other.model_fields_set
            and same(one.__pydantic_private__, other.__pydantic_private__)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("name", ODD)
def test_in_memory_and_on_disk(name: str, sandbox: Sandbox, forget_memory: Callable[[], None]) -> None:
    annotation, answer = ODD[name]
    sandbox.answers["x"] = answer
    miss = llmcache.extract_with_info("x", annotation)
    memory = llmcache.extract_with_info("x", annotation)
    forget_memory()
    disk = llmcache.extract_with_info("x", annotation)
    assert (miss.outcome, memory.tier, disk.tier) == ("miss", "memory", "disk")
    assert same(memory.value, miss.value)
    assert same(disk.value, miss.value)
    assert sandbox.calls == 1
    if isinstance(miss.value, (BaseModel, list, dict)):
        assert memory.value is not miss.value


PROGRAM = """
import django, sys
django.setup()
import llmcache
from tests.flows.odd_types import ODD, described
for name, (annotation, _) in ODD.items():
    found = llmcache.extract_with_info(name, annotation, cache="only")
    print(name, found.tier, described(found.value), sep="|")
"""


def test_in_another_process(sandbox: Sandbox) -> None:
    expected = []
    for name, (annotation, answer) in ODD.items():
        sandbox.answers[name] = answer
        value = llmcache.extract(name, annotation)
        expected.append(f"{name}|disk|{odd_types.described(value)}")
    environment = child_environment(PYTHONHASHSEED="7")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == expected
    assert sandbox.calls == len(ODD)


SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**53), 2**53)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, st.text(max_size=8)),
    (bool, st.booleans()),
    (int | None, st.none() | st.integers(0, 9)),
    (list[str], st.lists(st.text(max_size=4), max_size=3)),
    (dict[str, int], st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=3)),
    (int | str, st.integers(0, 9) | st.text(max_size=3)),
]


@st.composite
def models(draw: st.DrawFn, depth: int = 2) -> tuple[type[BaseModel], dict[str, Any]]:
    """A model and an answer for it."""
    fields: dict[str, Any] = {}
    answer: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 4))):
        name = f"field_{number}"
        if depth and draw(st.booleans()):
            inner, value = draw(models(depth=depth - 1))
            many = draw(st.booleans())
            fields[name] = (list[inner] if many else inner, ...)  # type: ignore[valid-type]
            answer[name] = [value] * draw(st.integers(0, 2)) if many else value
        else:
            annotation, values = draw(st.sampled_from(SCALARS))
            fields[name] = (annotation, ...)
            answer[name] = draw(values)
    return create_model(f"Model{draw(st.integers(0, 10**9))}", **fields), answer


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=models())
def test_whatever_the_type_is(
    made: tuple[type[BaseModel], dict[str, Any]], sandbox: Sandbox, forget_memory: Callable[[], None]
) -> None:
    model, answer = made
    text = f"text {next(NUMBERS)}"
    sandbox.answers[text] = answer
    miss = llmcache.extract(text, model)
    assert miss == model.model_validate(answer)
    assert llmcache.extract(text, model) == miss
    forget_memory()
    assert llmcache.extract(text, model) == miss


def test_a_validator_that_is_not_idempotent_runs_once_for_each_caller(sandbox: Sandbox) -> None:
    sandbox.answers["x"] = {"price": 1.5}
    assert [llmcache.extract("x", odd_types.Cents).price for _ in range(3)] == [150.0] * 3
