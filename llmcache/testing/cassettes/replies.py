"""Replies and failures as JSON that a person reads and edits, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn, cast

from llmcache.exceptions import (
    AuthenticationFailed,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from llmcache.money.usage import Usage
from llmcache.providers.base import Failure, Reply
from llmcache.providers.faces import without_echo
from llmcache.testing.cassettes import layout
from llmcache.testing.cassettes.cleaning import Clean, cleaned_text, mapped
from llmcache.testing.cassettes.layout import Number
from llmcache.testing.fake_replies import failure_of

LINES: Final = "$lines"
"""Under this name a text of several lines is a list of them."""

_ERRORS: Final = {
    each.__name__: each
    for each in (ProviderError, AuthenticationFailed, ProviderTimeout, ProviderUnavailable, RateLimited)
}
_PASSING: Final = (AuthenticationFailed, ProviderTimeout, ProviderUnavailable, RateLimited)
_MOST: Final = 2**53
_ALWAYS_TOLD: Final = ("input_tokens", "output_tokens")
_WHOLE: Final = "stop"
_RAW: Final = "raw"
_DETAILS: Final[dict[str, type]] = {"code": str, "status": int, "provider_error": str, "request_id": str}


class Misfit(ValueError):
    """What is written is not what there has to be; the message says where, from the interaction on."""


def is_worth_recording(failure: Failure) -> bool:
    """Return whether a failure says something about the request, and not about the moment or who records it."""
    error = failure.error
    is_told = error.status is not None or error.code != type(error).code
    return is_told and not failure.retry and not isinstance(error, _PASSING)


def cleaned(reply: Reply | Failure, clean: Clean, told: Mapping[str, Any] | None = None) -> Reply | Failure:
    """Return a reply or failure as it may be recorded; ``told`` is what was sent, and is in no key."""
    if isinstance(reply, Reply):
        return replace(
            reply,
            answer=None if reply.answer is None else cleaned_text(reply.answer, clean),
            rest=_cleaned_rest(reply.rest, clean, told),
        )
    error = reply.error
    details = {name: getattr(error, name) for name in error.details}
    return replace(reply, error=type(error)(clean(error.message), **details))


def _cleaned_rest(rest: bytes, clean: Clean, told: Mapping[str, Any] | None) -> bytes:
    try:
        data = json.loads(rest)
    except (ValueError, RecursionError):
        # Whoever plays it has the provider make one.
        return b""
    return _rest(mapped(_without_echo(data, told or {}), clean))


def _without_echo(data: Any, told: Mapping[str, Any]) -> Any:
    """Return what is beside an answer without what it repeats of who asked; a function's ``raw`` likewise."""
    if not isinstance(data, dict):
        return data
    facts = without_echo(cast("dict[str, Any]", data))
    kept = {name: part for name, part in facts.items() if name not in told or part != told[name]}
    return {**kept, _RAW: _without_echo(kept[_RAW], told)} if _RAW in kept else kept


def _rest(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def to_json(reply: Reply | Failure) -> dict[str, Any]:
    """Return a reply as ``{"reply": ...}``, a failure as ``{"failure": ...}``; what goes without saying is not said."""
    return {"failure": _failure_to_json(reply)} if isinstance(reply, Failure) else {"reply": _reply_to_json(reply)}


def _reply_to_json(reply: Reply) -> dict[str, Any]:
    made = {**_answer_to_json(reply.answer), "refused": reply.refused or None}
    if reply.usage is not None:
        usage = {each.name: getattr(reply.usage, each.name) for each in fields(Usage)}
        made["usage"] = {name: tokens for name, tokens in usage.items() if tokens or name in _ALWAYS_TOLD}
    made |= {name: getattr(reply, name) for name in ("model", "service_tier", "request_id")}
    if reply.cost_usd is not None:
        made["cost_usd"] = str(reply.cost_usd)
    made["completion"] = layout.Line(json.loads(reply.rest)) if reply.rest else None
    told = {name: value for name, value in made.items() if value is not None}
    # Without it an answer counts as whole.
    return told if reply.finish_reason == _WHOLE else {**told, "finish_reason": reply.finish_reason}


def _answer_to_json(answer: str | None) -> dict[str, Any]:
    if answer is None:
        return {}
    found = layout.style_of(answer)
    if found is None:
        return {"text": text_to_json(answer)}
    data, style = found
    return {"answer": data} if style == layout.STYLES[0] else {"answer": data, "layout": style}


def text_to_json(text: str) -> Any:
    """Return a text: one of several lines as a list of them, so that a diff shows the one that differs."""
    return {LINES: text.split("\n")} if "\n" in text else text


def _failure_to_json(failure: Failure) -> dict[str, Any]:
    error, usual = failure.error, failure_of(failure.error)
    details = {name: getattr(error, name) for name in _DETAILS}
    made: dict[str, Any] = {"error": _name_of(error), "message": error.message}
    made |= {name: told for name, told in details.items() if told is not None and told != getattr(type(error), name)}
    if failure.retry_after is not None:
        made["retry_after"] = failure.retry_after
    made |= {name: getattr(failure, name) for name in ("in_doubt", "retry") if _differs(failure, usual, name)}
    if _differs(failure, usual, "cost_usd"):
        made["cost_usd"] = None if failure.cost_usd is None else str(failure.cost_usd)
    return made


def _name_of(error: ProviderError) -> str:
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)


def _differs(failure: Failure, usual: Failure, name: str) -> bool:
    return getattr(failure, name) != getattr(usual, name)


def from_json(data: dict[str, Any]) -> Reply | Failure:
    """Return the reply or failure of an interaction as it is in a file. Raises ``Misfit``."""
    told = [name for name in ("reply", "failure") if name in data]
    if len(told) != 1:
        raise Misfit("needs either 'reply' or 'failure'" + (", and has both" if told else ", and has none"))
    name = told[0]
    value = _Fields(data[name], f"'{name}'")
    made = _reply_from_json(value) if name == "reply" else _failure_from_json(value)
    value.require_no_more()
    return made


def _reply_from_json(told: _Fields) -> Reply:
    return Reply(
        answer=_answer_from_json(told),
        finish_reason=told.take("finish_reason", str) if told.has("finish_reason") else _WHOLE,
        refused=told.take("refused", bool) or False,
        model=told.take("model", str),
        usage=_usage_from_json(told),
        request_id=told.take("request_id", str),
        rest=b"" if (rest := told.take("completion", dict)) is None else _rest(layout.plain(rest)),
        service_tier=told.take("service_tier", str),
        cost_usd=_cost_from_json(told),
    )


def _answer_from_json(told: _Fields) -> str | None:
    has_text, style = told.has("text"), told.take("layout", str)
    if told.has("answer") and has_text:
        told.refuse("has both 'answer' (an object or array) and 'text'")
    if style is not None and (has_text or style not in layout.STYLES):
        told.refuse(f"has the 'layout' {style!r}; it goes with 'answer' and is one of {', '.join(layout.STYLES)}")
    if has_text:
        return text_from_json(told.take("text", object), told.refuse)
    if not told.has("answer"):
        return None
    answer = told.take("answer", object)
    if not isinstance(answer, dict | list):
        told.refuse("'answer' has to be an object or array; anything else goes under 'text', as the model wrote it")
    return layout.written(answer, style or layout.STYLES[0])


def text_from_json(told: Any, refuse: Callable[[str], NoReturn]) -> str:
    """Return the text that ``text_to_json`` made of it."""
    if isinstance(told, str):
        return told
    lines: Any = (
        cast("dict[str, Any]", told).get(LINES) if isinstance(told, dict) and len(cast("Any", told)) == 1 else None
    )
    if not isinstance(lines, list) or not lines or not all(isinstance(each, str) for each in cast("list[Any]", lines)):
        refuse(f"'text' has to be a string, or {{\"{LINES}\": [...]}} with a string for each line")
    return "\n".join(cast("list[str]", lines))


def _usage_from_json(told: _Fields) -> Usage | None:
    value = told.take("usage", dict)
    if value is None:
        return None
    usage = _Fields(value, f"{told.where}.'usage'")
    counts = {each.name: usage.take(each.name, int, default=0) for each in fields(Usage)}
    for name, count in counts.items():
        if not 0 <= count < _MOST:
            usage.refuse(f"{name!r} has to be a number of tokens, from 0 on")
    usage.require_no_more()
    return Usage(**counts)


def _failure_from_json(told: _Fields) -> Failure:
    name = told.take("error", str, default="")
    if name not in _ERRORS:
        told.refuse(f"'error' is {name!r}; it has to be one of {', '.join(_ERRORS)}")
    details = {each: told.take(each, kind) for each, kind in _DETAILS.items()}
    details = {each: value for each, value in details.items() if value is not None}
    retry_after = told.take("retry_after", float)
    if retry_after is not None and not 0 <= retry_after < _MOST:
        told.refuse("'retry_after' has to be seconds, from 0 on")
    if retry_after is not None and name == RateLimited.__name__:
        details["retry_after"] = retry_after
    message = told.take("message", str, default=f"{name}, as the cassette has it.")
    made = replace(failure_of(_ERRORS[name](message, **details)), retry_after=retry_after)
    for each in ("in_doubt", "retry"):
        value = told.take(each, bool)
        made = made if value is None else replace(made, **{each: value})
    return replace(made, cost_usd=_cost_from_json(told)) if told.has("cost_usd") else made


def _cost_from_json(told: _Fields) -> Decimal | None:
    text = told.take("cost_usd", str)
    try:
        cost = None if text is None else Decimal(text)
    except InvalidOperation:
        told.refuse("'cost_usd' has to be an amount as a string, or null where it is not known")
    if cost is not None and not (cost.is_finite() and cost >= 0):
        told.refuse("'cost_usd' cannot be negative or endless")
    return cost


_WORDS: Final = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}


class _Fields:
    """An object of a file, whose fields are taken one after the other."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise Misfit(f"{where} has to be an object")
        self.where = where
        self._data = cast("dict[str, Any]", data)
        self._known: set[str] = set()

    def has(self, name: str) -> bool:
        self._known.add(name)
        return name in self._data

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """Return a field's value, ``default`` where there is none or null; ``Misfit`` where it is of another kind."""
        self._known.add(name)
        value: Any = self._data.get(name)
        if value is None:
            return default
        if isinstance(value, Number) and kind in (int, float):
            value = _number(value, kind)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(f"{name!r} has to be {_WORDS.get(kind, 'JSON')}")
        return value

    def require_no_more(self) -> None:
        """Raise ``Misfit`` for a field that nobody knows: most likely it is misspelled."""
        unknown = [name for name in self._data if name not in self._known]
        if unknown:
            self.refuse(f"{unknown[0]!r} is unknown; there may be {', '.join(sorted(self._known))}")

    def refuse(self, why: str) -> NoReturn:
        raise Misfit(f"{self.where}: {why}")


def _number(number: Number, kind: type) -> Any:
    try:
        return kind(json.loads(number.text) if kind is float else number.text)
    except (ValueError, OverflowError):
        return None
