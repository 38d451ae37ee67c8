"""How a flight over several processes goes on for one of them, and how a call that failed is told to the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, get_args

from llmcache.engine.flights import Landing, Limit, LimitName
from llmcache.exceptions import ExtractionFailed, LLMCacheError, ProviderError

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.tiers.stack import Found

_TOLD: Final[dict[str, tuple[type, ...]]] = {
    "status": (int,),
    "retry_after": (int, float),
    "provider_error": (str,),
    "request_id": (str,),
}
"""Details of an error that its caller may need, and what each may be: no text of a user's."""
_LIMIT: Final = "limit"
_FOREVER: Final = 1e12
_MOST_CHARACTERS: Final = 200


class Turned(NamedTuple):
    """What became of a process's attempt to lead."""

    state: Literal["led", "waits", "found", "failed", "alone"]
    error: LLMCacheError | None = None
    """How the call has failed that was waited for."""
    found: Found | None = None
    """What another process has stored."""
    limit: Limit | None = None
    """Of whoever has failed, where it came of it."""


LED_ALONE: Final = Turned("alone")


def outcome_of(landing: Landing, now: float) -> bytes:
    """Return how a call has failed, for other processes; nothing where that is not theirs to know.

    ``now``: monotonic seconds, which are others elsewhere.
    """
    error, limit = landing.error, landing.limit
    if not isinstance(error, (ProviderError, ExtractionFailed)):
        return b""
    told = {name: getattr(error, name, None) for name in _TOLD}
    given = {name: value[:_MOST_CHARACTERS] if isinstance(value, str) else value for name, value in told.items()}
    if limit is not None:
        given[_LIMIT] = limit.name, limit.reached - (now if limit.name == "deadline" else 0)
    return json.dumps({"code": error.code, **given}, separators=(",", ":")).encode(errors="replace")


def limit_of(outcome: bytes, now: float) -> Limit | None:
    """Return what another process's call had too little of, which has failed for it; None where it was not that."""
    told = _facts(outcome).get(_LIMIT)
    if not isinstance(told, list):
        return None
    name, reached, *_ = cast("list[Any]", [*told, None, None])
    if name not in get_args(LimitName) or type(reached) not in (int, float):
        return None
    # Whoever can write there can write numbers that are none, or larger than any clock's.
    return Limit(name, reached + (now if name == "deadline" else 0)) if -_FOREVER < reached < _FOREVER else None


def error_of(call: Call, outcome: bytes) -> LLMCacheError:
    """Return the error that another process's call has ended with, as an error of this call's own.

    Whoever can write to the store can write what they like there: what is not known is the error of the tree's root.
    """
    facts = _facts(outcome)
    code = facts.get("code")
    made = _BY_CODE.get(code, ProviderError) if isinstance(code, str) else ProviderError
    details = {
        name: facts[name] for name, types in _TOLD.items() if name in made.details and type(facts.get(name)) in types
    }
    error = made(
        f"Another process was asking for the same request while this one waited, and its call failed: {made.code}.",
        **details,
    )
    return error.add(kind=call.plan.kind, model=call.plan.model, key=call.key.hex())


def _facts(outcome: bytes) -> dict[str, Any]:
    try:
        told: Any = json.loads(outcome)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {}


def _all_below(root: type[LLMCacheError]) -> Iterator[type[LLMCacheError]]:
    for each in root.__subclasses__():
        yield each
        yield from _all_below(each)


_BY_CODE: Final = {each.code: each for root in (ProviderError, ExtractionFailed) for each in (root, *_all_below(root))}
