"""What a stream has told of its own cost, by the time that it breaks off."""

from types import SimpleNamespace
from typing import Any

from llmcache.money.usage import Usage
from llmcache.providers.base import Told
from llmcache.providers.chat_stream import WrittenChat
from llmcache.providers.responses_stream import WrittenResponse

COUNTED = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
RESPONDED = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


def chunk(*, usage: Any = None, model: str | None = None, tier: str | None = None, **delta: Any) -> SimpleNamespace:
    choices = [SimpleNamespace(index=0, delta=SimpleNamespace(**delta), finish_reason=None)] if delta else []
    return SimpleNamespace(choices=choices, usage=usage, model=model, service_tier=tier)


def called(arguments: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(index=0, id="c", function=SimpleNamespace(name="answer", arguments=arguments))]


def test_a_chat_tells_it_with_what_it_says_or_after_it() -> None:
    for piece in ({"content": "One"}, {"refusal": "No"}, {"tool_calls": called('{"a"')}):
        pieces: list[str] = []
        written = WrittenChat(pieces.append, "answer" if "tool_calls" in piece else None)
        assert written.told() is None
        written.add(chunk(usage=COUNTED))
        assert written.told() is None, piece
        written.add(chunk(**piece, model="gpt-5-mini-2026", tier="flex"))
        assert written.told() is None, piece
        written.add(chunk(role="assistant"))
        assert written.told() is None, piece
        written.add(chunk(usage={**COUNTED, "completion_tokens": 0, "total_tokens": 5}))
        assert written.told() is None, piece
        written.add(chunk(usage=COUNTED))
        written.add(chunk(role="assistant"))
        assert written.told() == Told(Usage(5, 0, 3), "gpt-5-mini-2026", "flex"), piece


def test_a_response_tells_it_at_its_end() -> None:
    written = WrittenResponse([].append, None)
    written.add(SimpleNamespace(type="response.created", response={"status": "in_progress", "usage": RESPONDED}))
    written.add(SimpleNamespace(type="response.output_text.delta", output_index=0, delta="One"))
    assert written.told() is None
    failed = {"status": "failed", "output": [], "model": "gpt-5-mini-2026", "error": {"code": "server_error"}}
    for usage, told in (
        (RESPONDED, Told(Usage(5, 0, 3), "gpt-5-mini-2026", None)),
        ({**RESPONDED, "output_tokens": 0, "total_tokens": 5}, None),
        (None, None),
    ):
        written.add(SimpleNamespace(type="response.failed", response={**failed, "usage": usage}))
        assert written.told() == told
