"""Keys: equal requests have equal keys in every process and for ever; different requests have different ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from redis.cluster import key_slot

import llmcache
from llmcache import keys
from tests.keys_of import key_of
from tests.unit.key_types import Animal, Cat, Colour, Dog, Node, Page, Pair, Person, Point, Row, Ticket

GOLDEN: dict[str, str] = json.loads(Path(__file__).with_name("golden_keys.json").read_text())

CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "plain": ("Ada, 36", Person, {}),
    "not ascii": ("Zoë käuft 3 € Käse\r\n", Person, {}),
    "every kind of field": ("x", Ticket, {}),
    "list": ("x", list[Person], {}),
    "union": ("x", Union[Person, Ticket], {}),
    "optional": ("x", Person | None, {}),
    "dict": ("x", dict[str, Person], {}),
    "literal": ("x", Literal["a", "b"], {}),
    "enum": ("x", Colour, {}),
    "dataclass": ("x", Point, {}),
    "typed dict": ("x", Row, {}),
    "generic": ("x", Page[int], {}),
    "recursive": ("x", Node, {}),
    "int": ("x", int, {}),
    "tuple": ("x", tuple[Person, int], {}),
    "tuple of any length": ("x", tuple[int, ...], {}),
    "named tuple": ("x", Pair, {}),
    "set": ("x", set[int], {}),
    "frozenset": ("x", frozenset[int], {}),
    "list of int": ("x", list[int], {}),
    "optional int": ("x", int | None, {}),
    "discriminated union": ("x", Animal, {}),
    "optional discriminated union": ("x", Animal | None, {}),
    "tuple of unions": ("x", tuple[Animal, ...], {}),
    "constraints": ("x", Annotated[list[int], Field(min_length=1, max_length=3)], {}),
    "system": ("x", Person, {"system": "Read names."}),
    "model": ("x", Person, {"model": "openai/gpt-5"}),
    "kind": ("x", Person, {"kind": "inbox"}),
    "scope": ("x", Person, {"tenant": "acme", "subject": "u1", "tags": ["b", "a"], "version": "2", "variant": 3}),
    "sample": ("x", Person, {"variant": keys.Sample(None, 1)}),
    "sample of a variant": ("x", Person, {"variant": keys.Sample("a", 4)}),
    "parameters": ("x", Person, {"temperature": 0.0, "seed": 7, "logit_bias": {"5": 1}, "new_thing": [True, None]}),
}


@pytest.mark.parametrize("case", CASES)
def test_keys_are_what_they_have_always_been(case: str) -> None:
    """A difference makes every user pay again: if that is meant, type the new key by hand and tell the changelog."""
    content, response_model, options = CASES[case]
    assert key_of(content, response_model, **options) == GOLDEN[case]


def test_every_golden_key_is_tried() -> None:
    assert GOLDEN.keys() == CASES.keys()
    assert len(set(GOLDEN.values())) == len(GOLDEN)


PROGRAM = """
import sys, json, django
django.setup()
from tests.unit.test_keys import CASES
from tests.keys_of import key_of
names = list(CASES)
if sys.argv[1] == "reversed":
    names.reverse()
print(json.dumps({name: key_of(CASES[name][0], CASES[name][1], **CASES[name][2]) for name in names}))
"""


@pytest.mark.parametrize(("seed", "order"), [*((seed, "forward") for seed in range(10)), (1, "reversed")])
def test_every_process_and_hash_seed_gives_the_same_keys(seed: int, order: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "DJANGO_SETTINGS_MODULE": "tests.settings"}
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, order], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(output.stdout) == GOLDEN


class Reordered(BaseModel):
    """A person."""

    age: int | None = None
    name: str


Reordered.__name__ = "Person"
Other = create_model("Other", __base__=Person, __doc__="A person.")


def test_each_of_these_changes_the_key() -> None:
    requests: dict[str, tuple[Any, dict[str, Any]]] = {
        "nothing": (Person, {}),
        "another name of the type": (Other, {}),
        "fields in another order": (Reordered, {}),
        "int 0": (Person, {"temperature": 0}),
        "float 0": (Person, {"temperature": 0.0}),
        "float -0": (Person, {"temperature": -0.0}),
        "False": (Person, {"temperature": False}),
        "None": (Person, {"temperature": None}),
        "text 0": (Person, {"temperature": "0"}),
        "another parameter": (Person, {"seed": 0}),
        "a parameter nobody has heard of": (Person, {"frobnicate": 0}),
        "one in a list": (Person, {"stop": [1]}),
        "True in a list": (Person, {"stop": [True]}),
        "A or B": (Union[Person, Ticket], {}),
        "A or nothing": (Person | None, {}),
        "list": (list[int], {}),
        "tuple of any length": (tuple[int, ...], {}),
        "tuple of one": (tuple[int], {}),
        "tuple of two": (tuple[int, int], {}),
        "set": (set[int], {}),
        "frozenset": (frozenset[int], {}),
        "one or more": (Annotated[list[int], Field(min_length=1)], {}),
        "two or more": (Annotated[list[int], Field(min_length=2)], {}),
        "list or nothing": (list[int] | None, {}),
        "list of some": (list[int | None], {}),
        "B or A": (Union[Ticket, Person], {}),
        "literal 1": (Literal[1], {}),
        "literal True": (Literal[True], {}),
        "literal a, b": (Literal["a", "b"], {}),
        "literal b, a": (Literal["b", "a"], {}),
        "kind": (Person, {"kind": "person"}),
        "system": (Person, {"system": "Be brief."}),
        "empty system": (Person, {"system": ""}),
        "model": (Person, {"model": "openai/gpt-5"}),
        "tenant": (Person, {"tenant": "a"}),
        "another tenant": (Person, {"tenant": "A"}),
        "tenant with a space": (Person, {"tenant": " a"}),
        "subject": (Person, {"subject": "a"}),
        "tag": (Person, {"tags": ["a"]}),
        "two tags": (Person, {"tags": ["a", "b"]}),
        "one tag of two": (Person, {"tags": ["ab"]}),
        "version": (Person, {"version": "a"}),
        "variant a": (Person, {"variant": "a"}),
        "variant '1'": (Person, {"variant": "1"}),
        "variant 1": (Person, {"variant": 1}),
        "sample": (Person, {"variant": keys.Sample(None, 1)}),
        "another sample": (Person, {"variant": keys.Sample(None, 2)}),
        "sample of 1": (Person, {"variant": keys.Sample(1, 1)}),
        "sample of '1'": (Person, {"variant": keys.Sample("1", 1)}),
    }
    found = {name: key_of("Ada", annotation, **options) for name, (annotation, options) in requests.items()}
    assert len(set(found.values())) == len(requests), found
    contents = ["Ada", "ada", "Ada ", "Ada\n", "Ada\r\n", "Zoe\u0308", "Zo\u00eb", "\u200eAda", "A\0da"]
    assert len({key_of(content, Person) for content in contents}) == len(contents)


def test_none_of_these_changes_the_key() -> None:
    plain = key_of("Ada", Person)
    for options in (
        {"user": "u1"},
        {"metadata": {"a": 1}},
        {"safety_identifier": "x"},
        {"prompt_cache_key": "x"},
        {"store": True},
        {"timeout": 1.5},
        {"max_retries": 0},
        {"max_reasks": 0},
        {"ttl": 5},
        {"ttl": None},
        {"tenant": None},
        {"tags": ()},
        {"frobnicate": 1, "unkeyed": ["frobnicate"]},
    ):
        assert key_of("Ada", Person, **options) == plain, options
    for one, other in (
        (Optional[Person], Person | None),  # noqa: UP045
        (Annotated[list[int], "of whom"], list[int]),
        # Only how an answer is read differs: what is asked is the same.
        (Animal, Cat | Dog),
    ):
        assert key_of("Ada", one) == key_of("Ada", other), one
    assert key_of("Ada", Person, tags=["a", "b"]) == key_of("Ada", Person, tags={"b", "a"})
    assert key_of("Ada", Person, a_1=1, b_1=2) == key_of("Ada", Person, b_1=2, a_1=1)


def _identity(**provider: str) -> str:
    with override_settings(LLMCACHE={"PROVIDERS": {"openai": {"api_key": "x", **provider}}}):
        return key_of("Ada", Person)


def test_the_provider_is_its_alias_with_host_and_path() -> None:
    there = _identity(base_url="https://llm.example/v1")
    assert _identity(base_url="https://llm.example/v1/") == there
    assert _identity(base_url="https://llm.example:443/v1") == there
    assert _identity(base_url="https://llm.example:8443/v1") != there
    assert _identity(base_url="https://other.example/v1") != there
    assert _identity(base_url="https://llm.example/v2") != there
    assert _identity(base_url="https://llm.example/v1", api_key="another") == there
    assert _identity(base_url="http://127.0.0.1:1234/v1") == _identity(base_url="http://127.0.0.1:4321/v1")
    assert _identity(base_url="https://a.example", identity="gateway") == _identity(
        base_url="https://b.example", identity="gateway"
    )


def test_version_and_model_settings_are_in_the_key() -> None:
    plain = key_of("Ada", Person)
    with override_settings(LLMCACHE={"VERSION": "2"}):
        assert key_of("Ada", Person) != plain
    with override_settings(LLMCACHE={"MODEL": "openai/gpt-5"}):
        assert key_of("Ada", Person) == key_of("Ada", Person, model="openai/gpt-5") != plain


def test_a_provider_that_mutates_what_it_is_given_does_not_move_the_key() -> None:
    parameters = {"b": 1, "a": 2}
    before = key_of("Ada", Person, logit_bias=parameters)
    assert key_of("Ada", Person, logit_bias={"a": 2, "b": 1}) != before  # dicts keep the caller's order
    assert key_of("Ada", Person, logit_bias=parameters) == before


def test_a_rebuilt_class_gets_a_new_key() -> None:
    model = create_model("Rebuilt", name=(str, ...))
    before = key_of("Ada", model)
    model.model_fields["name"].description = "The whole name."
    model.model_rebuild(force=True)
    assert key_of("Ada", model) != before


class Constrained(BaseModel):
    """Two classes that differ in what only the schema shows."""

    a: int = Field(ge=1)


words = st.text(max_size=6).filter(lambda text: text.isprintable())
variants = st.none() | words | st.integers()
scopes = st.tuples(
    st.none() | words,
    st.none() | words,
    st.lists(words, max_size=3),
    st.none() | words,
    variants | st.builds(keys.Sample, variants, st.integers(1, 1_000)),
)


def _comparable(scope: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*scope[:2], tuple(sorted(set(scope[2]))), scope[3], scope[4])


@settings(max_examples=300, deadline=None)
@given(scopes, scopes, words, words)
def test_scope_and_content_never_run_together(a: Any, b: Any, text: str, other: str) -> None:
    """ "a" + "bc" is not "ab" + "c", and nothing is not an empty word, whatever the parts are."""
    one, two = keys.scope(*a) + text.encode(), keys.scope(*b) + other.encode()
    assert (one == two) == (_comparable(a) == _comparable(b) and text == other)


def test_storage_keys_are_safe_in_every_store() -> None:
    key = bytes(range(32))
    name = keys.storage_key("demo", key)
    assert name.isascii()
    assert name.isprintable()
    assert " " not in name
    assert len(keys.supplement_key("x" * 64, key)) <= 200


def test_the_namespace_tells_projects_and_their_test_runs_apart() -> None:
    database = {"ENGINE": "django.db.backends.postgresql", "HOST": "db", "PORT": "5432", "NAME": "shop"}
    spaces = [
        keys.default_namespace("shop.settings", database),
        keys.default_namespace("shop.settings", {**database, "NAME": "test_shop"}),
        keys.default_namespace("shop.settings", {**database, "HOST": "db2"}),
        keys.default_namespace("blog.settings", database),
    ]
    assert len(set(spaces)) == 4
    assert keys.default_namespace("shop.settings.production", database) == spaces[0]
    sqlite = {"ENGINE": "django.db.backends.sqlite3"}
    here = keys.default_namespace("shop.settings", {**sqlite, "NAME": "db.sqlite3"})
    assert here == keys.default_namespace("shop.settings", {**sqlite, "NAME": Path.cwd() / "db.sqlite3"})


def test_the_key_is_the_same_object_for_caller_error_and_info() -> None:
    with pytest.raises(llmcache.NotCached) as caught:
        llmcache.extract("Ada", Person, cache="only")
    assert caught.value.key == key_of("Ada", Person)
    assert caught.value.kind == "Person"
    assert caught.value.model == "openai/gpt-5-mini"


def test_an_entry_and_all_beside_it_lie_in_one_slot_of_a_cluster() -> None:
    def slots(key: bytes) -> set[int]:
        names = [keys.storage_key("n", key, "id"), keys.supplement_key("n", key, "id")]
        names += [keys.lease_key("n", key, seen, "id") for seen in (b"", b"rows that were seen")]
        assert len({*names}) == 4
        return {key_slot(name.encode()) for name in names}

    all_slots = [slots(bytes([number]) * 32) for number in range(50)]
    assert all(len(each) == 1 for each in all_slots)
    assert len(set.union(*all_slots)) > 1
