"""Each fault of the sandbox as the real SDK meets it, and whether it was charged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from llmcache.testing.sandbox import Fault, Sandbox, faults
from tests.unit.test_sandbox import GOLD, TEXT, asking, connect, raw_connection, raw_request


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(answers={TEXT: GOLD}) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[openai.OpenAI]:
    with connect(sandbox) as connected:
        yield connected


def content(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**asking(**more)).choices[0].message.content


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        (faults.rate_limited(), openai.RateLimitError, 429),
        (faults.server_error(), openai.InternalServerError, 500),
        (faults.server_error(502, html=True), openai.InternalServerError, 502),
        (faults.server_error(529), openai.InternalServerError, 529),
        (faults.unauthorized(), openai.AuthenticationError, 401),
        (faults.bad_request(), openai.BadRequestError, 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_status_is_not_charged(
    sandbox: Sandbox, client: openai.OpenAI, fault: Fault, error: type[openai.APIStatusError], status: int, stream: bool
):
    sandbox.fail(fault)
    with pytest.raises(error) as caught:
        client.chat.completions.create(**asking(stream=stream))
    assert caught.value.status_code == status
    assert caught.value.request_id
    assert (sandbox.calls, sandbox.received, sandbox.charges()) == (0, 1, [])
    assert json.loads(content(client)) == GOLD


@pytest.mark.parametrize("wait", [None, 0, 1.5, 86_400, "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
def test_retry_after_goes_out_as_given(sandbox: Sandbox, client: openai.OpenAI, wait: float | str | None):
    sandbox.fail(faults.rate_limited(wait))
    with pytest.raises(openai.RateLimitError) as caught:
        content(client)
    assert caught.value.response.headers.get("retry-after") == (None if wait is None else str(wait))
    assert caught.value.code == "rate_limit_exceeded"


def test_a_page_of_html_is_what_a_proxy_sends(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.server_error(503, html=True))
    with pytest.raises(openai.InternalServerError) as caught:
        content(client)
    assert caught.value.response.text.startswith("<html>")
    assert caught.value.response.headers["content-type"] == "text/html"


@pytest.mark.parametrize(
    ("fault", "calls"),
    [(faults.reset_before_charge(), 0), (faults.reset_after_charge(), 1), (faults.reset_mid_body(), 1)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_is_a_lost_connection(sandbox: Sandbox, client: openai.OpenAI, fault: Fault, calls: int, stream: bool):
    sandbox.fail(fault)
    with pytest.raises(Exception, match=r"[Cc]onnection|[Rr]eset|Errno 104") as caught:
        list(client.chat.completions.create(**asking(stream=stream)))
    # What is lost while a stream is read comes from the HTTP library itself.
    assert isinstance(caught.value, openai.APIConnectionError) or stream
    assert (sandbox.calls, len(sandbox.charges())) == (calls, calls)


@pytest.mark.parametrize("fault", [faults.reset_before_charge(), faults.reset_after_charge()])
def test_a_reset_comes_without_a_byte(sandbox: Sandbox, fault: Fault):
    sandbox.fail(fault)
    with raw_connection(sandbox) as connection:
        connection.sendall(raw_request(asking()))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_reset_in_the_body_comes_after_half_of_it(sandbox: Sandbox):
    sandbox.fail(faults.reset_mid_body())
    received = b""
    with raw_connection(sandbox) as connection:
        connection.sendall(raw_request(asking()))
        with pytest.raises(ConnectionResetError):
            while True:
                received += connection.recv(1 << 16)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].split()[0])
    assert len(body) == length // 2


def test_who_gives_up_on_a_slow_answer_pays(sandbox: Sandbox):
    sandbox.fail(faults.slow(3_600))
    with raw_connection(sandbox) as connection:
        connection.sendall(raw_request(asking()))
        sandbox.wait_until_received(1)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    assert sandbox.calls == 1


def test_a_slow_answer_is_the_proper_one(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.slow(0.01))
    sandbox.latency = 0.01
    assert json.loads(content(client)) == GOLD


@pytest.mark.parametrize("stop", ["heal", "stop"])
def test_a_hanging_call_ends_with_the_fault_or_the_sandbox_and_is_not_charged(stop: str):
    with Sandbox() as sandbox, connect(sandbox) as client, ThreadPoolExecutor(1) as thread:
        sandbox.fail(faults.hang(), times=None)
        lost = thread.submit(content, client)
        sandbox.wait_until_received(1)
        getattr(sandbox, stop)()
        assert isinstance(lost.exception(20), openai.APIConnectionError)
        assert sandbox.calls == 0


@pytest.mark.parametrize("where", ["headers", "body"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_dripped_answer_is_the_proper_one(sandbox: Sandbox, client: openai.OpenAI, where: Any, stream: bool):
    sandbox.fail(faults.drip(0, where))
    if stream:
        chunks = list(client.chat.completions.create(**asking(), stream=True))
        assert json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks)) == GOLD
    else:
        assert json.loads(content(client)) == GOLD


@pytest.mark.parametrize(("where", "end"), [("headers", b"H"), ("body", b"\r\n\r\n{")])
def test_a_drip_sends_one_byte_and_waits(sandbox: Sandbox, where: Any, end: bytes):
    sandbox.fail(faults.drip(3_600, where))
    received = b""
    with raw_connection(sandbox) as connection:
        connection.sendall(raw_request(asking()))
        while not received.endswith(end):
            received += connection.recv(1 << 16)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    assert sandbox.calls == 1


@pytest.mark.parametrize("fault", [faults.garbage(), faults.empty_body()])
def test_a_body_that_is_no_json_is_charged(sandbox: Sandbox, client: openai.OpenAI, fault: Fault):
    sandbox.fail(fault)
    with client.chat.completions.with_streaming_response.create(**asking()) as response:
        assert response.status_code == 200
        with pytest.raises(ValueError):
            json.loads(response.read())
    assert len(sandbox.charges()) == 1


def test_an_error_object_with_a_good_status_is_not_charged(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.error_object())
    response = client.chat.completions.with_raw_response.create(**asking())
    assert (response.status_code, list(json.loads(response.content))) == (200, ["error"])
    assert sandbox.calls == 0


def test_a_redirect_names_its_place(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.redirect("/chat/completions"))
    assert json.loads(content(client)) == GOLD
    assert (sandbox.received, sandbox.calls) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "finish_reason", "text", "refused"),
    [
        (faults.refusal(), "stop", None, True),
        (faults.content_filter(), "content_filter", None, False),
        (faults.null_content(), "stop", None, False),
        (faults.empty_content(), "stop", "", False),
        (faults.says("N/A"), "stop", "N/A", False),
        (faults.wrong_json(), "stop", '{"unexpected": "answer"}', False),
        (faults.truncated(), "length", '{"name":"Sellerie - ', False),
        (faults.broken_json(), "stop", '{"name":"Sellerie - grün","quantity":2.0,}', False),
        (faults.broken_json(cut=True), "stop", '{"name":"Sellerie - grün","quantity":2.0', False),
        (faults.fenced_json(), "stop", '```json\n{"name":"Sellerie - grün","quantity":2.0}\n```', False),
    ],
)
def test_an_answer_that_cannot_be_used_has_its_usage(
    sandbox: Sandbox, client: openai.OpenAI, fault: Fault, finish_reason: str, text: str | None, refused: bool
):
    sandbox.fail(fault, times=2)
    reply = client.chat.completions.create(**asking())
    choice = reply.choices[0]
    assert (choice.finish_reason, choice.message.content, bool(choice.message.refusal)) == (
        finish_reason,
        text,
        refused,
    )
    chunks = list(client.chat.completions.create(**asking(), stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == (text or "")
    assert "".join(delta.refusal or "" for delta in deltas) == (choice.message.refusal or "")
    assert chunks[-2].choices[0].finish_reason == finish_reason
    outputs = [usage.completion_tokens for usage in (reply.usage, chunks[-1].usage) if usage is not None]
    assert outputs == [charge["output_tokens"] for charge in sandbox.charges()]


def test_wrong_json_is_no_object_where_an_empty_one_would_fit(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.wrong_json())
    lenient = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert isinstance(json.loads(content(client, schema=lenient)), list)


def test_choices_may_be_empty(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.empty_choices(), times=2)
    reply = client.chat.completions.create(**asking())
    assert (reply.choices, reply.usage is not None) == ([], True)
    assert all(chunk.choices == [] for chunk in client.chat.completions.create(**asking(), stream=True))
    assert sandbox.calls == 2


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "many", "completion_tokens": 1}, 7]
)
def test_usage_may_be_missing_or_odd_and_is_charged_all_the_same(sandbox: Sandbox, client: openai.OpenAI, usage: Any):
    sandbox.fail(faults.missing_usage() if usage is None else faults.odd_usage(usage))
    told = json.loads(client.chat.completions.with_raw_response.create(**asking()).content)
    assert told.get("usage") == usage
    assert ("usage" in told) == (usage is not None)
    assert sandbox.bill_pico_usd > 0


def test_a_huge_answer_has_the_length_that_was_asked_for(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.huge(3_000_001), times=2)
    assert content(client) == "x" * 3_000_001
    chunks = client.chat.completions.create(**asking(), stream=True)
    assert sum(len(chunk.choices[0].delta.content or "") for chunk in chunks) == 3_000_001
    assert json.loads(content(client)) == GOLD


def outcomes(client: openai.OpenAI, texts: list[str]) -> list[int]:
    """Return 200 or the error's status for a call about each text."""
    told: list[int] = []
    for text in texts:
        try:
            content(client, text=text)
            told.append(200)
        except openai.APIStatusError as error:
            told.append(error.status_code)
    return told


def test_faults_are_a_queue(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.rate_limited())
    sandbox.fail(faults.server_error(), times=2)
    assert outcomes(client, [TEXT] * 5) == [429, 500, 500, 200, 200]


def test_a_fault_may_be_for_one_text_and_without_end(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.server_error(503), times=None, text=TEXT)
    assert outcomes(client, [TEXT, "other", TEXT, TEXT]) == [503, 200, 503, 503]
    sandbox.heal()
    assert outcomes(client, [TEXT]) == [200]


def test_a_fault_may_meet_every_nth_call(sandbox: Sandbox, client: openai.OpenAI):
    sandbox.fail(faults.rate_limited(), every=3)
    assert outcomes(client, [TEXT] * 7) == [200, 200, 429, 200, 200, 429, 200]
    sandbox.heal()
    sandbox.fail(faults.rate_limited(), times=1, every=2)
    assert outcomes(client, [TEXT] * 4) == [200, 429, 200, 200]


@pytest.mark.parametrize("rule", [{"times": 0}, {"every": 0}, {"times": -1}])
def test_a_rule_that_can_never_apply_is_an_error(sandbox: Sandbox, rule: dict[str, Any]):
    with pytest.raises(ValueError, match="must be 1 or more"):
        sandbox.fail(faults.hang(), **rule)


def test_every_fault_says_whether_it_is_charged():
    for name, make in faults.FACTORIES.items():
        charged = make(
            *{"odd_usage": [{}], "redirect": ["/"], "says": [""], "slow": [1], "drip": [1], "huge": [1]}.get(name, [])
        )
        assert charged.name == name
        assert ("Not charged" in (make.__doc__ or "")) is not charged.charged
        assert "harged" in (make.__doc__ or "")
