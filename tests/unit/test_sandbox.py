"""The sandbox provider as the real SDK sees it: answers, usage, charges, streams, connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from llmcache.testing.sandbox import (
    CACHED_INPUT_PICO_USD,
    INPUT_PICO_USD,
    OUTPUT_PICO_USD,
    Sandbox,
    read_charges,
)

TEXT = "2 stalks celery, chopped coarse"
GOLD = {"name": "Sellerie - grün", "quantity": 2.0}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "quantity": {"type": "number"}},
    "required": ["name", "quantity"],
    "additionalProperties": False,
}


class Aliased(BaseModel):
    celery_name: str = Field(alias="celeryName")


def wrapper(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"value": schema}, "required": ["value"], "additionalProperties": False}


def asking(text: Any = TEXT, schema: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    format_ = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema or SCHEMA}}
    return {"model": "small", "messages": [{"role": "user", "content": text}], "response_format": format_, **more}


def connect(sandbox: Sandbox) -> openai.OpenAI:
    return openai.OpenAI(base_url=sandbox.base_url, api_key="sandbox", max_retries=0, timeout=20)


def raw_request(body: Any, path: str = "/v1/chat/completions", method: str = "POST", **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: sandbox", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {content}" for name, content in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def raw_connection(sandbox: Sandbox) -> socket.socket:
    host, port = sandbox.base_url.removeprefix("http://").removesuffix("/v1").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def raw_answer(sandbox: Sandbox, data: bytes) -> tuple[int, bytes]:
    with raw_connection(sandbox) as connection:
        connection.sendall(data)
        head, _, body = connection.recv(1 << 20).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(answers={TEXT: GOLD}) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[openai.OpenAI]:
    with connect(sandbox) as connected:
        yield connected


def test_answers_a_known_text_with_its_gold(client: openai.OpenAI):
    completion = client.chat.completions.create(**asking())
    assert json.loads(completion.choices[0].message.content or "") == GOLD
    assert (completion.choices[0].finish_reason, completion.choices[0].message.refusal) == ("stop", None)
    assert (completion.object, completion.model) == ("chat.completion", "small-2026-01-01")
    assert completion.system_fingerprint == "sandbox-not-a-model"
    assert completion._request_id


def test_takes_content_in_parts_and_the_path_without_version(sandbox: Sandbox):
    parts = [{"type": "text", "text": TEXT[:5]}, {"type": "text", "text": TEXT[5:]}]
    with connect(sandbox) as client:
        client.base_url = sandbox.base_url.removesuffix("/v1")
        completion = client.chat.completions.create(**asking(parts))
    assert json.loads(completion.choices[0].message.content or "") == GOLD


@pytest.mark.parametrize(
    ("answer", "schema", "content"),
    [
        ([1, 2], {"type": "array"}, '{"value":[1,2]}'),
        ({"value": "x"}, {"type": "string"}, '{"value":"x"}'),
        (' {"name": NaN, "quantity":1e2} ', None, ' {"name": NaN, "quantity":1e2} '),
        ("[1,  2]", {"type": "array"}, '{"value":[1,  2]}'),
        ("plain words", {"type": "string"}, '{"value":"plain words"}'),
        ('"7"', {"type": "string"}, '{"value":"7"}'),
        (Aliased(celeryName="x"), {"type": "object", "required": ["celeryName"]}, '{"value":{"celeryName":"x"}}'),
        (None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, '{"value":null}'),
    ],
)
def test_gold_is_put_into_the_shape_that_is_asked_for(
    sandbox: Sandbox, client: openai.OpenAI, answer: Any, schema: dict[str, Any] | None, content: str
):
    sandbox.answers[TEXT] = answer
    completion = client.chat.completions.create(**asking(schema=wrapper(schema) if schema else SCHEMA))
    assert completion.choices[0].message.content == content


@pytest.mark.parametrize(
    "schema",
    [
        {**SCHEMA, "required": ["name", "colour"], "properties": {"name": {}, "colour": {"enum": ["red"]}}},
        wrapper({"type": "array", "items": {"type": "integer"}, "minItems": 1}),
        wrapper({"enum": ["red", "green"]}),
    ],
)
def test_gold_of_another_type_gives_way_to_a_filling(client: openai.OpenAI, schema: dict[str, Any]):
    answer = json.loads(client.chat.completions.create(**asking(schema=schema)).choices[0].message.content or "")
    assert set(answer) == set(schema["required"])
    assert answer.get("colour", "red") == "red"
    assert answer != {"value": GOLD}


def test_a_re_ask_goes_on_about_the_same_text(client: openai.OpenAI):
    body = asking()
    body["messages"] += [{"role": "assistant", "content": "{}"}, {"role": "user", "content": "Mend that."}]
    assert json.loads(client.chat.completions.create(**body).choices[0].message.content or "") == GOLD


def test_answers_without_a_schema(client: openai.OpenAI):
    ask = client.chat.completions.create
    messages: Any = [{"role": "user", "content": "anything else"}]
    assert "no model" in (ask(model="m", messages=messages).choices[0].message.content or "")
    with pytest.raises(openai.BadRequestError, match="must contain the word 'json'"):
        ask(model="m", messages=messages, response_format={"type": "json_object"})
    messages[0]["content"] = "anything else, as JSON"
    plain = ask(model="m", messages=messages, response_format={"type": "json_object"}).choices[0].message.content
    assert isinstance(json.loads(plain or ""), dict)


@pytest.mark.parametrize("text", [TEXT, "Grüße aus Köln: 1½ Löffel 🥄 naïve"])
def test_a_stream_has_the_same_content(client: openai.OpenAI, text: str):
    whole = client.chat.completions.create(**asking(text)).choices[0].message.content
    chunks = list(client.chat.completions.create(**asking(text), stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(deltas) == whole
    assert len(deltas) > 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_a_stream_tells_its_usage_only_when_asked(client: openai.OpenAI, sandbox: Sandbox):
    chunks = list(client.chat.completions.create(**asking(), stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert sandbox.calls == 1


def test_the_charge_file_agrees_with_the_replies_and_the_prices(client: openai.OpenAI, sandbox: Sandbox):
    replies = [
        client.chat.completions.create(**asking(f"text {n}"), extra_headers={"X-Client-Request-Id": f"call-{n}"})
        for n in range(40)
    ]
    charges = sandbox.charges()
    assert charges == read_charges(sandbox.charges_path)
    assert [charge["n"] for charge in charges] == list(range(1, 41))
    assert len({charge["id"] for charge in charges}) == 40
    bill = 0
    for n, (reply, charge) in enumerate(zip(replies, charges, strict=True)):
        assert (charge["id"], charge["client_request_id"], charge["model"]) == (reply.id, f"call-{n}", reply.model)
        usage = reply.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.completion_tokens_details is not None
        cached = usage.prompt_tokens_details.cached_tokens or 0
        assert 0 <= cached <= usage.prompt_tokens
        assert 0 <= (usage.completion_tokens_details.reasoning_tokens or 0) < usage.completion_tokens
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert (charge["input_tokens"], charge["cache_read_tokens"]) == (usage.prompt_tokens - cached, cached)
        assert charge["output_tokens"] == usage.completion_tokens
        price = (usage.prompt_tokens - cached) * INPUT_PICO_USD + cached * CACHED_INPUT_PICO_USD
        price += usage.completion_tokens * OUTPUT_PICO_USD
        assert charge["price_pico_usd"] == price
        bill += price
    assert sandbox.bill_pico_usd == bill
    assert {bool(charge["cache_read_tokens"]) for charge in charges} == {True, False}


def test_tokens_depend_on_seed_and_number_alone():
    def tokens(seed: int, text: str) -> list[tuple[int, ...]]:
        with Sandbox(seed=seed) as sandbox, connect(sandbox) as client:
            for n in range(5):
                client.chat.completions.create(**asking(f"{text} {n}"))
            names = ("n", "input_tokens", "cache_read_tokens", "output_tokens", "price_pico_usd")
            return [tuple(charge[name] for name in names) for charge in sandbox.charges()]

    assert tokens(3, "one") == tokens(3, "another") != tokens(4, "one")


def test_charges_can_be_read_after_the_end_and_a_given_file_is_appended_to(tmp_path: Any):
    path = tmp_path / "charges.jsonl"
    for calls in (1, 2):
        with Sandbox(charges=path) as sandbox, connect(sandbox) as client:
            for _ in range(calls):
                client.chat.completions.create(**asking())
        assert [charge["n"] for charge in sandbox.charges()] == list(range(1, calls + 1))
    assert len(read_charges(path)) == 3
    with Sandbox() as sandbox, connect(sandbox) as client:
        client.chat.completions.create(**asking())
    assert len(sandbox.charges()) == 1
    assert not sandbox.charges_path.parent.exists()


def test_a_line_that_is_being_written_is_not_read(tmp_path: Any):
    path = tmp_path / "charges.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2')
    assert read_charges(path) == [{"n": 1}]


def test_requests_are_kept_without_the_key(client: openai.OpenAI, sandbox: Sandbox):
    client.chat.completions.create(**asking(), extra_headers={"X-Client-Request-Id": "abc"}, user="u")
    (request,) = sandbox.requests
    assert request.body == asking(user="u")
    assert request.headers["x-client-request-id"] == "abc"
    assert "authorization" not in request.headers
    assert "sandbox" not in str(request.headers)


def test_a_short_answer_is_one_write_and_the_connection_is_kept(sandbox: Sandbox):
    with raw_connection(sandbox) as connection:
        for _ in range(3):
            connection.sendall(raw_request(asking()))
            head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
            assert json.loads(json.loads(body)["choices"][0]["message"]["content"]) == GOLD
            assert f"Content-Length: {len(body)}".encode() in head.splitlines()
        connection.sendall(raw_request(asking(), Connection="close"))
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert sandbox.calls == 4


def test_a_request_may_arrive_in_pieces_and_two_at_once(sandbox: Sandbox):
    data = raw_request(asking())
    with raw_connection(sandbox) as connection:
        for at in range(0, len(data), 50):
            connection.sendall(data[at : at + 50])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(data + data)
        received = b""
        while received.count(b"HTTP/1.1 200") < 2:
            received += connection.recv(1 << 16)
    assert sandbox.calls == 3


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (raw_request(b"{not json"), 400),
        (raw_request(b"\xff\xfe"), 400),
        (raw_request(b"[" * 100_000), 400),
        (raw_request([]), 400),
        (raw_request({"messages": []}), 400),
        (raw_request({"model": "m", "messages": []}), 400),
        (raw_request({"model": "m", "messages": ["hi"]}), 400),
        (raw_request({**asking(), "response_format": {"type": "yaml"}}), 400),
        (raw_request({**asking(), "response_format": {"type": "json_schema"}}), 400),
        (raw_request({}, "/v1/embeddings"), 404),
        (raw_request({}, method="GET"), 405),
        (b"hello\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -4\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_a_bad_request_is_refused_and_not_charged(sandbox: Sandbox, request_: bytes, status: int):
    assert raw_answer(sandbox, request_)[0] == status
    assert (sandbox.calls, sandbox.charges()) == (0, [])
    assert raw_answer(sandbox, raw_request(asking()))[0] == 200


def test_says_that_it_is_no_model(sandbox: Sandbox, client: openai.OpenAI):
    status, page = raw_answer(sandbox, raw_request(b"", "/", "GET"))
    assert status == 200
    assert b"not a language model" in page
    assert [model.id for model in client.models.list()] == ["sandbox"]


def test_the_async_client_is_answered_too(sandbox: Sandbox):
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=sandbox.base_url, api_key="sandbox", max_retries=0) as client:
            replies = await asyncio.gather(*(client.chat.completions.create(**asking()) for _ in range(8)))
            streamed = [chunk async for chunk in await client.chat.completions.create(**asking(), stream=True)]
        contents = [reply.choices[0].message.content for reply in replies]
        return [*contents, "".join(chunk.choices[0].delta.content or "" for chunk in streamed)]

    assert [json.loads(content or "") for content in asyncio.run(ask())] == [GOLD] * 9


def test_64_callers_meet_and_each_is_charged_once(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.hold()
    with ThreadPoolExecutor(64) as threads:
        try:
            asked = [threads.submit(client.chat.completions.create, **asking(f"text {n}")) for n in range(64)]
            sandbox.wait_until_received(64, timeout=60)
            assert (sandbox.received, sandbox.calls) == (64, 0)
        finally:
            sandbox.release()
        replies = {reply.result(60).id: reply.result() for reply in asked}
    charges = {charge["id"]: charge for charge in sandbox.charges()}
    assert replies.keys() == charges.keys()
    assert sorted(charge["n"] for charge in charges.values()) == list(range(1, 65))
    outputs = {name: reply.usage.completion_tokens for name, reply in replies.items() if reply.usage}
    assert outputs == {name: charge["output_tokens"] for name, charge in charges.items()}


def test_waiting_for_requests_that_do_not_come_says_so(sandbox: Sandbox):
    with pytest.raises(TimeoutError, match="0 of 1 requests"):
        sandbox.wait_until_received(1, timeout=0)


def test_stops_while_requests_wait():
    with Sandbox() as sandbox:
        sandbox.hold()
        connection = raw_connection(sandbox)
        connection.sendall(raw_request(asking()))
        sandbox.wait_until_received(1)
    with connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    assert "llmcache-sandbox" not in [thread.name for thread in threading.enumerate()]
    sandbox.stop()


def test_a_taken_port_is_an_error_that_leaves_nothing_behind(sandbox: Sandbox):
    another = Sandbox(port=int(sandbox.base_url.rpartition(":")[2].removesuffix("/v1")))
    with pytest.raises(OSError, match="address already in use"):
        another.start()
    assert not another.charges_path.parent.exists()
