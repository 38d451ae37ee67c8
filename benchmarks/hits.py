"""A hit in memory and on disk, beside hashing the text, one look-up and one validation."""

import hashlib
import json
import os
import random
import sqlite3
import statistics
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import llmcache
from benchmarks.timing import interleaved, rate, table
from llmcache.engine import process
from llmcache.testing.sandbox import Sandbox


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


SMALL_TEXT = "Ada Lovelace, thirty-six years old, of London, mathematician".ljust(60)
LARGE_TEXT = ("The quick brown fox jumps over the lazy dog. " * 200)[:8_192]
SMALL = {"name": "Ada Lovelace", "age": 36}
LARGE = {
    "items": [
        {"title": f"Item number {n}", "price": n * 1.25, "count": n, "tags": ["red", "blue"], "notes": "x" * 108}
        for n in range(50)
    ]
}
WITH_OPTIONS: dict[str, Any] = {
    "model": "openai/gpt-5-mini",
    "system": "Read it.",
    "temperature": 0.0,
    "seed": 7,
    "tenant": "acme",
}


def report() -> Iterator[str]:
    """Yield the lines of the report."""
    with Sandbox(answers={SMALL_TEXT: SMALL, LARGE_TEXT: LARGE}) as provider:
        os.environ["OPENAI_BASE_URL"] = provider.base_url
        _point_to(provider.base_url)
        llmcache.extract(SMALL_TEXT, Small)
        llmcache.extract(SMALL_TEXT, Small, **WITH_OPTIONS)
        llmcache.extract(LARGE_TEXT, Large)
        with _alone():
            llmcache.extract(SMALL_TEXT, Small)
            llmcache.extract(LARGE_TEXT, Large)
    yield from _size("small", SMALL_TEXT, Small, SMALL, 20_000)
    yield from _size("large", LARGE_TEXT, Large, LARGE, 1_000)
    yield from _decorated()
    yield from _threads()
    yield from _disk()


def _point_to(base_url: str) -> None:
    from django.conf import settings

    settings.LLMCACHE["PROVIDERS"]["openai"]["base_url"] = base_url
    process.install(None)


def _floor(text: str, model: type[BaseModel], answer: Any) -> Any:
    stored = {hashlib.sha256(text.encode()).digest(): json.dumps(answer, separators=(",", ":")).encode()}
    return lambda: model.model_validate_json(stored[hashlib.sha256(text.encode()).digest()])


def _size(name: str, text: str, model: type[BaseModel], answer: Any, number: int) -> Iterator[str]:
    works = {"SHA-256 + dict + model_validate_json": _floor(text, model, answer)}
    works["llmcache.extract, hit in memory"] = lambda: llmcache.extract(text, model)
    if name == "small":
        works["… with model, system, temperature, seed, tenant"] = lambda: llmcache.extract(text, model, **WITH_OPTIONS)
    yield f"Hit in memory, {name} ({len(text.encode()):,} bytes of text, {len(json.dumps(answer)):,} of answer)"
    yield from table(interleaved(works, number=number), next(iter(works)))
    yield ""


@llmcache.cached
def _read(text: str) -> Small:
    return Small(name=text[:12], age=36)


def _decorated() -> Iterator[str]:
    _read(SMALL_TEXT)
    works = {
        "llmcache.extract, hit in memory": lambda: llmcache.extract(SMALL_TEXT, Small),
        "a function with @cached, hit in memory": lambda: _read(SMALL_TEXT),
    }
    yield "A decorated function beside extract, small"
    yield from table(interleaved(works, number=20_000), next(iter(works)))
    yield ""


def _threads() -> Iterator[str]:
    yield from _rates("small", SMALL_TEXT, Small, SMALL)
    yield from _rates("large", LARGE_TEXT, Large, LARGE)


def _rates(size: str, text: str, model: type[BaseModel], answer: Any) -> Iterator[str]:
    works = {"floor": _floor(text, model, answer), "llmcache.extract": lambda: llmcache.extract(text, model)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(5):
        for name in random.sample(list(works), len(works)):
            found[name].append((rate(works[name], 1, 0.4), rate(works[name], 16, 0.4)))
    shares = {name: statistics.median(many / one for one, many in rates) for name, rates in found.items()}
    yield f"Total rate of 16 threads beside 1 thread, hit in memory, {size}"
    for name, rates in found.items():
        one, many = (statistics.median(figures) for figures in zip(*rates, strict=True))
        yield f"  {name:<20} {one:>10,.0f} /s  {many:>10,.0f} /s  {shares[name]:.2f}"
    yield f"  the share of extract beside that of the floor  {shares['llmcache.extract'] / shares['floor']:.2f}"
    yield ""


def _disk() -> Iterator[str]:
    path = Path(os.environ["LLMCACHE_BENCH_PLACE"]) / "alone" / "entries.sqlite3"
    with _alone(), closing(sqlite3.connect(path, isolation_level=None)) as file:
        yield from _on_disk(file, "small", SMALL_TEXT, Small, SMALL, 3_000)
        yield from _on_disk(file, "large", LARGE_TEXT, Large, LARGE, 500)


@contextmanager
def _alone() -> Iterator[None]:
    """Let the disk be the only tier."""
    from django.conf import settings

    settings.LLMCACHE["TIERS"] = ["llm-disk"]
    process.install(None)
    yield
    del settings.LLMCACHE["TIERS"]
    process.install(None)


def _on_disk(
    file: sqlite3.Connection, size: str, text: str, model: type[BaseModel], answer: Any, number: int
) -> Iterator[str]:
    select = "SELECT value, expires FROM entries WHERE key = ?"
    info = llmcache.extract_with_info(text, model)
    assert info.tier == "llm-disk"
    name = file.execute("SELECT key FROM entries WHERE CAST(key AS TEXT) LIKE ?", (f"%{info.key}}}",)).fetchone()[0]
    data = json.dumps(answer, separators=(",", ":")).encode()

    def floor() -> object:
        file.execute(select, (name,)).fetchone()
        return model.model_validate_json(data)

    works = {
        "SELECT on an open connection + model_validate_json": floor,
        "llmcache.extract, hit on disk": lambda: llmcache.extract(text, model),
    }
    yield f"Hit on disk, {size} (no memory above it; the last use is kept)"
    yield from table(interleaved(works, number=number), next(iter(works)))
    yield ""
