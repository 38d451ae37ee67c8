"""What can go wrong on the way to an answer, and for which calls it does.

A fault is *charged* when the call is in the charge file all the same; each function says so. A charged call has its
tokens there whatever the caller is told of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final, Literal, TypeAlias

from llmcache.testing.sandbox.completions import Completion
from llmcache.testing.sandbox.schemas import Schema
from llmcache.testing.sandbox.server import Reply

Delivery: TypeAlias = Literal["whole", "never", "reset", "reset in body", "drip from head", "drip from body"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of a call; made by the functions of this module."""

    name: str
    charged: bool
    delivery: Delivery = "whole"
    reply: Reply | None = None
    """Goes out instead of a completion."""
    change: Callable[[Completion, Schema | None], None] | None = None
    """Changes the completion, which has its right content, in place; it gets the requested schema too."""
    seconds: float = 0.0
    """Waited before the answer."""
    drip_seconds: float = 0.0
    """Waited after each byte of a drip."""
    content_bytes: int = 0
    """Length of the content that stands instead of the right one; 0 leaves it."""


NONE: Final = Fault("none", charged=True)


# -- no completion, nothing charged ---------------------------------------------------------------------------


def rate_limited(retry_after: float | str | None = None) -> Fault:
    """Answer 429, with ``Retry-After`` as given (seconds, or any text) unless it is None. Not charged."""
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    return _refusing("rate_limited", 429, "rate_limit_error", "rate_limit_exceeded", headers)


def server_error(status: int = 500, *, html: bool = False) -> Fault:
    """Answer a server error (500, 502, 503, ...), with a page of HTML as a proxy sends it if asked. Not charged."""
    if not html:
        return _refusing("server_error", status, "server_error", None)
    page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1><hr>sandbox</body></html>"
    return Fault("server_error", charged=False, reply=Reply(status, page.encode(), "text/html"))


def unauthorized() -> Fault:
    """Answer 401, as for a wrong API key. Not charged."""
    return _refusing("unauthorized", 401, "invalid_request_error", "invalid_api_key")


def bad_request() -> Fault:
    """Answer 400, as for a parameter that the API does not take. Not charged."""
    return _refusing("bad_request", 400, "invalid_request_error", "invalid_value")


def redirect(location: str) -> Fault:
    """Answer 307 with this ``Location``. Not charged."""
    return Fault("redirect", charged=False, reply=Reply(307, headers=(("Location", location),)))


def error_object() -> Fault:
    """Answer 200 with an object that has only ``error``. Not charged."""
    body = _error("server_error", None, "The sandbox answers 200 with an error, as it was told to.")
    return Fault("error_object", charged=False, reply=Reply(200, body))


def reset_before_charge() -> Fault:
    """Reset the connection (TCP RST) without a byte. Not charged."""
    return Fault("reset_before_charge", charged=False, delivery="reset")


def hang() -> Fault:
    """Accept the request and never answer; ``heal`` and the sandbox's end close the connection. Not charged."""
    return Fault("hang", charged=False, delivery="never")


# -- charged, and the caller is not told what it cost ---------------------------------------------------------


def reset_after_charge() -> Fault:
    """Reset the connection (TCP RST) without a byte. Charged."""
    return Fault("reset_after_charge", charged=True, delivery="reset")


def reset_mid_body() -> Fault:
    """Send the head and half of the body, then reset the connection (TCP RST). Charged."""
    return Fault("reset_mid_body", charged=True, delivery="reset in body")


def garbage() -> Fault:
    """Answer 200 with a body that says it is JSON and is not. Charged."""
    return Fault("garbage", charged=True, reply=Reply(200, b"\x1f\x8b<<< this is no JSON >>>\xff"))


def empty_body() -> Fault:
    """Answer 200 with no body. Charged."""
    return Fault("empty_body", charged=True, reply=Reply(200))


def missing_usage() -> Fault:
    """Answer properly, but without ``usage``. Charged."""
    return Fault("missing_usage", charged=True, change=lambda completion, _: completion.update(usage=None))


def odd_usage(usage: Any) -> Fault:
    """Answer properly, with this for ``usage``. Charged as if nothing were odd."""
    return Fault("odd_usage", charged=True, change=lambda completion, _: completion.update(usage=usage))


# -- slow or large --------------------------------------------------------------------------------------------


def slow(seconds: float) -> Fault:
    """Wait before the proper answer. Charged before the wait: who gives up, pays."""
    return Fault("slow", charged=True, seconds=seconds)


def drip(seconds_between_bytes: float, where: Literal["headers", "body"] = "body") -> Fault:
    """Send the proper answer byte by byte, from its head or from its body on. Charged before the first byte."""
    if where not in ("headers", "body"):
        raise ValueError(f"drip() takes where='headers' or 'body', not {where!r}")
    delivery: Delivery = "drip from head" if where == "headers" else "drip from body"
    return Fault("drip", charged=True, delivery=delivery, drip_seconds=seconds_between_bytes)


def huge(content_bytes: int) -> Fault:
    """Answer with a content of that many letters x. It is never whole in the sandbox's memory. Charged."""
    if content_bytes < 1:
        raise ValueError("huge() takes a content of 1 byte or more")
    return Fault("huge", charged=True, content_bytes=content_bytes)


# -- answers of a model that cannot be used, with their usage -------------------------------------------------


def refusal() -> Fault:
    """Answer with ``refusal`` and without content. Charged."""
    return _message("refusal", content=None, refusal="The sandbox refuses, as it was told to.")


def content_filter() -> Fault:
    """Answer without content, with ``finish_reason`` "content_filter". Charged."""
    return _message("content_filter", finish_reason="content_filter", content=None)


def null_content() -> Fault:
    """Answer with a content of null, and no refusal. Charged."""
    return _message("null_content", content=None)


def empty_content() -> Fault:
    """Answer with an empty content. Charged."""
    return _message("empty_content", content="")


def says(content: str) -> Fault:
    """Answer with exactly this content. Charged."""
    return _message("says", content=content)


def empty_choices() -> Fault:
    """Answer with an empty list of ``choices``. Charged."""
    return Fault("empty_choices", charged=True, change=lambda completion, _: completion.update(choices=[]))


def truncated() -> Fault:
    """Answer with the first half of the right content and ``finish_reason`` "length". Charged."""

    def change(completion: Completion, _: Schema | None) -> None:
        choice = completion["choices"][0]
        choice["finish_reason"] = "length"
        choice["message"]["content"] = choice["message"]["content"][: len(choice["message"]["content"]) // 2]

    return Fault("truncated", charged=True, change=change)


def wrong_json() -> Fault:
    """Answer with valid JSON that does not fit the schema: what is required lacks, or it is no object. Charged."""

    def change(completion: Completion, schema: Schema | None) -> None:
        wrong = {"unexpected": "answer"} if schema and schema.get("required") else ["unexpected", "answer"]
        completion["choices"][0]["message"]["content"] = json.dumps(wrong)

    return Fault("wrong_json", charged=True, change=change)


def broken_json(*, cut: bool = False) -> Fault:
    """Answer with the right JSON made invalid: a comma before its last bracket, or without its end. Charged."""

    def breaking(content: str) -> str:
        return content[:-1] if cut else f"{content[:-1]},{content[-1:]}"

    return _content("broken_json", breaking)


def calls(*names: str) -> Fault:
    """Call these functions with the right answer, and no other; without a name, say it. Charged.

    Where the request wants no function to be called, nothing is wrong.
    """

    def change(completion: Completion, _: Schema | None) -> None:
        completion["choices"][0]["message"]["calls"] = list(names)

    return Fault("calls", charged=True, change=change)


def breaks_off(code: str = "server_error") -> Fault:
    """Answer with a response that failed, for this reason, after it had been said; the Responses API alone. Charged."""
    error = {"code": code, "message": "The sandbox broke it off, as it was told to."}
    return Fault("breaks_off", charged=True, change=lambda completion, _: completion.update(error=error, usage=None))


def fenced_json() -> Fault:
    """Answer with the right JSON inside a fence of Markdown. Charged."""
    return _content("fenced_json", lambda content: f"```json\n{content}\n```")


FACTORIES: Final[Mapping[str, Callable[..., Fault]]] = {
    make.__name__: make
    for make in (
        *(rate_limited, server_error, unauthorized, bad_request, redirect, error_object, reset_before_charge, hang),
        *(reset_after_charge, reset_mid_body, garbage, empty_body, missing_usage, odd_usage, slow, drip, huge),
        *(refusal, content_filter, null_content, empty_content, says, empty_choices),
        *(truncated, wrong_json, broken_json, fenced_json, calls, breaks_off),
    )
}
"""The faults by the names that they have over HTTP."""


def error_reply(status: int, kind: str, code: str | None, message: str) -> Reply:
    """Return an error as OpenAI words it."""
    return Reply(status, _error(kind, code, message))


def _error(kind: str, code: str | None, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def _refusing(name: str, status: int, kind: str, code: str | None, headers: tuple[tuple[str, str], ...] = ()) -> Fault:
    body = _error(kind, code, f"The sandbox answers {status}, as it was told to.")
    return Fault(name, charged=False, reply=Reply(status, body, headers=headers))


def _message(name: str, *, finish_reason: str = "stop", **fields: str | None) -> Fault:
    def change(completion: Completion, _: Schema | None) -> None:
        completion["choices"][0]["finish_reason"] = finish_reason
        completion["choices"][0]["message"].update(fields)

    return Fault(name, charged=True, change=change)


def _content(name: str, new: Callable[[str], str]) -> Fault:
    def change(completion: Completion, _: Schema | None) -> None:
        message = completion["choices"][0]["message"]
        message["content"] = new(message["content"])

    return Fault(name, charged=True, change=change)


@dataclass(slots=True)
class _Rule:
    fault: Fault
    text: str | None
    every: int
    left: int | None
    seen: int = 0

    def takes(self, texts: tuple[str, ...]) -> bool:
        """Count a call that the rule is about, and say whether it is the rule's turn."""
        if self.text is not None and self.text not in texts:
            return False
        self.seen += 1
        return self.seen % self.every == 0


class Rules:
    """Which calls get which fault, in the order in which that was said."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    def add(
        self, fault: Fault, times: int | EllipsisType | None = ..., text: str | None = None, every: int | None = None
    ) -> None:
        """Add a rule; see ``Sandbox.fail``."""
        if times is ...:
            times = 1 if every is None else None
        if (times is not None and times < 1) or (every is not None and every < 1):
            raise ValueError(f"times={times!r} and every={every!r} must be 1 or more, or None")
        self._rules.append(_Rule(fault, text, every or 1, times))

    def clear(self) -> None:
        """Forget all rules."""
        self._rules.clear()

    def take(self, texts: tuple[str, ...]) -> Fault:
        """Return the fault of a call in which the user says these texts; `NONE` when nothing is to go wrong."""
        due = [rule for rule in self._rules if rule.takes(texts)]
        if not due:
            return NONE
        if due[0].left is not None:
            due[0].left -= 1
            if not due[0].left:
                self._rules.remove(due[0])
        return due[0].fault
