"""What the sandbox answers: from the question's text to the bytes of a completion or of its stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from llmcache.testing.sandbox.filling import fill
from llmcache.testing.sandbox.schemas import Schema, accepts, wrapped

Completion: TypeAlias = dict[str, Any]

MODEL_SUFFIX: Final = "-2026-01-01"
"""What the name of the model that answers has beyond the name that was asked for."""
FINGERPRINT: Final = "sandbox-not-a-model"


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks, as far as the answer depends on it."""

    model: str
    texts: tuple[str, ...]
    """What the user says, message by message."""
    schema: Schema | None
    """The JSON schema of the answer; None when any text or any JSON object will do."""
    json_object: bool
    stream: bool
    include_usage: bool
    """Whether a stream is to end with its usage."""
    function: str | None = None
    """The function that has to be called with the answer; None where it is to be said."""
    api: str = "chat"
    """``"responses"`` for the Responses API."""
    echoed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What of the request is repeated in the answer."""


def question(body: Any) -> Question:
    """Read a request's body; a ValueError says what is wrong with it."""
    if not isinstance(body, dict):
        raise ValueError("The body must be a JSON object.")
    model, messages, wanted = body.get("model"), body.get("messages"), body.get("response_format") or {}
    if not isinstance(model, str) or not model:
        raise ValueError("'model' must be the name of a model.")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError("'messages' must be a list of one or more messages.")
    if not isinstance(wanted, dict) or wanted.get("type", "text") not in ("text", "json_object", "json_schema"):
        raise ValueError("'response_format' must be of type text, json_object or json_schema.")
    if wanted.get("type") == "json_object" and not any(
        "json" in _text(message.get("content")).lower() for message in messages
    ):
        raise ValueError("'messages' must contain the word 'json' in some form, to use 'json_object'.")
    function, parameters = _function(body.get("tools"), body.get("tool_choice"))
    schema = _schema(wanted) if wanted.get("type") == "json_schema" else parameters or _told_schema(messages)
    return Question(
        model=model,
        texts=tuple(_text(message.get("content")) for message in messages if message.get("role") == "user"),
        schema=schema,
        json_object=wanted.get("type") == "json_object",
        stream=body.get("stream") is True,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        function=function,
    )


def _function(tools: Any, choice: Any) -> tuple[str | None, Schema | None]:
    """Return the function that has to be called, and the schema of its arguments."""
    chosen = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    if chosen is None:
        return None, None
    named = [tool.get("function", {}) for tool in tools or () if isinstance(tool, dict)]
    found = next((function for function in named if function.get("name") == chosen), None)
    if found is None:
        raise ValueError("'tool_choice' must name one of the functions in 'tools'.")
    return chosen, found.get("parameters", {})


def _told_schema(messages: list[Any]) -> Schema | None:
    """Return the schema that the system is told in words: what its last line is, where that is JSON."""
    for message in messages:
        if message.get("role") == "system":
            _, last = _read(_text(message.get("content")).rpartition("\n")[2])
            if isinstance(last, dict) and "type" in last:
                return last
    return None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _schema(wanted: dict[str, Any]) -> Schema:
    named = wanted.get("json_schema")
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise ValueError("'response_format.json_schema' must have a name.")
    schema = named.get("schema", {})
    if not isinstance(schema, dict):
        raise ValueError("'response_format.json_schema.schema' must be an object.")
    return schema


def content(asked: Question, answers: Mapping[str, Any]) -> str:
    """Return the right content: the known answer where there is one that fits, else a filling.

    The user's last message that is known decides, so that a re-ask goes on about the same text; when none is known,
    the last message is the text.
    """
    for text in reversed(asked.texts):
        if text in answers and (known := _known(answers[text], asked.schema)) is not None:
            return known
    text = asked.texts[-1] if asked.texts else ""
    if asked.schema is not None:
        return _json(fill(text, asked.schema))
    beginning = " ".join(text.split()[:8])
    return (
        _json({"sandbox": beginning}) if asked.json_object else f"The sandbox, which is no model, was told: {beginning}"
    )


def _known(answer: Any, schema: Schema | None) -> str | None:
    """Return a known answer as JSON in the shape that is asked for; None when it is an answer to something else."""
    written, value = _read(answer)
    if schema is None:
        return written
    inner = wrapped(schema, schema)
    if inner is None or (isinstance(value, dict) and "value" in value):
        return written if accepts(schema, value, schema) else None
    return f'{{"value":{written}}}' if accepts(inner, value, schema) else None


def _read(answer: Any) -> tuple[str, Any]:
    """Return an answer as JSON text, byte for byte where it was given as such, and as data."""
    if hasattr(answer, "model_dump_json"):
        answer = answer.model_dump_json(by_alias=True)
    if isinstance(answer, str):
        try:
            return answer, json.loads(answer)
        except (ValueError, RecursionError):
            pass  # a string that is no JSON is the value itself
    return _json(answer), answer


def completion(asked: Question, completion_id: str, usage: dict[str, Any], text: str) -> Completion:
    """Return a whole ``chat.completion`` with this content."""
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model + MODEL_SUFFIX,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def with_calls(made: Completion, asked: Question) -> Completion:
    """Return a completion that says its answer by calling a function, where it is asked for that.

    A fault may have put into its message which functions it calls instead.
    """
    for choice in made["choices"]:
        message = choice["message"]
        names = message.pop("calls", [asked.function])
        if asked.function is None or message["content"] is None or not names:
            continue
        called = [{"name": name, "arguments": message["content"]} for name in names]
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": each} for number, each in enumerate(called)
        ]
        message["content"] = None
    return made


def as_json(made: Completion) -> bytes:
    """Return the body that goes out when no stream was asked for."""
    return encode({name: part for name, part in made.items() if name != "usage" or part is not None})


def as_events(made: Completion, *, include_usage: bool, pieces: Iterable[str] | None = None) -> Iterator[bytes]:
    """Yield the server-sent events of a stream; `pieces` are its deltas where they are not cut from the content."""
    facts = {name: made[name] for name in ("id", "created", "model", "service_tier", "system_fingerprint")}
    common = {**facts, "object": "chat.completion.chunk", **({"usage": None} if include_usage else {})}
    for choice in made["choices"]:
        for delta, reason in _deltas(choice, pieces):
            part = {"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": reason}
            yield _event({**common, "choices": [part]})
    if not made["choices"]:
        yield _event({**common, "choices": []})
    if include_usage and made["usage"] is not None:
        yield _event({**common, "choices": [], "usage": made["usage"]})
    yield b"data: [DONE]\n\n"


def _deltas(choice: dict[str, Any], pieces: Iterable[str] | None) -> Iterator[tuple[dict[str, Any], str | None]]:
    message = choice["message"]
    yield {"role": "assistant", "content": "", "refusal": None}, None
    for name in ("content", "refusal"):
        for piece in pieces if pieces is not None and message[name] else cut(message[name] or ""):
            yield {name: piece}, None
    for index, call in enumerate(message.get("tool_calls", ())):
        whole = call["function"]["arguments"]
        begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [begun]}, None
        for piece in pieces if pieces is not None else cut(whole):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None
    yield {}, choice["finish_reason"]


def cut(text: str) -> Iterator[str]:
    """Yield a text in pieces of 1 to 11 characters: a reader must not count on whole words or tokens."""
    at = 0
    while at < len(text):
        size = 1 + (7 * at + len(text)) % 11
        yield text[at : at + size]
        at += size


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encode(value: Any) -> bytes:
    """Return JSON in UTF-8; what UTF-8 cannot say (a lone surrogate) is escaped."""
    try:
        return _json(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
