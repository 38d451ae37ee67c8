"""Chat completions: the API of OpenAI that nearly every server speaks.

The answer is the message's text, or the arguments of the one function that the message calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.money.usage import Usage, told_usage
from llmcache.providers import words
from llmcache.providers.base import Body, Failure, Reply
from llmcache.providers.chat_stream import WrittenChat
from llmcache.providers.faces import Written, packed, parameters_of, require_free, service_tier, text_of, unpacked
from llmcache.providers.failures import unreadable
from llmcache.providers.schema import ResponseSchema, response_format
from llmcache.setting_values import Output

_CHOICE: Final = "tool_choice"


class ChatFace:
    """Chat completions with one way to make the answer JSON."""

    def __init__(self, output: Output) -> None:
        self._output: Output = output
        self.name = "" if output == "json_schema" else f"chat {output}"

    def require_unkeyed(self, names: Iterable[str]) -> None:
        if self._output == "tools":
            require_free(names, frozenset({_CHOICE}), "output 'tools'")

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        self.require_unkeyed(params)
        system = words.system_of(system, schema, is_told=self._output == "json_object")
        messages = [] if system is None else [{"role": "system", "content": system}]
        named = {name: params[name] for name in sorted(params)}
        return {"model": model, "messages": messages, **self._wanted(schema), **named}

    def _wanted(self, schema: ResponseSchema) -> Body:
        """Return what makes the answer JSON."""
        if self._output == "json_object":
            return {"response_format": {"type": "json_object"}}
        if self._output == "json_schema":
            return {"response_format": response_format(schema)}
        function = {"name": schema.name, "strict": schema.strict, "parameters": schema.schema}
        return {
            "tools": [{"type": "function", "function": function}],
            _CHOICE: {"type": "function", "function": {"name": schema.name}},
        }

    def prepare(self, body: Body, content: str | list[dict[str, Any]], unkeyed: Mapping[str, Any]) -> Body:
        turns = [{"role": "user", "content": content}] if isinstance(content, str) else content
        return {**body, "messages": [*body["messages"], *turns], **unkeyed}

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        return {**body, "messages": [*body["messages"], *words.mending(answer, errors)]}

    def create(self, client: Any) -> Any:
        return client.chat.completions.with_streaming_response.create

    def known(self) -> frozenset[str]:
        from openai.resources.chat.completions import Completions

        return parameters_of(Completions.create)

    def streamed(self, body: Body) -> dict[str, Any]:
        # With its usage at its end: without that nobody would know what it cost.
        told: Any = body.get("stream_options")
        options = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
        return {"stream": True, "stream_options": {**options, "include_usage": True}}

    def written(self, body: Body, told: Callable[[str], object]) -> Written:
        return WrittenChat(told, self._function(body))

    def _function(self, body: Body) -> str | None:
        """Return the name of the function that is to be called; None where the answer is a text."""
        return body["tools"][0]["function"]["name"] if self._output == "tools" else None

    @sensitive_variables()
    def reply(self, data: bytes, body: Body, request_id: str | None, status: int) -> Reply | Failure:
        try:
            facts: Any = json.loads(data)
            message: dict[str, Any] = facts["choices"][0]["message"]
            finish: Any = facts["choices"][0].get("finish_reason")
            place = self._place(message, self._function(body))
            answer = None if place is None else place[0].get(place[1])
            if place is not None:
                place[0][place[1]] = None
            rest = packed(facts)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return unreadable(data, request_id, status, "completion with a choice")
        return Reply(
            answer=text_of(answer),
            finish_reason=text_of(finish),
            refused=bool(message.get("refusal")) or finish == "content_filter",
            model=text_of(facts.get("model")),
            usage=told_usage(facts.get("usage")),
            request_id=request_id,
            rest=rest,
            service_tier=service_tier(facts),
        )

    @staticmethod
    def _place(message: dict[str, Any], function: str | None) -> tuple[dict[str, Any], str] | None:
        """Return where a message has its answer; None where it has none.

        Several calls are as good as none: there is no telling which of them is the answer.
        """
        if function is None:
            return message, "content"
        calls: Any = message.get("tool_calls")
        if not isinstance(calls, list) or len(cast("list[Any]", calls)) != 1:
            return None
        called = cast("dict[str, Any]", calls[0]["function"])
        return (called, "arguments") if called.get("name") == function else None

    def load(self) -> None:
        import openai.types.chat  # noqa: F401  # pyright: ignore[reportUnusedImport]

    @sensitive_variables()
    def rest(
        self, body: Body, at: float, *, reply_id: str = "", usage: Usage | Mapping[str, Any] | None = None
    ) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        function = self._function(body)
        if function is not None:
            called = {"name": function, "arguments": None}
            message["tool_calls"] = [{"id": "", "type": "function", "function": called}]
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
        facts: dict[str, Any] = {"id": reply_id, "object": "chat.completion", "created": int(at)}
        facts |= {"model": body["model"], "choices": [choice]}
        return packed(facts if usage is None else {**facts, "usage": usage_as_told(usage)})

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """Return the SDK's ``ChatCompletion``, as ``create`` would have returned it; None for what is none."""
        from openai.types.chat import ChatCompletion

        try:
            facts = unpacked(rest)
            message = facts["choices"][0]["message"]
            if self._output == "tools":
                message["tool_calls"][0]["function"]["arguments"] = answer.decode()
            else:
                message["content"] = answer.decode()
            return ChatCompletion.construct(None, **facts)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # Bytes from a tier may be anybody's.
            return None


def usage_as_told(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a usage as this API tells it; one that is told already as it is."""
    if not isinstance(usage, Usage):
        return usage
    prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }
