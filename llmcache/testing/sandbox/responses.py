"""The Responses API of the sandbox: a request read as one for a completion, and a completion told as a response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from llmcache.testing.sandbox.completions import Completion, Question, cut, encode
from llmcache.testing.sandbox.completions import question as question_of_chat

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED: Final = ("user", "metadata", "safety_identifier", "prompt_cache_key", "store")
_ENDS: Final = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


def question(body: Any) -> Question:
    """Read a request's body; a ValueError says what is wrong with it."""
    if not isinstance(body, dict):
        raise ValueError("The body must be a JSON object.")
    if "messages" in body or "response_format" in body:
        raise ValueError("'messages' and 'response_format' are now 'input' and 'text.format'.")
    said = body.get("input")
    items = [{"role": "user", "content": said}] if isinstance(said, str) else said
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("'input' must be a text or a list of items.")
    text = body.get("text") or {}
    wanted = dict(text.get("format") or {"type": "text"})
    kind = wanted.pop("type", None)
    choice = body.get("tool_choice")
    made = {
        "model": body.get("model"),
        "messages": [{"role": item.get("role"), "content": _parts(item.get("content"))} for item in items],
        "response_format": {"type": kind, "json_schema": wanted},
        "stream": body.get("stream"),
        "tools": [{"type": "function", "function": tool} for tool in body.get("tools") or ()],
        "tool_choice": {"type": "function", "function": choice} if isinstance(choice, dict) else choice,
    }
    echoed = {name: body.get(name) for name in _ECHOED}
    return replace(question_of_chat(made), api="responses", include_usage=True, echoed=echoed)


def _parts(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    known = {"input_text", "input_image", "input_file", "output_text"}
    wrong = next((part.get("type") for part in content if part.get("type") not in known), None)
    if wrong is not None:
        raise ValueError(f"Invalid value: '{wrong}'. Supported values are: {', '.join(sorted(known))}.")
    return content


def response(made: Completion, asked: Question) -> Completion:
    """Return what a completion says as a ``response``, which repeats who asked."""
    error = made.get("error")
    choice = made["choices"][0] if made["choices"] else None
    reason = None if choice is None else _INCOMPLETE.get(choice["finish_reason"])
    status = "failed" if error else "incomplete" if reason else "completed"
    return {
        "id": made["id"],
        "object": "response",
        "created_at": made["created"],
        "status": status,
        "error": error,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        **asked.echoed,
        "metadata": asked.echoed.get("metadata") or {},
        "model": made["model"],
        "output": [] if choice is None else list(_items(choice["message"], status)),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": _usage(made["usage"]),
        "service_tier": made["service_tier"],
    }


def _items(message: dict[str, Any], status: str) -> Iterator[dict[str, Any]]:
    yield {"id": "rs_0", "type": "reasoning", "summary": []}
    calls = message.get("tool_calls", ())
    for number, call in enumerate(calls):
        named = {"call_id": call["id"], **call["function"]}
        yield {"id": f"fc_{number}", "type": "function_call", "status": status, **named}
    if calls:
        return
    parts: list[dict[str, Any]] = []
    if message["content"] is not None:
        parts.append({"type": "output_text", "text": message["content"], "annotations": [], "logprobs": []})
    if message["refusal"] is not None:
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    yield {"id": "msg_0", "type": "message", "role": "assistant", "status": status, "content": parts}


def _usage(told: Any) -> Any:
    """Return the usage under the names of this API; one that is odd as it is."""
    if not isinstance(told, dict) or "completion_tokens_details" not in told:
        return told
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": told["prompt_tokens_details"],
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": told["completion_tokens_details"],
        "total_tokens": told["total_tokens"],
    }


def as_events(made: Completion, *, pieces: Iterable[str] | None = None) -> Iterator[bytes]:
    """Yield the server-sent events of a stream; `pieces` are its deltas where they are not cut from the answer."""
    begun = {**made, "status": "in_progress", "output": [], "usage": None, "error": None, "incomplete_details": None}
    told = [("response.created", {"response": begun}), ("response.in_progress", {"response": begun})]
    last = (_ENDS[made["status"]], {"response": made})
    for number, (kind, fields) in enumerate(chain(told, _output(made, pieces), (last,))):
        yield f"event: {kind}\ndata: ".encode() + encode({"type": kind, "sequence_number": number, **fields}) + b"\n\n"


def _output(made: Completion, pieces: Iterable[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, item in enumerate(made["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        empty = {**item, "status": "in_progress", **_emptied(item)}
        yield "response.output_item.added", {"output_index": index, "item": empty}
        if item["type"] == "function_call":
            for piece in pieces if pieces is not None else cut(item["arguments"]):
                yield "response.function_call_arguments.delta", {**at, "delta": piece}
            yield "response.function_call_arguments.done", {**at, "arguments": item["arguments"]}
        for number, part in enumerate(item.get("content", ())):
            yield from _part({**at, "content_index": number}, part, pieces)
        yield "response.output_item.done", {"output_index": index, "item": item}


def _emptied(item: dict[str, Any]) -> dict[str, Any]:
    return {name: empty for name, empty in (("arguments", ""), ("content", [])) if name in item}


def _part(
    at: dict[str, Any], part: dict[str, Any], pieces: Iterable[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    name = "text" if part["type"] == "output_text" else "refusal"
    yield "response.content_part.added", {**at, "part": {**part, name: ""}}
    for piece in pieces if pieces is not None and name == "text" else cut(part[name]):
        yield f"response.{part['type']}.delta", {**at, "delta": piece, **({"logprobs": []} if name == "text" else {})}
    yield f"response.{part['type']}.done", {**at, name: part[name], **({"logprobs": []} if name == "text" else {})}
    yield "response.content_part.done", {**at, "part": part}
