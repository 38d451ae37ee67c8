"""What a completion says: its provider's own answer, model, tokens and end, whichever provider's it is.

Known are chat completions, the Responses API and Anthropic's messages. Of others nothing is found, and nothing guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from django.views.decorators.debug import sensitive_variables

from llmcache.money.usage import Usage, told_usage

_TOOLS: Final = ("function_call", "tool_call")
_CUT: Final = ("length", "max_tokens")
_WITHHELD: Final = ("content_filter", "refusal")


def read_object(value: object) -> dict[str, Any] | None:
    """Return the JSON object that a text holds; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        read: Any = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", read) if isinstance(read, dict) else None


@sensitive_variables()
def answer_text(completion: Mapping[str, Any]) -> str | None:
    """Return the text in a completion that Instructor validates; None where its shape is not known.

    Of a chat completion the arguments of the first tool call, else the object in the content, also in a fence.
    """
    return next((text for text in (find(completion) for find in _PLACES) if text is not None), None)


def model_of(completion: Mapping[str, Any]) -> str | None:
    """Return the model that has answered."""
    model = completion.get("model")
    return model if isinstance(model, str) and model else None


def usage_of(completion: Mapping[str, Any]) -> Usage | None:
    """Return the tokens, of all attempts that Instructor has made; None where they are not told in a known form."""
    return told_usage(completion.get("usage"))


def finish_of(completion: Mapping[str, Any]) -> str | None:
    """Return how the answer ended: ``"length"`` where it was cut off, else as it is told."""
    choice = _mapping(_first(completion.get("choices")))
    told = choice.get("finish_reason") or completion.get("stop_reason")
    incomplete = _mapping(completion.get("incomplete_details")).get("reason")
    if told in _CUT or incomplete == "max_output_tokens":
        return "length"
    return told if isinstance(told, str) else None


def is_refused(completion: Mapping[str, Any]) -> bool:
    """Tell whether the model declined, or a filter has withheld the answer."""
    message = _message(completion)
    parts = [_mapping(part) for item in _items(completion) for part in _list(item.get("content"))]
    return (
        bool(message.get("refusal"))
        or finish_of(completion) in _WITHHELD
        or any(part.get("type") == "refusal" for part in parts)
    )


def _of_choice(completion: Mapping[str, Any]) -> str | None:
    message = _message(completion)
    call = _mapping(_first(message.get("tool_calls")))
    called = _mapping(call.get("function")) or _mapping(message.get("function_call"))
    if called:
        arguments = called.get("arguments")
        return arguments if isinstance(arguments, str) else None
    content = message.get("content")
    if not isinstance(content, str):
        return None
    start, end = content.find("{"), content.rfind("}") + 1
    return content[start:end] if 0 <= start < end else content


def _of_responses(completion: Mapping[str, Any]) -> str | None:
    texts = [item.get("arguments") for item in _items(completion) if item.get("type") in _TOOLS]
    text = next(filter(None, texts), None)
    return text if isinstance(text, str) else None


def _of_anthropic(completion: Mapping[str, Any]) -> str | None:
    blocks = [_mapping(each) for each in _list(completion.get("content"))]
    inputs = [block.get("input") for block in blocks if block.get("type") == "tool_use"]
    return json.dumps(inputs[0]) if len(inputs) == 1 else None


_PLACES: Final = (_of_choice, _of_responses, _of_anthropic)


def _message(completion: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_mapping(_first(completion.get("choices"))).get("message"))


def _items(completion: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [_mapping(each) for each in _list(completion.get("output"))]


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _first(value: object) -> object:
    return next(iter(_list(value)), None)


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
