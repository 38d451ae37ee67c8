"""LangChain's cache in the tiers of llmcache.

    set_llm_cache(DjangoCache())

Generations are written as JSON by the names of their fields, and read by a table of classes: what lies in a store names
no class but these, and nothing in it is looked up or called. What would not come back equal is not kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from django.views.decorators.debug import sensitive_variables
from pydantic import BaseModel

from llmcache.contrib.shelf import Made, Shelf
from llmcache.exceptions import ConfigurationError, InvalidRequest
from llmcache.keys import frame
from llmcache.money.usage import Usage, told_usage
from llmcache.request import NOT_GIVEN, NotGiven

try:
    from langchain_core.caches import BaseCache  # pyright: ignore[reportMissingImports]  # in an environment of its own
    from langchain_core.messages import AIMessage, AIMessageChunk  # pyright: ignore[reportMissingImports]
    from langchain_core.outputs import (  # pyright: ignore[reportMissingImports]
        ChatGeneration,
        ChatGenerationChunk,
        Generation,
        GenerationChunk,
    )
except ImportError as error:
    raise ConfigurationError(
        f"llmcache.contrib.langchain needs langchain-core 1.7 or newer, which cannot be imported ({error}). Install "
        "it: pip install 'django-llmcache[langchain]'."
    ) from None

if TYPE_CHECKING:
    from datetime import timedelta

logger = logging.getLogger("llmcache.call")

_CHATS: Final[dict[str, Any]] = {each.__name__: each for each in (ChatGeneration, ChatGenerationChunk)}
_TEXTS: Final[dict[str, Any]] = {each.__name__: each for each in (Generation, GenerationChunk)}
_MESSAGES: Final[dict[str, Any]] = {each.__name__: each for each in (AIMessage, AIMessageChunk)}

_ENDINGS: Final = (
    "finish_reason",
    "finishReason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "completionReason",
    "status",
)
"""Where providers say how an answer has ended."""
_WHOLE: Final = frozenset(
    {
        *("stop", "tool_calls", "function_call", "completed"),
        *("end_turn", "tool_use", "stop_sequence"),
        *("complete", "tool_call", "eos_token", "endoftext", "finish", "success", "succeeded"),
    }
)
"""How they say that it is whole. What is not among these has cut it off or withheld it, for all that is known here."""
_MOST_TOLD: Final = 100


class _NotKeptError(Exception):
    """What would not come back as it is; the text says what, and nothing of its contents."""


class DjangoCache(BaseCache):
    """A cache for LangChain's ``set_llm_cache`` and ``cache=``, kept by Django's cache framework.

    ``alias`` of ``CACHES``: where; left out, the tiers of llmcache. ``kind``: what settings, ``stats`` and
    ``invalidate`` call these answers. ``ttl``: seconds, a timedelta or None for no expiry; left out, that of the kind.
    ``tenant``, ``tags``: as of ``llmcache.extract``. ``provider``: an alias of ``LLMCACHE["PROVIDERS"]`` whose prices
    these calls have; without it, what a hit saves is not known.
    """

    def __init__(
        self,
        alias: str | None = None,
        *,
        kind: str = "langchain",
        ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
        tenant: str | NotGiven | None = NOT_GIVEN,
        tags: list[str] | tuple[str, ...] | set[str] | frozenset[str] = (),
        provider: str | None = None,
    ) -> None:
        self._shelf = Shelf("langchain", alias=alias, kind=kind, ttl=ttl, tenant=tenant, tags=tags, provider=provider)
        self._told: set[str] = set()

    @sensitive_variables()
    def lookup(self, prompt: str, llm_string: str) -> list[Any] | None:
        """Return the generations kept for a prompt and a model's configuration; None where there are none."""
        return self._shelf.get(_key(prompt, llm_string), _read)

    @sensitive_variables()
    async def alookup(self, prompt: str, llm_string: str) -> list[Any] | None:
        """Do as ``lookup``, and hold up no loop."""
        return await self._shelf.aget(_key(prompt, llm_string), _read)

    @sensitive_variables()
    def update(self, prompt: str, llm_string: str, return_val: Sequence[Any]) -> None:
        """Keep generations that are whole and come back equal; others are their caller's alone."""
        made = self._made(return_val)
        if made is not None:
            self._shelf.put(_key(prompt, llm_string), made)

    @sensitive_variables()
    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Any]) -> None:
        """Do as ``update``, and hold up no loop."""
        made = self._made(return_val)
        if made is not None:
            await self._shelf.aput(_key(prompt, llm_string), made)

    def clear(self, **kwargs: Any) -> None:
        """Make all answers of this kind void, and touch nothing else. It writes a row; undo it in the admin."""
        _refuse(kwargs)
        self._shelf.clear()

    async def aclear(self, **kwargs: Any) -> None:
        """Do as ``clear``, awaited."""
        _refuse(kwargs)
        await self._shelf.aclear()

    @sensitive_variables()
    def _made(self, generations: Sequence[Any]) -> Made | None:
        if not generations or not all(map(_is_whole, generations)):
            return None
        try:
            written = _written(generations)
        except _NotKeptError as lost:
            said = str(lost)
            if said not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add(said)
                logger.warning("An answer of LangChain's is not kept: %s.", said)
            return None
        return Made(written, *_making(generations[0]))


def _refuse(kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        raise InvalidRequest(
            f"clear() takes no {next(iter(kwargs))}=: it is about all answers of the cache's kind. Use "
            "llmcache.invalidate() for others."
        )


def _key(prompt: str, llm_string: str) -> bytes:
    # Framed: two texts that are one when they are put together are not one key.
    return b"".join(frame(part.encode(errors="surrogatepass")) for part in (prompt, llm_string))


@sensitive_variables()
def _is_whole(generation: Any) -> bool:
    """Tell whether an answer was neither cut off nor withheld, as far as its provider says."""
    message = getattr(generation, "message", None)
    places = (generation.generation_info, getattr(message, "response_metadata", None))
    told = [place.get(name) for place in places if place for name in _ENDINGS]
    if any(isinstance(each, str) and each and each.casefold() not in _WHOLE for each in told):
        return False
    if any(place.get("incomplete_details") for place in places if place):
        return False
    content = getattr(message, "content", None)
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    return not any(map(_is_refusal, (getattr(message, "additional_kwargs", None), *blocks)))


def _is_refusal(block: Any) -> bool:
    """Tell whether a block says that the model has declined; one that LangChain does not know has it as its value."""
    if not isinstance(block, Mapping):
        return False
    told = cast("Mapping[str, Any]", block)
    inner = told.get("value") if told.get("type") == "non_standard" else None
    return told.get("type") == "refusal" or bool(told.get("refusal")) or _is_refusal(inner)


def _making(generation: Any) -> tuple[str | None, Usage | None]:
    """Return the model that answered and the tokens, of which each of several generations tells the same."""
    message = getattr(generation, "message", None)
    metadata = getattr(message, "response_metadata", None) or {}
    model = metadata.get("model_name") or metadata.get("model")
    usage = getattr(message, "usage_metadata", None)
    if usage:
        details = usage.get("input_token_details") or {}
        cached = {"cached_tokens": details.get("cache_read"), "cache_write_tokens": details.get("cache_creation")}
        told = {name: usage.get(name) for name in ("input_tokens", "output_tokens", "total_tokens")}
        usage = told_usage({**told, "input_tokens_details": cached})
    return model if isinstance(model, str) and model else None, usage or None


# -- the JSON of generations


@sensitive_variables()
def _written(generations: Sequence[Any]) -> bytes:
    """Return generations as JSON. Raises ``_NotKeptError`` for what would not come back equal."""
    plain = [_plain(each) for each in generations]
    try:
        written = json.dumps([_fields(each) for each in plain], allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise _NotKeptError(f"it holds what is no JSON ({type(error).__name__})") from None
    data = written.encode(errors="surrogatepass")
    if _read(data) != plain:
        raise _NotKeptError("it would not come back equal")
    return data


@sensitive_variables()
def _plain(generation: Any) -> Any:
    """Return a generation without the object that a structured answer has been read into; that is made anew of it."""
    message = getattr(generation, "message", None)
    parsed = (getattr(message, "additional_kwargs", None) or {}).get("parsed")
    if not isinstance(parsed, BaseModel):
        return generation
    kwargs = {**cast("Any", message).additional_kwargs, "parsed": _data_of(parsed, cast("Any", message).content)}
    return generation.model_copy(
        update={"message": cast("Any", message).model_copy(update={"additional_kwargs": kwargs})}
    )


@sensitive_variables()
def _data_of(parsed: BaseModel, content: object) -> dict[str, Any]:
    """Return the data that LangChain makes the object of again: the provider's own where that is told."""
    for data in (_json_object(content), parsed.model_dump(mode="json", by_alias=True)):
        try:
            if data is not None and type(parsed)(**data) == parsed:
                return data
        except Exception:  # noqa: BLE001, S112  # whatever a validator of the project's raises
            continue
    raise _NotKeptError(f"{type(parsed).__name__} would not come back equal")


def _json_object(content: object) -> dict[str, Any] | None:
    if not isinstance(content, str):
        return None
    try:
        read: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", read) if isinstance(read, dict) else None


@sensitive_variables()
def _fields(generation: Any) -> dict[str, Any]:
    name = type(generation).__name__
    if _TEXTS.get(name) is type(generation):
        return {"class": name, "text": generation.text, "info": generation.generation_info}
    message = getattr(generation, "message", None)
    kind = type(message).__name__
    if _CHATS.get(name) is not type(generation) or _MESSAGES.get(kind) is not type(message):
        raise _NotKeptError(f"{name} of {kind} is no class that is known here")
    fields = cast("Any", message).model_dump()
    return {"class": name, "info": generation.generation_info, "message": {"class": kind, "fields": fields}}


@sensitive_variables()
def _read(data: bytes) -> list[Any] | None:
    """Return the generations that these bytes hold; None for anything else."""
    try:
        return [_generation(each) for each in json.loads(data.decode(errors="surrogatepass"))]
    except Exception:  # noqa: BLE001  # of another version of LangChain: a miss
        return None


@sensitive_variables()
def _generation(fields: Mapping[str, Any]) -> Any:
    if fields["class"] in _TEXTS:
        return _TEXTS[fields["class"]](text=fields["text"], generation_info=fields["info"])
    message = fields["message"]
    made = _MESSAGES[message["class"]](**message["fields"])
    return _CHATS[fields["class"]](message=made, generation_info=fields["info"])
