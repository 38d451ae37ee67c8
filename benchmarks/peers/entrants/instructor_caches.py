"""Instructor's own caches."""

from typing import Any

import instructor
from instructor.cache import AutoCache, DiskCache
from openai import OpenAI

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import KEY, MODEL, Asker, Call, Place, messages


def auto(place: Place) -> Asker:
    """``AutoCache``, in memory."""
    return _asker(client(place, cache=AutoCache(maxsize=10_000)))


def disk(place: Place) -> Asker:
    """``DiskCache``, over diskcache."""
    return _asker(client(place, cache=DiskCache(directory=str(place.folder / "cache"))))


def client(place: Place, **options: Any) -> Any:
    """Return Instructor's client for the provider, asking by JSON schema."""
    upstream = OpenAI(base_url=place.base_url, api_key=KEY)
    return instructor.from_openai(upstream, mode=instructor.Mode.JSON_SCHEMA, **options)


def _asker(made: Any) -> Asker:
    create = made.chat.completions.create

    def ask(case: Case) -> Call:
        return lambda: create(model=MODEL, response_model=case.model, messages=messages(case.text))

    return ask
