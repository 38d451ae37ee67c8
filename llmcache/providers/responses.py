"""The Responses API: OpenAI's newer one, with ``input`` in place of messages and a list of items as its output.

Conversations are built as chat completions have them and translated here, text, images and files. The answer is the
text of the message, or the arguments of the one function that is called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.exceptions import InvalidRequest, ProviderError, ProviderUnavailable, RateLimited
from llmcache.money.usage import Usage, told_usage
from llmcache.providers import words
from llmcache.providers.base import Body, Failure, Reply
from llmcache.providers.faces import (
    Written,
    packed,
    parameters_of,
    require_free,
    service_tier,
    text_of,
    told_by,
    unpacked,
)
from llmcache.providers.failures import unreadable
from llmcache.providers.responses_stream import WrittenResponse, is_aside
from llmcache.providers.schema import ResponseSchema
from llmcache.setting_values import Output

_SETS: Final = frozenset({"input", "background", "conversation", "previous_response_id"})
"""What would be asked is not in the body then, or the answer is not in the reply."""
_CHOICE: Final = "tool_choice"
_FINISH: Final[dict[str | None, str]] = {"completed": "stop", "max_output_tokens": "length"}
"""How an answer has ended, in the words of chat completions where those have one."""


class ResponsesFace:
    """The Responses API with one way to make the answer JSON."""

    def __init__(self, output: Output) -> None:
        self._output: Output = output
        self.name = "responses" if output == "json_schema" else f"responses {output}"
        self._sets = _SETS | {_CHOICE} if output == "tools" else _SETS

    def require_unkeyed(self, names: Iterable[str]) -> None:
        # The schema lies there.
        self._require(names, self._sets | {"text"})

    def _require(self, names: Iterable[str], sets: frozenset[str]) -> None:
        require_free(names, sets, f"api 'responses', output '{self._output}'")

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        self._require(params, self._sets)
        system = words.system_of(system, schema, is_told=self._output == "json_object")
        # Not as `instructions`: the API looks for the word "JSON" in the input alone, and tells them in its reply.
        said = [] if system is None else [{"role": "system", "content": system}]
        named = {name: params[name] for name in sorted(params)}
        text = _text_options(named.pop("text", None))
        return {"model": model, "input": said, **self._wanted(schema, text), **named}

    def _wanted(self, schema: ResponseSchema, text: Body) -> Body:
        """Return what makes the answer JSON, and what the caller says of the text beside it."""
        if self._output == "json_object":
            return {"text": {**text, "format": {"type": "json_object"}}}
        if self._output == "json_schema":
            named = {"name": schema.name, "strict": schema.strict, "schema": schema.schema}
            return {"text": {**text, "format": {"type": "json_schema", **named}}}
        function = {"name": schema.name, "strict": schema.strict, "parameters": schema.schema}
        wanted: Body = {"tools": [{"type": "function", **function}]}
        wanted[_CHOICE] = {"type": "function", "name": schema.name}
        return {**wanted, "text": text} if text else wanted

    def prepare(self, body: Body, content: str | list[dict[str, Any]], unkeyed: Mapping[str, Any]) -> Body:
        turns = [{"role": "user", "content": content}] if isinstance(content, str) else list(map(_item, content))
        return {**body, "input": [*body["input"], *turns], **unkeyed}

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        return {**body, "input": [*body["input"], *words.mending(answer, errors)]}

    def create(self, client: Any) -> Any:
        return client.responses.with_streaming_response.create

    def known(self) -> frozenset[str]:
        from openai.resources.responses import Responses

        return parameters_of(Responses.create)

    def streamed(self, body: Body) -> dict[str, Any]:  # noqa: ARG002  # the arguments are those of a contract
        # The usage is in the last event.
        return {"stream": True}

    def written(self, body: Body, told: Callable[[str], object]) -> Written:
        return WrittenResponse(told, self._function(body))

    def _function(self, body: Body) -> str | None:
        """Return the name of the function that is to be called; None where the answer is a text."""
        return body["tools"][0]["name"] if self._output == "tools" else None

    @sensitive_variables()
    def reply(self, data: bytes, body: Body, request_id: str | None, status: int) -> Reply | Failure:
        try:
            facts: Any = json.loads(data)
            state: Any = facts.get("status", "completed")
            if state in ("failed", "cancelled", "queued", "in_progress"):
                return _unanswered(facts, request_id, status)
            output: list[dict[str, Any]] = facts["output"]
            details: dict[str, Any] = facts.get("incomplete_details") or {}
            reason: Any = details.get("reason")
            is_refused = reason == "content_filter" or any(map(_is_refusal, _parts(output)))
            is_cut = reason != "content_filter" and (state == "incomplete" or _is_cut(output, self._function(body)))
            ended = "length" if is_cut else text_of(reason or state)
            answer = self._taken(output, self._function(body))
            rest = packed(facts)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return unreadable(data, request_id, status, "response with an output")
        return Reply(
            answer=text_of(answer),
            finish_reason=_FINISH.get(ended, ended),
            refused=is_refused,
            model=text_of(facts.get("model")),
            usage=told_usage(facts.get("usage")),
            request_id=request_id,
            rest=rest,
            service_tier=service_tier(facts),
        )

    @staticmethod
    def _taken(output: list[dict[str, Any]], function: str | None) -> Any:
        """Return the answer, and leave a hole where it was; None where there is none."""
        if function is None:
            places = _texts(output)
            if not places:
                return None
            answer = "".join([place["text"] for place in places])
            # Seldom more than one; the first holds it all when it is put back.
            for place in places:
                place["text"] = ""
            places[0]["text"] = None
            return answer
        calls = [item for item in output if item.get("type") == "function_call"]
        # Several calls are as good as none: there is no telling which of them is the answer.
        if len(calls) != 1 or calls[0].get("name") != function:
            return None
        answer, calls[0]["arguments"] = calls[0].get("arguments"), None
        return answer

    def load(self) -> None:
        import openai.types.responses  # noqa: F401  # pyright: ignore[reportUnusedImport]

    @sensitive_variables()
    def rest(
        self, body: Body, at: float, *, reply_id: str = "", usage: Usage | Mapping[str, Any] | None = None
    ) -> bytes:
        function = self._function(body)
        text: dict[str, Any] = {"type": "output_text", "text": None, "annotations": []}
        item: dict[str, Any] = {"id": "", "type": "message", "role": "assistant", "status": "completed"}
        item["content"] = [text]
        if function is not None:
            item = {"id": "", "type": "function_call", "call_id": "", "name": function, "status": "completed"}
            item["arguments"] = None
        facts: dict[str, Any] = {"id": reply_id, "object": "response", "created_at": at, "status": "completed"}
        facts |= {"model": body["model"], "output": [item], "error": None, "incomplete_details": None}
        facts |= {"parallel_tool_calls": True, "tools": [], _CHOICE: "auto"}
        return packed(facts if usage is None else {**facts, "usage": _usage_as_told(usage)})

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """Return the SDK's ``Response``, as ``create`` would have returned it; None for what is none."""
        from openai.types.responses import Response

        try:
            facts = unpacked(rest)
            _put_back(facts["output"], answer.decode())
            return Response.construct(None, **facts)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # Bytes from a tier may be anybody's.
            return None


def _put_back(output: list[dict[str, Any]], answer: str) -> None:
    calls = [(item, "arguments") for item in output if item.get("type") == "function_call"]
    places = [*calls, *((part, "text") for part in _parts(output))]
    holes = [(place, name) for place, name in places if place.get(name, "") is None]
    place, name = holes[0]
    place[name] = answer


def _parts(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of all messages."""
    return [part for item in output if item.get("type") == "message" for part in item["content"]]


def _texts(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts with the text of the message that answers; what a model says on its way there is an aside."""
    answering = [item for item in output if item.get("type") == "message" and not is_aside(item)]
    found: list[dict[str, Any]] = answering[0]["content"] if answering else []
    return [part for part in found if part.get("type") == "output_text" and isinstance(part.get("text"), str)]


def _is_cut(output: list[dict[str, Any]], function: str | None) -> bool:
    """Return whether the item that answers says itself that it is not whole."""
    if function is None:
        items = [item for item in output if item.get("type") == "message" and not is_aside(item)][:1]
    else:
        items = [item for item in output if item.get("type") == "function_call" and item.get("name") == function]
    return any(item.get("status") == "incomplete" for item in items)


def _is_refusal(part: dict[str, Any]) -> bool:
    return part.get("type") == "refusal"


def _unanswered(facts: dict[str, Any], request_id: str | None, status: int) -> Failure:
    """Say why a response has no answer: it says itself that it failed, after it had begun."""
    told: Any = facts.get("error")
    code: Any = cast("dict[str, Any]", told).get("code") if isinstance(told, dict) else None
    known: dict[str, Any] = {"status": status, "request_id": request_id}
    spent = told_by(facts, has_output=False)
    if facts["status"] != "failed":
        made = ProviderError(
            f"The provider answered {status} with a response that has no answer yet, or no more. Try again; when it "
            "stays so, look at what answers at 'base_url'.",
            code="invalid_response",
            **known,
        )
        return Failure(made, cost_usd=None, in_doubt=spent is None, retry=False, told=spent)
    if code == "rate_limit_exceeded":
        made = RateLimited("The provider limits the rate of calls, and broke its response off.", **known)
    elif code in (None, "server_error"):
        made = ProviderUnavailable("The provider broke its response off. Try again later.", **known)
    else:
        made = ProviderError(
            "The provider did not accept the request, and broke its response off. Check the content, the model's name "
            "and the parameters.",
            **known,
        )
    retry = isinstance(made, RateLimited | ProviderUnavailable)
    return Failure(made, cost_usd=None, in_doubt=spent is None, retry=retry, told=spent)


def _text_options(told: Any) -> Body:
    """Return what a caller says in ``text=`` beside the format, such as its verbosity."""
    if told is None:
        return {}
    if not isinstance(told, dict) or "format" in told:
        raise InvalidRequest("text= must be a dict without 'format', which llmcache sets: it is the schema's place.")
    return cast("Body", told)


def _item(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as an item of the input. Raises ``InvalidRequest`` for what has no translation."""
    role, content = message["role"], message["content"]
    unknown = sorted(message.keys() - {"role", "content"})
    if unknown:
        raise InvalidRequest(f"A message with {unknown[0]!r} cannot be sent by api 'responses'. Leave it out.")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [_part(part) for part in content]
    if role == "assistant":
        # What a model has said is told as a text: in parts, the API takes it with the ids that it gave them alone.
        if any(part["type"] != "input_text" for part in parts):
            raise InvalidRequest("A message of the assistant can have text alone where api is 'responses'.")
        return {"role": role, "content": "".join(part["text"] for part in parts)}
    return {"role": role, "content": parts}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **more}}:
            return {"type": "input_image", "detail": "auto", **more, "image_url": url}
        case {"type": "file", "file": {**file}}:
            return {"type": "input_file", **file}
        case _:
            raise InvalidRequest(
                f"A part of type {part.get('type')!r} cannot be sent by api 'responses', which takes text, image_url "
                "and file. Use api 'chat'."
            )


def _usage_as_told(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a usage as this API tells it; one that is told already as it is."""
    if not isinstance(usage, Usage):
        return usage
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
