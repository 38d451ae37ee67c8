"""What came of a text, in the words of the home page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, get_args, get_origin

from django.conf import settings
from pydantic import BaseModel

import llmcache
from project.demo.amounts import duration, money, span
from project.demo.models import DemoRun

TIMEOUT: Final = 30.0
"""Seconds: a person waits for a page."""
_SHORT_KEY: Final = 12
NO_PRICE: Final = "price not known"

_WHERE: Final = {"disk": "on disk", "redis": "in Redis"}

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A value and how it came about."""

    outcome: str
    told: str
    """What happened, in a sentence."""
    type: str
    """The name of the value's type."""
    fields: Sequence[tuple[str, str | None, str]]
    """Name, value (None for nothing) and type of each."""
    facts: Facts
    status: int = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no value, and what to do."""

    title: str
    told: str
    todo: str
    facts: Facts
    status: int


def asked() -> DemoRun.Provider | None:
    """Return who is asked where nothing is found; None where this process was started without a provider."""
    if settings.ASK_OPENAI:
        return DemoRun.Provider.OPENAI
    return DemoRun.Provider.SANDBOX if settings.SANDBOX_URL else None


def options() -> dict[str, Any]:
    """Return how the pages call: where nobody is there to ask, only what is known is given."""
    return {"timeout": TIMEOUT, "cache": "use" if asked() else "only"}


def answer(info: llmcache.Extraction[Any]) -> Answer:
    """Return what the page shows of an extraction."""
    name = type(info.value).__name__
    return Answer(outcome=info.outcome, told=_told(info), type=name, fields=_fields(info.value), facts=_facts(info))


def in_a_line(value: BaseModel) -> str:
    """Return what a value says, its fields in their order."""
    return _shown(value) or "nothing"


def _told(info: llmcache.Extraction[Any]) -> str:
    if info.outcome == "hit":
        return f"The answer was {_WHERE.get(str(info.tier), f'in {info.tier}')}. Nobody was asked."
    if info.outcome == "collapsed":
        return "Another call was asking for the same at that moment, and its answer was shared."
    who = "The sandbox" if asked() == DemoRun.Provider.SANDBOX else "The model"
    why = "The kept answer no longer fits the type" if info.reason == "invalid" else "No answer was known"
    return f"{why}. {who} was asked, and the answer is kept."


def _facts(info: llmcache.Extraction[Any]) -> Facts:
    left = info.ttl_left_seconds
    return (
        ("age", f"{span(info.age_seconds)} old"),
        ("fresh for", "ever" if left is None else f"another {span(round(left))}"),
        ("cost", _dollars(info.cost_incurred_usd)),
        ("saved", _dollars(info.cost_avoided_usd)),
        ("took", duration(info.latency_ms * 1e6, exact=True)),
        ("key", f"{info.key[:_SHORT_KEY]}…"),
    )


def _dollars(amount: Decimal | None) -> str:
    return NO_PRICE if amount is None else money(amount)


def _fields(value: BaseModel) -> list[tuple[str, str | None, str]]:
    types = type(value).model_fields
    return [(name.replace("_", " "), _shown(content), _type(types[name].annotation)) for name, content in value]


def _type(annotation: Any) -> str:
    parts = ", ".join(map(_type, get_args(annotation)))
    if get_origin(annotation) is list:
        return f"list[{parts}]"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _shown(content: Any) -> str | None:
    """Return a field's value as text; None when the text says nothing of it."""
    if isinstance(content, BaseModel):
        return " · ".join(filter(None, (_shown(part) for _, part in content))) or None
    if isinstance(content, list):
        # Each part of a nested type on a line of its own.
        between = "\n" if any(isinstance(part, BaseModel) for part in content) else ", "
        return between.join(filter(None, map(_shown, content))) or None
    if isinstance(content, int | float):
        return f"{content:,.0f}" if float(content).is_integer() else f"{content:,}"
    return content or None


def failure(error: llmcache.LLMCacheError) -> Failure:
    """Return what the page shows of an error."""
    title, todo, status = next(
        (title, todo, status) for kinds, title, todo, status in _FAILURES if isinstance(error, kinds)
    )
    if isinstance(error, llmcache.ProviderUnavailable) and asked() == DemoRun.Provider.SANDBOX:
        todo = "Has the sandbox ended? Stop the server and start it again with make serve."
    facts = (
        ("code", error.code),
        ("attempts", str(error.attempts)),
        ("cost", "not known" if error.cost_usd is None else money(error.cost_usd)),
    )
    return Failure(title, str(error), todo, facts, status)


_AGAIN: Final = "Try again in a moment; nothing that was paid for is lost."
# The first that fits: what is below a class stands before it.
_FAILURES: Final = (
    (llmcache.NotCached, "Nobody is there to ask", "Start the server with make serve: it brings a provider.", 503),
    (llmcache.InvalidRequest, "This text cannot be used", "Change the text.", 400),
    (llmcache.ConfigurationError, "The provider is not set up", "Then start the server again.", 503),
    (llmcache.RateLimited, "The provider asks to wait", _AGAIN, 503),
    ((llmcache.ProviderTimeout, llmcache.FlightTimeout), "No answer came in time", _AGAIN, 504),
    (llmcache.AuthenticationFailed, "The key was not taken", "", 502),
    (llmcache.ProviderUnavailable, "No answer from the provider", _AGAIN, 502),
    (llmcache.ProviderError, "The provider's answer cannot be read", _AGAIN, 502),
    (llmcache.ExtractionFailed, "The model gave no usable answer", "Ask once more, or word the text otherwise.", 502),
    (llmcache.LLMCacheError, "This call cannot be made", "The message says why.", 500),
)
