"""LiteLLM's caches: a completion comes from the cache, and its content is validated here."""

from typing import Any

import litellm
from litellm.caching.caching import Cache

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import KEY, MODEL, Asker, Call, Place, messages


def local(place: Place) -> Asker:
    """In memory."""
    return _asker(place, type="local")


def disk(place: Place) -> Asker:
    """Over diskcache."""
    return _asker(place, type="disk", disk_cache_dir=str(place.folder / "cache"))


def redis(place: Place) -> Asker:
    """Over redis-py."""
    return _asker(place, type="redis", host="127.0.0.1", port=str(place.redis_port), namespace="litellm")


def redis_awaited(place: Place) -> Asker:
    """The same, awaited."""
    _set_up(type="redis", host="127.0.0.1", port=str(place.redis_port), namespace="litellm-awaited")

    def ask(case: Case) -> Call:
        model, arguments = case.model, _arguments(place, case)

        async def call() -> Any:
            made: Any = await litellm.acompletion(**arguments)
            return model.model_validate_json(made.choices[0].message.content)

        return call

    return ask


def _asker(place: Place, **options: Any) -> Asker:
    _set_up(**options)

    def ask(case: Case) -> Call:
        model, arguments = case.model, _arguments(place, case)

        def call() -> Any:
            made: Any = litellm.completion(**arguments)
            return model.model_validate_json(made.choices[0].message.content)

        return call

    return ask


def _set_up(**options: Any) -> None:
    litellm.telemetry = False
    litellm.cache = Cache(**options)


def _arguments(place: Place, case: Case) -> dict[str, Any]:
    return {
        "model": f"openai/{MODEL}",
        "messages": messages(case.text),
        "response_format": case.model,
        "api_base": place.base_url,
        "api_key": KEY,
    }
