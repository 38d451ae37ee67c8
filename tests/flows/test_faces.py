"""The faces of a provider: two APIs, three ways to an answer in JSON, and one behaviour behind all of them."""

import asyncio
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

import llmcache
from llmcache import corrections, rewriting
from llmcache.engine import process
from llmcache.models import CacheEntry, ProviderCall
from llmcache.testing import Fake
from llmcache.testing.sandbox import Sandbox, faults
from llmcache.testing.sandbox.faults import Fault
from tests.conftest import llmcache_settings

GOLDEN = json.loads((Path(__file__).parent / "faces.json").read_text())
FACES = [(api, output) for api in ("chat", "responses") for output in ("json_schema", "tools", "json_object")]
IDS = [f"{api} {output}" for api, output in FACES]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


ADA = {"name": "Ada Lovelace", "age": 36}


def asked_by(sandbox: Sandbox, api: str, output: str) -> Any:
    """Settings under which the provider is asked so."""
    told = {"base_url": sandbox.base_url, "api_key": "sandbox", "api": api, "output": output}
    return llmcache_settings(
        PROVIDERS={"openai": told},
        PRICES={"openai/gpt-5-mini": {"input": "1", "cache_read": "1", "output": "1"}},
    )


@pytest.fixture(params=FACES, ids=IDS)
def face(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[tuple[str, str]]:
    """One of them, asked by the settings in force."""
    sandbox.answers.update({"ada": ADA, "all": [ADA, {**ADA, "age": 37}]})
    with asked_by(sandbox, *request.param):
        yield request.param


def answer_in(completion: Any, output: str) -> str:
    """Return what a completion has where its face has its answer."""
    if isinstance(completion, Response):
        calls = [item.arguments for item in completion.output if item.type == "function_call"]
        return calls[0] if output == "tools" else completion.output_text
    message = completion.choices[0].message
    return message.tool_calls[0].function.arguments if output == "tools" else message.content


def test_a_hit_is_a_miss_without_the_wait(face: tuple[str, str], sandbox: Sandbox) -> None:
    api, output = face
    person, completion = llmcache.extract_with_completion("ada", Person, system="Read.", temperature=0)
    again = llmcache.extract_with_info("ada", Person, system="Read.", temperature=0)
    assert (person, again.value, again.outcome, sandbox.calls) == (Person(**ADA), person, "hit", 1)
    assert sandbox.requests[0].body == GOLDEN[" ".join(face)]
    # The SDK's own type, with all that the provider said, and the answer in its place.
    assert isinstance(completion, Response if api == "responses" else ChatCompletion)
    for made in (completion, again.completion):
        assert json.loads(answer_in(made, output)) == ADA
        assert made.id == sandbox.charges()[0]["id"]
        assert made.usage.total_tokens > 0
    assert again.completion.to_dict() == completion.to_dict()
    # Types that are no object are wrapped on the way, in every face.
    people = llmcache.extract("all", list[Person])
    assert people == llmcache.extract("all", list[Person]) == [Person(**ADA), Person(**{**ADA, "age": 37})]
    assert asyncio.run(llmcache.aextract("ada", Person, system="Read.", temperature=0)) == person
    assert asyncio.run(llmcache.aextract("ada", Person)) == person
    assert (sandbox.calls, sandbox.received) == (3, 3)


def test_each_face_has_keys_of_its_own(sandbox: Sandbox) -> None:
    sandbox.answers["ada"] = ADA
    found: list[str] = []
    for face in (*FACES, *FACES):
        with asked_by(sandbox, *face):
            found.append(llmcache.extract_with_info("ada", Person).key)
    assert (len(set(found)), found[:6], sandbox.calls) == (6, found[6:], 6)
    with asked_by(sandbox, "responses", "tools"):
        assert llmcache.extract_with_info("ada", Person).outcome == "hit"


FAULTS: dict[str, tuple[Fault, type[Exception], str | None]] = {
    "refusal": (faults.refusal(), llmcache.Refused, None),
    "filter": (faults.content_filter(), llmcache.Refused, None),
    "truncated": (faults.truncated(), llmcache.Truncated, None),
    "none": (faults.null_content(), llmcache.ValidationFailed, "answer_missing"),
    "empty": (faults.empty_content(), llmcache.ValidationFailed, "answer_missing"),
    "no choice": (faults.empty_choices(), llmcache.LLMCacheError, None),
    "broken": (faults.broken_json(), llmcache.ValidationFailed, "json_invalid"),
    "wrong": (faults.wrong_json(), llmcache.ValidationFailed, "missing"),
    "garbage": (faults.garbage(), llmcache.ProviderError, None),
    "error object": (faults.error_object(), llmcache.ProviderError, None),
    "half": (faults.reset_mid_body(), llmcache.ProviderUnavailable, None),
    "limited": (faults.rate_limited(), llmcache.RateLimited, None),
}


@pytest.mark.django_db
def test_what_goes_wrong_goes_wrong_in_the_same_way(face: tuple[str, str], sandbox: Sandbox) -> None:
    for name, (fault, kind, error) in FAULTS.items():
        before = sandbox.bill_pico_usd
        sandbox.fail(fault)
        with pytest.raises(kind) as caught:
            llmcache.extract("ada", Person, kind=name, max_reasks=0, max_retries=0)
        assert error is None or caught.value.errors[0]["type"] == error, name
        # A response without an item is an answer that is none, and tells its tokens; a completion without a choice is
        # nothing that can be read.
        known = name not in ("garbage", "half", "error object") and (name, face[0]) != ("no choice", "chat")
        assert known == (caught.value.cost_usd is not None), name
        assert (sandbox.bill_pico_usd == before) == (name in ("limited", "error object"))
        assert "Ada" not in str(caught.value)
    # Nothing of it was kept, and what was paid is in the ledger.
    sandbox.heal()
    for name in FAULTS:
        assert llmcache.extract_with_info("ada", Person, kind=name).outcome == "miss"
    assert llmcache.flush()
    first = {row.kind: row for row in ProviderCall.objects.order_by("-started_at", "-id")}
    assert (first["refusal"].refused, first["filter"].refused) == (True, True)
    assert first["truncated"].finish_reason == "length"
    assert first["refusal"].output_tokens == sandbox.charges()[0]["output_tokens"]


def test_an_answer_that_does_not_pass_is_asked_for_again(face: tuple[str, str], sandbox: Sandbox) -> None:
    sandbox.fail(faults.wrong_json())
    found = llmcache.extract_with_info("ada", Person)
    assert (found.value, found.attempts, sandbox.calls) == (Person(**ADA), 2, 2)
    first, second = (request.body for request in sandbox.requests)
    said = "input" if face[0] == "responses" else "messages"
    assert second == {**first, said: second[said]}
    assert second[said][:-2] == first[said]
    shown, mend = second[said][-2:]
    assert (shown["role"], mend["role"]) == ("assistant", "user")
    assert json.loads(shown["content"]) == {"unexpected": "answer"}
    assert "- name: missing" in mend["content"]
    # One that is none is not shown.
    sandbox.fail(faults.null_content())
    assert llmcache.extract_with_info("ada", Person, kind="other").attempts == 2
    assert [turn["role"] for turn in sandbox.requests[-1].body[said][-2:]] == ["user", "user"]


def test_usage_that_is_not_told_is_not_guessed(face: tuple[str, str], sandbox: Sandbox) -> None:
    sandbox.fail(faults.missing_usage())
    found = llmcache.extract_with_info("ada", Person)
    assert (found.usage, found.cost_incurred_usd) == (None, None)
    told = llmcache.extract_with_info("ada", Person, kind="other")
    (_, charge) = sandbox.charges()
    assert told.usage is not None
    assert (told.usage.input_tokens, told.usage.cache_read_tokens, told.usage.output_tokens) == (
        *(charge["input_tokens"], charge["cache_read_tokens"], charge["output_tokens"]),
    )
    assert told.cost_incurred_usd == Decimal(told.usage.total_tokens) / 10**6


def test_a_stream_is_the_same_call_told_while_it_is_written(face: tuple[str, str], sandbox: Sandbox) -> None:
    partials = list(llmcache.extract_partial("ada", Person))
    assert partials[-1] == Person(**ADA)
    assert {value.name for value in partials[:3]} <= {None, "", "Ada "}
    assert list(llmcache.extract_partial("ada", Person)) == partials
    found = llmcache.extract_with_info("ada", Person)
    assert (found.outcome, found.value, sandbox.calls) == ("hit", partials[-1], 1)
    # What is kept of it is a whole reply, and its usage came with its end.
    assert json.loads(answer_in(found.completion, face[1])) == ADA
    assert found.completion.id == sandbox.charges()[0]["id"]
    assert found.cost_avoided_usd is not None
    assert found.cost_avoided_usd > 0
    items = list(llmcache.extract_iterable("all", Person))
    assert items == llmcache.extract("all", list[Person])
    assert sandbox.calls == 2


STREAM_FAULTS: dict[str, tuple[Fault, type[Exception]]] = {
    "refusal": (faults.refusal(), llmcache.Refused),
    "truncated": (faults.truncated(), llmcache.Truncated),
    "broken": (faults.broken_json(), llmcache.ValidationFailed),
    "half": (faults.reset_mid_body(), llmcache.ProviderUnavailable),
    "none": (faults.null_content(), llmcache.ValidationFailed),
}


def test_a_stream_that_goes_wrong_keeps_nothing(face: tuple[str, str], sandbox: Sandbox) -> None:
    for name, (fault, kind) in STREAM_FAULTS.items():
        sandbox.fail(fault)
        seen: list[str | None] = []
        with pytest.raises(kind):
            for value in llmcache.extract_partial("ada", Person, kind=name, max_retries=0):
                seen.append(value.name)  # noqa: PERF401  # what came before the error counts
        # It is told as it comes, and not at its end.
        assert name not in ("truncated", "broken") or "Ada " in seen
        assert llmcache.extract_with_info("ada", Person, kind=name).outcome == "miss"
    sandbox.fail(faults.missing_usage())
    assert list(llmcache.extract_partial("ada", Person))[-1] == Person(**ADA)
    assert llmcache.extract_with_info("ada", Person).cost_avoided_usd is None


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_one_call_of_the_one_function_is_the_answer(api: str, sandbox: Sandbox) -> None:
    sandbox.answers["ada"] = ADA
    with asked_by(sandbox, api, "tools"):
        for number, names in enumerate([("other",), ("Person", "Person"), ("Person", "other"), ()]):
            for ask in (llmcache.extract, lambda *args, **given: list(llmcache.extract_partial(*args, **given))):
                sandbox.fail(faults.calls(*names))
                given = {} if ask is not llmcache.extract else {"max_reasks": 0}
                with pytest.raises(llmcache.ValidationFailed) as caught:
                    ask("ada", Person, kind=f"kind {number}", **given)
                assert caught.value.errors == ({"loc": (), "type": "answer_missing"},)
        assert llmcache.extract("ada", Person) == Person(**ADA)


def test_parameters_that_a_face_sets_itself(sandbox: Sandbox) -> None:
    sandbox.answers["ada"] = ADA
    with asked_by(sandbox, "chat", "tools"):
        for given in ({"tool_choice": "auto"}, {"tool_choice": "auto", "unkeyed": ["tool_choice"]}):
            with pytest.raises(llmcache.InvalidRequest, match="tool_choice= cannot be passed"):
                llmcache.extract("ada", Person, **given)
        llmcache.extract("ada", Person, parallel_tool_calls=False)
    with asked_by(sandbox, "chat", "json_schema"):
        llmcache.extract("ada", Person, tool_choice="none")
    with asked_by(sandbox, "responses", "json_schema"):
        for name in ("input", "background", "conversation", "previous_response_id"):
            with pytest.raises(llmcache.InvalidRequest, match=f"{name}= cannot be passed"):
                llmcache.extract("ada", Person, **{name: True})
            with pytest.raises(llmcache.InvalidRequest, match=f"{name}= cannot be passed"):
                llmcache.extract("ada", Person, unkeyed=[name], **{name: True})
        with pytest.raises(llmcache.InvalidRequest, match="without 'format'"):
            llmcache.extract("ada", Person, text={"format": {"type": "text"}})
        with pytest.raises(llmcache.InvalidRequest, match="text= cannot be passed"):
            llmcache.extract("ada", Person, text={"verbosity": "low"}, unkeyed=["text"])
        assert sandbox.received == 2
        # What the API calls otherwise is not translated, and what it has beside the format is kept.
        llmcache.extract("ada", Person, text={"verbosity": "low"}, max_output_tokens=500, max_tokens=9, store=False)
        body = sandbox.requests[-1].body
        assert (body["text"]["verbosity"], body["text"]["format"]["name"]) == ("low", "Person")
        assert (body["max_output_tokens"], body["max_tokens"], body["store"]) == (500, 9, False)
        assert (
            llmcache.extract_with_info(
                "ada", Person, text={"verbosity": "low"}, max_output_tokens=500, max_tokens=9, store=True
            ).outcome
            == "hit"
        )


def test_a_response_that_says_it_failed(sandbox: Sandbox) -> None:
    sandbox.answers["ada"] = ADA
    kinds = {
        "server_error": llmcache.ProviderUnavailable,
        "rate_limit_exceeded": llmcache.RateLimited,
        "invalid_prompt": llmcache.ProviderError,
    }
    ways: list[Callable[..., Any]] = [
        llmcache.extract,
        lambda *args, **given: list(llmcache.extract_partial(*args, **given)),
    ]
    with asked_by(sandbox, "responses", "json_schema"):
        for code, kind in kinds.items():
            for ask in ways:
                sandbox.fail(faults.breaks_off(code))
                with pytest.raises(kind) as caught:
                    ask("ada", Person, max_retries=0)
                assert (type(caught.value), caught.value.cost_usd) == (kind, None)
        # What was told cannot be taken back: a stream is not asked for again then.
        sandbox.fail(faults.breaks_off())
        with pytest.raises(llmcache.ProviderUnavailable) as caught:
            list(llmcache.extract_partial("ada", Person))
        assert caught.value.attempts == 1
        sandbox.fail(faults.breaks_off())
        assert llmcache.extract_with_info("ada", Person).attempts == 2


def test_parts_in_the_other_api(sandbox: Sandbox) -> None:
    pixel = "data:image/png;base64,iVBORw0KGgo="
    content: Any = [
        {"role": "user", "content": [{"type": "text", "text": "ada"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "ada"},
                {"type": "image_url", "image_url": {"url": pixel, "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
            ],
        },
    ]
    with asked_by(sandbox, "responses", "json_schema"):
        provider = process.current().provider("openai")
        body = provider.prepare({"model": "m", "input": []}, content, {})
        assert body["input"] == [
            {"role": "user", "content": [{"type": "input_text", "text": "ada"}]},
            {"role": "assistant", "content": "Who?"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "ada"},
                    {"type": "input_image", "detail": "low", "image_url": pixel},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                ],
            },
        ]
        for wrong in (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            {"role": "user", "content": "ada", "name": "Ada"},
            {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": pixel}}]},
        ):
            with pytest.raises(llmcache.InvalidRequest, match="'responses'"):
                provider.prepare({"model": "m", "input": []}, [wrong], {})


def test_images_and_files_in_every_face(face: tuple[str, str], sandbox: Sandbox) -> None:
    picture = llmcache.Image(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    for _ in range(2):
        assert llmcache.extract(["ada", picture], Person, system="Read.") == Person(**ADA)
    assert sandbox.calls == 1
    body = sandbox.requests[0].body
    system, user = body["input" if face[0] == "responses" else "messages"]
    assert system["content"].startswith("Read.")
    kinds = ["input_text", "input_image"] if face[0] == "responses" else ["text", "image_url"]
    assert [part["type"] for part in user["content"]] == kinds
    place = user["content"][1]["image_url"]
    assert (place if face[0] == "responses" else place["url"]).startswith("data:image/png;base64,")


def test_a_fake_answers_in_every_face(face: tuple[str, str], sandbox: Sandbox) -> None:
    with Fake() as fake:
        fake.answer(Person, Person(**ADA))
        person, completion = llmcache.extract_with_completion("anything", Person, system="Read.", seed=7)
        assert llmcache.extract_with_info("anything", Person, system="Read.", seed=7).outcome == "hit"
    assert (person, json.loads(answer_in(completion, face[1]))) == (Person(**ADA), ADA)
    assert completion.usage.total_tokens > 0
    assert [(call.system, call.params) for call in fake.calls] == [("Read.", {"seed": 7})]
    assert sandbox.received == 0


@pytest.mark.django_db
def test_what_is_kept_is_asked_anew_and_corrected_in_every_face(face: tuple[str, str], sandbox: Sandbox) -> None:
    with llmcache_settings(KINDS={"Person": {"type": f"{__name__}.Person"}}):
        llmcache.extract("ada", Person, system="Read.", temperature=0)
        assert llmcache.flush()
        row = CacheEntry.objects.get()
        sandbox.answers["ada"] = {**ADA, "age": 40}
        rewriting.refresh(row.key)
        assert sandbox.requests[1].body == sandbox.requests[0].body
        found = llmcache.extract_with_info("ada", Person, system="Read.", temperature=0)
        assert (found.outcome, found.value.age, found.key) == ("hit", 40, row.key)
        assert json.loads(answer_in(found.completion, face[1]))["age"] == 40
        # Asked in another way it is another request: what was kept is not asked anew under its key.
        with asked_by(sandbox, *FACES[FACES.index(face) - 1]), pytest.raises(llmcache.NotRewritten) as caught:
            rewriting.refresh(row.key)
        assert caught.value.reason == "provider_gone"
        # A person's answer has a completion of the same type, without usage: nobody has charged for it.
        corrections.correct(row.key, json.dumps({**ADA, "age": 41}))
        person, completion = llmcache.extract_with_completion("ada", Person, system="Read.", temperature=0)
        assert (person.age, json.loads(answer_in(completion, face[1]))["age"]) == (41, 41)
        assert (completion.usage, completion.model, sandbox.calls) == (None, "gpt-5-mini", 2)
