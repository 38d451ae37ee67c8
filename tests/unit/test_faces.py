"""Replies and what is kept of them, taken apart and put together again, whatever a server or a tier makes of them."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llmcache.providers import words
from llmcache.providers.base import Failure, Reply
from llmcache.providers.callables import Answer, CallableProvider
from llmcache.providers.faces import Face, face_of
from llmcache.providers.responses_stream import WrittenResponse
from llmcache.providers.schema import ResponseSchema
from llmcache.setting_values import ProviderSettings

SCHEMA = ResponseSchema("Person", {"type": "object", "properties": {}}, True, False, None)
FACES = [(api, output) for api in ("chat", "responses") for output in ("json_schema", "tools", "json_object")]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STRANGE: list[Any] = [None, 5, "x", [], {}, [None], [[]], {"a": []}, True]


def face(api: Any, output: Any) -> tuple[Face, dict[str, Any]]:
    """Return a face with the body of a call."""
    made = face_of(api, output)
    return made, made.prepare(made.body("m", None, SCHEMA, {}), "text", {})


def whole(made: Face, body: dict[str, Any], answer: str) -> dict[str, Any]:
    """Return a whole reply, as the face itself would have kept and put it together."""
    rest = made.rest(body, 1.0, reply_id="r", usage=USAGE)
    return json.loads(made.completion(rest, answer.encode()).to_json())


def changed(value: Any) -> Iterator[Any]:
    """Yield a value with each of its parts replaced by what does not belong there."""
    yield from STRANGE
    for place in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        for other in changed(value[place]):
            made = value.copy()
            made[place] = other
            yield made
        if isinstance(value, dict):
            yield {name: each for name, each in value.items() if name != place}


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_what_a_reply_repeats_of_who_asked_is_neither_kept_nor_told(api: str) -> None:
    made, body = face(api, "json_schema")
    echo = {"user": "ada", "metadata": {"of": "ada"}, "safety_identifier": "ada", "prompt_cache_key": "ada"}
    reply = made.reply(json.dumps({**whole(made, body, "{}"), **echo}).encode(), body, "id", 200)
    assert isinstance(reply, Reply)
    assert b"ada" not in reply.rest
    # Nor is it told where an older version has kept it.
    kept = json.dumps({**json.loads(reply.rest), **echo}).encode()
    assert made.completion(kept, b"{}").to_json() == made.completion(reply.rest, b"{}").to_json()


@pytest.mark.parametrize(("api", "output"), FACES)
def test_a_reply_is_an_answer_and_the_rest(api: str, output: str) -> None:
    made, body = face(api, output)
    reply = made.reply(json.dumps(whole(made, body, '{"ä": 1}')).encode(), body, "id", 200)
    assert isinstance(reply, Reply)
    assert (reply.answer, reply.finish_reason, reply.refused, reply.model) == ('{"ä": 1}', "stop", False, "m")
    assert reply.usage is not None
    assert reply.usage.total_tokens == 5
    assert "ä" not in reply.rest.decode("unicode_escape")
    assert json.loads(made.completion(reply.rest, b"{}").to_json()) == whole(made, body, "{}")


@pytest.mark.parametrize(("api", "output"), FACES)
def test_nothing_that_a_server_says_raises(api: str, output: str) -> None:
    made, body = face(api, output)
    count = 0
    for odd in changed(whole(made, body, '{"a": 1}')):
        found = made.reply(json.dumps(odd).encode(), body, None, 200)
        assert isinstance(found, Reply | Failure)
        assert not isinstance(found, Reply) or found.answer is None or isinstance(found.answer, str)
        count += 1
    assert count > 100


@pytest.mark.parametrize(("api", "output"), FACES)
def test_nothing_that_lies_in_a_tier_raises(api: str, output: str) -> None:
    made, body = face(api, output)
    for odd in changed(json.loads(made.rest(body, 1.0, usage=USAGE))):
        made.completion(json.dumps(odd).encode(), b"{}")
    for odd in (b"", b"{", b"\xff", b"[" * 100_000, b'{"_fields_set": ["id"]}'):
        assert made.completion(odd, b"{}") is None
    assert made.completion(made.rest(body, 1.0), b"\xff") is None
    # Another face's is none of its own.
    others = [face(*each) for each in FACES if each[0] != api]
    assert all(made.completion(other.rest(its_body, 1.0), b"{}") is None for other, its_body in others)


def test_nothing_that_lies_in_a_tier_raises_of_functions_either() -> None:
    provider = CallableProvider("mine", ProviderSettings(call=f"{__name__}.ask"))
    rest = provider.rest({"model": "m"}, 1.0, reply_id="r", usage=USAGE)
    assert isinstance(provider.completion(rest, b"{}"), Answer)
    for odd in changed(json.loads(rest)):
        provider.completion(json.dumps(odd).encode(), b"{}")
    assert provider.completion(b"{}", b"{}") is None


def ask(_: Any) -> str:
    """Answer."""
    return "{}"


def message(text: Any, **more: Any) -> dict[str, Any]:
    """Return a message of the Responses API."""
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **more}


def test_what_a_model_says_on_its_way_is_no_answer() -> None:
    made, body = face("responses", "json_schema")
    output = [{"type": "reasoning"}, message("Let me see.", phase="commentary"), message("{}", phase="final_answer")]
    reply = made.reply(json.dumps({"status": "completed", "output": output}).encode(), body, None, 200)
    assert isinstance(reply, Reply)
    assert reply.answer == "{}"
    completion = made.completion(reply.rest, b"{}")
    assert [item.content[0].text for item in completion.output[1:]] == ["Let me see.", "{}"]
    # A text in parts is one answer, put back as one.
    parts = {"type": "message", "content": [{"type": "output_text", "text": each} for each in ("{", "}")]}
    reply = made.reply(json.dumps({"output": [parts]}).encode(), body, None, 200)
    assert isinstance(reply, Reply)
    assert (reply.answer, reply.finish_reason) == ("{}", "stop")
    assert made.completion(reply.rest, b"{}").output_text == "{}"


def test_a_response_that_is_not_whole_never_counts_as_whole() -> None:
    cut, called = message("{}", status="incomplete"), {"type": "function_call", "arguments": "{}"}
    own = {**called, "name": SCHEMA.name}
    cases: list[tuple[str, dict[str, Any], tuple[str, bool]]] = [
        ("json_schema", {"status": "incomplete", "output": [message("{}")]}, ("length", False)),
        ("json_schema", {**_because("max_tool_calls"), "output": [message("{}")]}, ("length", False)),
        ("json_schema", {**_because("content_filter"), "output": [cut]}, ("content_filter", True)),
        ("json_schema", {"status": "completed", "output": [cut]}, ("length", False)),
        ("json_schema", {"output": [message("Let me", phase="commentary", status="incomplete"), message("{}")]}, WHOLE),
        ("tools", {"status": "completed", "output": [{**own, "status": "incomplete"}]}, ("length", False)),
        ("tools", {"status": "completed", "output": [cut, {**own, "status": "completed"}]}, WHOLE),
    ]
    for output, told, ended in cases:
        made, body = face("responses", output)
        reply = made.reply(json.dumps(told).encode(), body, None, 200)
        assert isinstance(reply, Reply)
        assert (reply.answer, reply.finish_reason, reply.refused) == ("{}", *ended), told
        # So it is as a stream, which may say so by the name of its end alone.
        written = made.written(body, lambda _: None)
        last = {**told, "status": None} if told.get("status") == "incomplete" else told
        written.add(SimpleNamespace(type=f"response.{told.get('status', 'completed')}", response=last))
        again = made.reply(written.whole() or b"", body, None, 200)
        assert isinstance(again, Reply)
        assert (again.answer, again.finish_reason, again.refused) == ("{}", *ended), told


WHOLE = ("stop", False)


def _because(reason: str) -> dict[str, Any]:
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def test_what_a_stream_tells_is_the_answer_alone() -> None:
    told: list[str] = []
    written = WrittenResponse(told.append, None)
    for index, item in enumerate((message("Let me see.", phase="commentary"), message("{}"), message("more"))):
        written.add(SimpleNamespace(type="response.output_item.added", output_index=index, item=item))
        text = item["content"][0]["text"]
        for piece in text:
            written.add(SimpleNamespace(type="response.output_text.delta", output_index=index, delta=piece))
        written.add(SimpleNamespace(type="response.output_item.done", output_index=index, item=item))
    assert (told, written.has_told, written.whole()) == (["{", "}"], True, None)
    # Some servers tell the items once, and their last event has none.
    written.add(SimpleNamespace(type="response.completed", response={"status": "completed", "output": []}))
    made, body = face("responses", "json_schema")
    reply = made.reply(written.whole() or b"", body, None, 200)
    assert isinstance(reply, Reply)
    assert reply.answer == "{}"


def test_usage_that_a_stream_tells_before_its_answer_is_not_that_of_the_answer() -> None:
    early, late = {**USAGE, "completion_tokens": 0, "total_tokens": 3}, USAGE
    for told, known in (
        ((early, None, None), None),
        ((late, None, None), None),
        ((early, early, early), None),
        ((None, None, early), None),
        ((None, late, None), USAGE),
        ((None, None, late), USAGE),
        ((early, early, late), USAGE),
        ((None, None, {"odd": 1}), {"odd": 1}),
    ):
        made, body = face("chat", "json_schema")
        written = made.written(body, lambda _: None)
        for text, finish, usage in zip(("", "{}", ""), (None, None, "stop"), told, strict=True):
            choice = SimpleNamespace(index=0, delta=SimpleNamespace(content=text), finish_reason=finish)
            written.add(SimpleNamespace(choices=[choice], usage=usage))
        reply = made.reply(written.whole() or b"", body, None, 200)
        assert isinstance(reply, Reply)
        assert json.loads(reply.rest).get("usage") == known, told
        assert (reply.usage is None) == (known is not USAGE), told


def test_an_error_amid_a_stream_ends_it() -> None:
    written = WrittenResponse(lambda _: None, None)
    written.add(SimpleNamespace(type="error", code="rate_limit_exceeded", message="the text"))
    made, body = face("responses", "json_schema")
    found = made.reply(written.whole() or b"", body, None, 200)
    assert isinstance(found, Failure)
    assert (found.error.code, found.retry, found.in_doubt) == ("rate_limited", True, True)
    # What a response that failed has consumed is known where it tells it.
    failed = {"status": "failed", "error": {"code": "server_error"}, "usage": USAGE, "model": "m"}
    found = made.reply(json.dumps(failed).encode(), body, None, 200)
    assert isinstance(found, Failure)
    assert (found.told and found.told.usage.total_tokens, found.in_doubt) == (5, False)


def test_the_words_of_json_mode_have_a_number() -> None:
    """Other words are other keys: whoever changes them raises the number, and says so to those who pay."""
    said = words.system_of("Read.", SCHEMA, is_told=True) or ""
    first, told, schema = said.split("\n", 3)[0], said.splitlines()[2], said.splitlines()[3]
    assert words.JSON_FORMAT == 1
    assert (first, json.loads(schema)) == ("Read.", SCHEMA.schema)
    assert told.startswith("Answer with one JSON object and nothing else: no Markdown, no text around it. ")
    assert told.endswith("It must fit this JSON Schema:")
    assert words.system_of(None, SCHEMA, is_told=False) is None
