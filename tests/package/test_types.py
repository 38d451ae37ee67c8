"""What a type checker makes of the public functions."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Checked = Callable[[str], tuple[list[str], list[int]]]

PROGRAM = """
from typing import Literal, Union
import llmcache
from project.demo.types import Ingredient, Recipe

reveal_type(llmcache.extract("", Ingredient))
reveal_type(llmcache.extract("", list[Ingredient]))
reveal_type(llmcache.extract("", Ingredient | None))
reveal_type(llmcache.extract("", Union[Ingredient, Recipe]))
reveal_type(llmcache.extract("", Literal["a", "b"]))
reveal_type(llmcache.extract_with_info("", Ingredient).value)
reveal_type(llmcache.extract_with_completion("", Ingredient)[0])
reveal_type(llmcache.Extractor(tenant="a").extract("", dict[str, Ingredient], ttl=None, tenant="a", seed=1))
llmcache.extract("", Ingredient, ttl="1")
llmcache.extract(b"", Ingredient)
llmcache.extract("", Ingredient, cache="of")

async def main() -> None:
    reveal_type(await llmcache.aextract("", Ingredient))
    reveal_type(await llmcache.aextract("", list[Ingredient]))
    reveal_type((await llmcache.aextract_with_info("", Ingredient)).value)
    reveal_type((await llmcache.aextract_with_completion("", Ingredient))[0])
    reveal_type(await llmcache.Extractor(tenant="a").aextract("", Ingredient))
    await llmcache.aextract("", Ingredient, ttl="1")
    reveal_type(next(llmcache.extract_partial("", Ingredient)))
    reveal_type(list(llmcache.Extractor(tenant="a").extract_iterable("", Ingredient, seed=1)))
    reveal_type([each async for each in llmcache.aextract_partial("", list[Ingredient])])
    reveal_type([each async for each in llmcache.aextract_iterable("", Ingredient)])
"""


SHAPES = """
from collections.abc import AsyncIterator, Iterator
import llmcache
from llmcache import cached
from project.demo.types import Ingredient

batch = llmcache.extract_many(["a"], Ingredient, tenant=["t"], tags=lambda item: ["x"])
reveal_type(batch)
reveal_type(batch[0])
reveal_type(batch.infos[0])
reveal_type([each for each in llmcache.extract_many(["a"], list[Ingredient], on_error="collect")])
reveal_type(llmcache.Extractor(tenant="a").extract_many([{"body": "a"}], Ingredient, content="body")[0])
llmcache.extract_many(["a"], Ingredient, on_error="ignore")
llmcache.extract_many(["a"], Ingredient, concurrency="8")

async def main() -> None:
    reveal_type(await llmcache.aextract_many(["a"], Ingredient))
    async for each in llmcache.as_completed(["a"], Ingredient, on_error="collect"):
        reveal_type(each.value)

@cached
def plain(name: str, *, size: int = 1) -> Ingredient: ...

@cached(ttl=60, subject=lambda name: name)
async def awaited(name: str) -> list[Ingredient]: ...

@cached
def given(name: str) -> Iterator[Ingredient]: ...

@cached
async def agiven(name: str) -> AsyncIterator[int]:
    yield 1

class Reader:
    @cached
    def read(self, name: str) -> Ingredient: ...

    @classmethod
    @cached
    def of(cls, name: str) -> Ingredient: ...

    @staticmethod
    @cached
    def nobodys(name: str) -> Ingredient: ...

reveal_type(plain("a", size=2))
reveal_type(plain.bypass("a"))
reveal_type(plain.key("a"))
reveal_type(plain.cache_info().hits)
reveal_type(given("a"))
reveal_type(agiven("a"))
reveal_type(Reader().read("a"))
reveal_type(Reader().read.key("a"))
reveal_type(Reader.of("a"))
reveal_type(Reader().of("a"))
reveal_type(Reader.nobodys("a"))
plain(1)
plain.key("a", sise=1)
plain.invalidate()
Reader().read(2)
Reader.of(2)
cached(ttl="1")

async def calls() -> None:
    reveal_type(await awaited("a"))
"""


CONTENTS = """
from pathlib import Path
from openai.types.chat import ChatCompletionMessageParam
import llmcache
from project.demo.types import Ingredient

def calls(talk: list[ChatCompletionMessageParam], own: list[dict[str, str]], parts: list[str | llmcache.Image]) -> None:
    reveal_type(llmcache.extract(["Read:", llmcache.Image(b""), llmcache.File(Path("a.pdf"), name="a")], Ingredient))
    reveal_type(llmcache.extract(llmcache.Image("https://a.b", detail="low"), Ingredient))
    reveal_type(llmcache.extract([{"role": "user", "content": ["Read:", llmcache.Image(b"")]}], Ingredient))
    reveal_type(llmcache.extract(talk, Ingredient))
    reveal_type(llmcache.extract(own, Ingredient))
    reveal_type(llmcache.extract_with_info(parts, Ingredient).value)
    reveal_type(next(llmcache.extract_iterable(("a", "b"), Ingredient)))
    reveal_type(llmcache.extract_many([parts, "a"], Ingredient)[0])
    llmcache.explain(parts, Ingredient)
    llmcache.extract(["Read:", b""], Ingredient)
    llmcache.extract(["Read:", None], Ingredient)
    llmcache.extract({"role": "user", "content": "Read"}, Ingredient)
    llmcache.extract((each for each in parts), Ingredient)
    llmcache.Image(b"", detail="hihg")
    llmcache.File(b"", name=b"a")
"""


ROOTS = """
from typing import Annotated, Literal, Optional
import llmcache
from pydantic import BaseModel, Field

class Cat(BaseModel):
    kind: Literal["cat"]

class Dog(BaseModel):
    kind: Literal["dog"]

Animal = Annotated[Cat | Dog, Field(discriminator="kind")]

reveal_type(llmcache.extract("", tuple[int, str]))
reveal_type(llmcache.extract("", tuple[int, ...]))
reveal_type(llmcache.extract("", set[int]))
reveal_type(llmcache.extract("", frozenset[str]))
reveal_type(llmcache.extract("", Optional[Cat]))
reveal_type(llmcache.extract("", Animal | None))
reveal_type(llmcache.extract("", Annotated[tuple[Animal, ...], Field(min_length=1)]))
reveal_type(llmcache.extract_many([""], Cat | None)[0])
reveal_type(next(llmcache.extract_partial("", Animal | None)))
reveal_type(next(llmcache.extract_iterable("", Animal)))
reveal_type(llmcache.extract_samples("", Animal, samples=3, temperature=1.0))
reveal_type(llmcache.extract_samples("", Cat, on_error="collect")[0])
llmcache.extract_samples("", Cat, samples="3")
llmcache.extract_samples([""], Cat, on_error="ignore")

@llmcache.cached
def kept(text: str) -> Animal | None: ...

reveal_type(kept(""))

async def main() -> None:
    reveal_type(await llmcache.aextract_samples("", Cat))
    reveal_type((await llmcache.Extractor(tenant="a").aextract_samples("", tuple[Cat, int], on_error="collect"))[0])
"""


SOURCES = {"calls": PROGRAM, "shapes": SHAPES, "contents": CONTENTS, "roots": ROOTS}


@pytest.fixture(scope="module")
def checked() -> Checked:
    """Return what pyright reveals of a program here, and the lines in which it finds errors; it is started once."""
    programs = {each: ROOT / "tests" / "package" / f"_typed_{os.getpid()}_{each}.py" for each in SOURCES}
    for name, text in SOURCES.items():
        programs[name].write_text(text)
    try:
        pyright = Path(sys.executable).with_name("pyright")
        command = [pyright, "--outputjson", "--pythonpath", sys.executable, *programs.values()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    finally:
        for program in programs.values():
            program.unlink()
    said = json.loads(done.stdout)["generalDiagnostics"]

    def of(name: str) -> tuple[list[str], list[int]]:
        found = [item for item in said if Path(item["file"]) == programs[name]]
        told = [item["message"].split('" is "')[1].rstrip('"') for item in found if item["severity"] == "information"]
        lines = [item["range"]["start"]["line"] for item in found if item["severity"] == "error"]
        return told, list(dict.fromkeys(lines))

    return of


def test_pyright_sees_the_response_type(checked: Checked) -> None:
    revealed, errors = checked("calls")
    assert revealed == [
        "Ingredient",
        "list[Ingredient]",
        "Ingredient | None",
        "Ingredient | Recipe",
        "Literal['a', 'b']",
        "Ingredient",
        "Ingredient",
        "dict[str, Ingredient]",
        "Ingredient",
        "list[Ingredient]",
        "Ingredient",
        "Ingredient",
        "Ingredient",
        *("Ingredient", "list[Ingredient]", "list[list[Ingredient]]", "list[Ingredient]"),
    ]
    assert errors == [13, 14, 15, 23]  # a ttl of str, a content of bytes, an unknown word for cache=; a ttl of str


def test_pyright_sees_the_types_of_batches_and_of_decorated_functions(checked: Checked) -> None:
    revealed, errors = checked("shapes")
    assert revealed == [
        "Batch[Ingredient]",
        "Ingredient",
        "Extraction[Ingredient] | None",
        "list[list[Ingredient] | None]",
        "Ingredient",
        "Batch[Ingredient]",
        "Ingredient | None",
        "Ingredient",
        "Ingredient",
        "str",
        "int",
        "Iterator[Ingredient]",
        "AsyncIterator[int]",
        "Ingredient",
        "str",
        *("Ingredient", "Ingredient", "Ingredient"),
        "list[Ingredient]",
    ]
    lines = SHAPES.splitlines()
    assert [lines[number] for number in errors] == [
        'llmcache.extract_many(["a"], Ingredient, on_error="ignore")',
        'llmcache.extract_many(["a"], Ingredient, concurrency="8")',
        "plain(1)",
        'plain.key("a", sise=1)',
        "plain.invalidate()",
        "Reader().read(2)",
        "Reader.of(2)",
        'cached(ttl="1")',
    ]


def test_pyright_sees_what_may_be_a_content(checked: Checked) -> None:
    revealed, errors = checked("contents")
    assert revealed == ["Ingredient"] * 8
    first = CONTENTS.splitlines().index('    llmcache.extract(["Read:", b""], Ingredient)')
    assert errors == [*range(first, first + 6)]


def test_pyright_sees_types_that_are_no_objects_and_samples(checked: Checked) -> None:
    revealed, errors = checked("roots")
    assert revealed == [
        *("tuple[int, str]", "tuple[int, ...]", "set[int]", "frozenset[str]", "Cat | None", "Cat | Dog | None"),
        *("tuple[Cat | Dog, ...]", "Cat | None", "Cat | Dog | None", "Cat | Dog"),
        *("Batch[Cat | Dog]", "Cat | None", "Cat | Dog | None", "Batch[Cat]", "tuple[Cat, int] | None"),
    ]
    lines = ROOTS.splitlines()
    assert [lines[number] for number in errors] == [
        'llmcache.extract_samples("", Cat, samples="3")',
        'llmcache.extract_samples([""], Cat, on_error="ignore")',
    ]
