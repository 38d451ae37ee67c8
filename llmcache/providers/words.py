"""What llmcache itself says to a model: why an answer is asked for again, and, in JSON mode, which JSON is wanted.

Nothing else is said that the caller did not say: no hidden prompt. The words of JSON mode are in the body that is
hashed, so that other words are other keys.
"""

from __future__ import annotations

import json
from typing import Any, Final

from llmcache.providers.schema import ResponseSchema

JSON_FORMAT: Final = 1
"""Number of the words of JSON mode: raised when they change, because answers are paid for again then."""

_JSON_WORDS: Final = (
    "Answer with one JSON object and nothing else: no Markdown, no text around it. It must fit this JSON Schema:"
)


def system_of(system: str | None, schema: ResponseSchema, *, is_told: bool) -> str | None:
    """Return the system prompt; where the schema has to be told in words, with these words after it.

    One message, for the chat templates of many models take no second one.
    """
    if not is_told:
        return system
    # The API refuses JSON mode unless a message has the word "JSON" in it.
    words = f"{_JSON_WORDS}\n{json.dumps(schema.schema, ensure_ascii=False)}"
    return words if system is None else f"{system}\n\n{words}"


def mending(answer: str, errors: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Return the turns that show a model its answer and what did not pass.

    The answer is shown as text however it was given: a function call in a conversation wants an id and a result, and
    some servers parse its arguments, which may be what was wrong with them. One that is none is not shown: not every
    server takes a turn without a text.
    """
    found = "\n".join(f"- {'.'.join(map(str, item['loc'])) or 'the whole'}: {item['type']}" for item in errors)
    mend = f"This answer does not pass validation:\n{found}\nAnswer again, whole, and mend these."
    # A lone surrogate, which a reply's JSON can express, cannot be sent.
    sendable = answer.encode(errors="replace").decode()
    turns = [{"role": "assistant", "content": sendable}] if answer else []
    return [*turns, {"role": "user", "content": mend}]
