"""Cassettes: what a provider answers over HTTP is recorded, and played the same when nobody is there any more."""

import asyncio
import base64
import contextlib
import contextvars
import json
import re
import threading
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.test import SimpleTestCase
from pydantic import BaseModel, field_validator

import llmcache
from llmcache.engine import departures, isolation, process
from llmcache.money.usage import Usage
from llmcache.providers.callables import Answer
from llmcache.testing import (
    Cassette,
    CassetteError,
    NotRecorded,
    UnusedInteractions,
    assert_provider_calls,
    cassette,
    fake,
    override_llmcache,
)
from llmcache.testing.cassettes import tape
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader
from tests.waiting import until

KEY = "sk-live-0123456789abcdef"
NOWHERE = "http://127.0.0.1:9/v1"


class Ticket(BaseModel):
    title: str
    urgent: bool


class Total(BaseModel):
    total: Decimal


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "LLMCACHE_RECORD", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A provider whose key must not be found in any file."""
    with override_llmcache(PROVIDERS={"openai": {"base_url": sandbox.base_url, "api_key": KEY}}):
        yield sandbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "mine.json"


def next_test() -> None:
    """Forget what is cached, as the next test would."""
    isolation.end_test()
    isolation.begin_test()


def offline() -> override_llmcache:
    """Nobody answers any more, and there is no key."""
    next_test()
    return override_llmcache(PROVIDERS={"openai": {"base_url": NOWHERE}})


def interactions_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["interactions"]


def test_what_is_played_is_what_was_recorded(provider: Sandbox, path: Path, journal: JournalReader) -> None:
    provider.answers |= {"Fire!": {"title": "Fire 🔥", "urgent": True}, "Bill": '{"total": 12.50}'}

    def everything() -> list[Any]:
        told = [
            llmcache.extract_with_info("Fire!", Ticket),
            llmcache.extract_with_info("Fire!", Ticket),
            llmcache.extract_with_info("Bill", Total, system="Sum up.\nIn euros.", temperature=0.5, user="u-17"),
            llmcache.extract_with_info("five", list[int]),
        ]
        completions = [llmcache.extract_with_completion("Fire!", Ticket)[1].model_dump_json()]
        return [
            [(each.value, each.outcome, each.attempts, each.usage, each.cost_incurred_usd) for each in told],
            completions,
        ]

    with cassette(path, record="new"), assert_provider_calls(3):
        recorded = everything()
    assert provider.received == 3
    assert journal.text().count('"settled"') == 3
    with offline(), cassette(path, strict=True), assert_provider_calls(3):
        assert everything() == recorded
    # What is played is an attempt to all that counts: the journal has it, with what it cost.
    assert journal.text().count('"settled"') == 6
    assert provider.received == 3
    text = path.read_text()
    assert KEY not in text
    assert "u-17" not in text
    assert "12.50" in text
    assert "Fire 🔥" in text
    assert [each["request"]["model"] for each in interactions_of(path)] == ["openai/gpt-5-mini"] * 3


def test_asynchronous_calls_streams_and_batches_are_played_too(provider: Sandbox, path: Path) -> None:
    provider.answers["Guests"] = {"value": [{"title": "Ada", "urgent": True}, {"title": "Bob", "urgent": False}]}
    texts = [f"mail {number}" for number in range(12)]

    async def everything() -> list[Any]:
        async def items() -> list[Any]:
            return [each async for each in llmcache.aextract_iterable("Guests", Ticket)]

        alone, together, both = await asyncio.gather(
            llmcache.aextract("Fire!", Ticket), llmcache.aextract_many(texts, Ticket), items()
        )
        return [alone, list(together), both]

    def in_threads() -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            several = list(pool.map(lambda text: llmcache.extract(text, Total), texts))
        return [several, list(llmcache.extract_partial("partly", Ticket))]

    with cassette(path, record="new"):
        recorded = [asyncio.run(everything()), in_threads()]
    assert len(interactions_of(path)) == 1 + 12 + 1 + 12 + 1
    with offline(), cassette(path, strict=True):
        # In another order.
        assert [asyncio.run(everything()), in_threads()][::-1] == recorded[::-1]
    with offline(), cassette(path, strict=True):
        threads = in_threads()
        assert [asyncio.run(everything()), threads] == recorded


class Shouted(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def shouted(cls, word: str) -> str:
        if not word.isupper():
            raise ValueError("louder")
        return word


def test_questions_asked_again_and_one_request_asked_twice_are_played_in_order(provider: Sandbox, path: Path) -> None:
    provider.answers["Say it"] = {"word": "HEY"}
    provider.fail(faults.says('{"word": "hey"}'), 1, text="Say it")

    def everything() -> list[Any]:
        made = llmcache.extract_with_info("Say it", Shouted)
        twice = [llmcache.extract("one", int, cache="bypass") for _ in range(2)]
        return [made.value, made.attempts, made.usage, twice]

    with cassette(path, record="new"):
        provider.answers["one"] = 1
        recorded = everything()[:-1]
        provider.answers["one"] = 2
        again = llmcache.extract("one", int, cache="bypass")
    assert (recorded[1], again) == (2, 2)
    with offline(), cassette(path):
        assert everything() == [*recorded, [1, 1]]
        assert llmcache.extract("one", int, cache="bypass") == 2
    with (
        offline(),
        pytest.raises(NotRecorded, match=r"is 3 times in the cassette .*, and was asked for once more"),
        cassette(path),
    ):
        everything()
        llmcache.extract("one", int, cache="bypass")
        llmcache.extract("one", int, cache="bypass")


def test_what_passes_is_not_recorded_and_what_is_about_the_request_is(provider: Sandbox, path: Path) -> None:
    provider.fail(faults.rate_limited(0.01), 1, text="Fire!")
    provider.fail(faults.bad_request(), 1, text="odd")
    with cassette(path, record="new"):
        assert llmcache.extract_with_info("Fire!", Ticket).attempts == 2
        with pytest.raises(llmcache.ProviderError) as recorded:
            llmcache.extract("odd", Ticket)
    assert [set(each) for each in interactions_of(path)] == [{"request", "reply"}, {"request", "failure"}]
    with offline(), cassette(path, strict=True):
        assert llmcache.extract_with_info("Fire!", Ticket).attempts == 1
        with pytest.raises(llmcache.ProviderError) as played:
            llmcache.extract("odd", Ticket)
    assert (played.value.message, played.value.status) == (recorded.value.message, recorded.value.status)
    assert type(played.value) is type(recorded.value)
    assert (played.value.status, played.value.cost_usd, played.value.attempts) == (400, 0, 1)
    # One that stays so is told, though the code under test has caught it; and nothing of it is kept.
    next_test()
    provider.fail(faults.unauthorized(), 1)
    before = path.read_text()
    with (
        pytest.raises(NotRecorded, match=r"could not be recorded .* refused the API key \(401\)"),
        cassette(path, record="new"),
        pytest.raises(llmcache.AuthenticationFailed),
    ):
        llmcache.extract("new", Ticket)
    assert path.read_text() == before


def test_a_failure_written_by_hand_is_played(path: Path) -> None:
    request = {"model": "openai/gpt-5-mini", "messages": [{"role": "user", "content": "Fire!"}]}
    limited = {"request": request, "failure": {"error": "RateLimited", "retry_after": 30}}
    answer = {"request": request, "reply": {"text": "no JSON"}}
    path.parent.mkdir()
    with cassette(path, record="none") as used, offline():
        assert isinstance(used, Cassette)
        with fake() as provider:
            provider.answer(dict, {})
            llmcache.extract("Fire!", dict)
            sent = provider.calls[0].body["response_format"]
    request["response_format"] = sent
    path.write_text(json.dumps({"cassette": 1, "interactions": [limited, limited, answer]}))
    next_test()
    with offline(), cassette(path, strict=True), pytest.raises(llmcache.ValidationFailed) as caught:
        # Thirty seconds are not waited for, twice.
        llmcache.extract("Fire!", dict, max_retries=2, max_reasks=0, timeout=40)
    assert caught.value.attempts == 3


def test_a_stream_that_broke_off_breaks_off_again(provider: Sandbox, path: Path) -> None:
    provider.fail(faults.empty_choices(), 1)

    def values() -> list[Any]:
        seen: list[Any] = []
        with pytest.raises(llmcache.ProviderError) as caught:
            seen.extend(llmcache.extract_partial("Fire!", Ticket))
        return [seen, caught.value.message, caught.value.cost_usd]

    with cassette(path, record="new"):
        recorded = values()
    with offline(), cassette(path, strict=True):
        assert values() == recorded
    # What had been told of it by then, which this sandbox never does.
    document = json.loads(path.read_text())
    document["interactions"][0]["told"] = '{"title": "Fire", "urg'
    path.write_text(json.dumps(document))
    seen: list[Any] = []
    with offline(), cassette(path, strict=True), pytest.raises(llmcache.ProviderError, match=re.escape(recorded[1])):
        for each in llmcache.extract_partial("Fire!", Ticket):
            seen.append(each.title)  # noqa: PERF401 - what comes before the error
    assert seen[-1] == "Fire"


def test_an_unknown_request_says_in_what_it_differs(provider: Sandbox, path: Path) -> None:
    with cassette(path, record="new"):
        llmcache.extract("The printer on the second floor is on fire!", Ticket, system="Be brief.")
        llmcache.extract("Lunch?", Ticket)
    with offline(), pytest.raises(NotRecorded) as caught, cassette(path), assert_provider_calls(0):
        llmcache.extract("The printer on the second floor is on FIRE!", Ticket, system="Be brief.", temperature=0.5)
    told = str(caught.value)
    assert "kind 'Ticket', model 'openai/gpt-5-mini'" in told
    assert "The nearest recorded request is interaction 1; it differs in" in told
    assert "messages[1].content: recorded …'ond floor is on fire!', sent …'ond floor is on FIRE!'" in told
    assert "temperature: is sent (0.5) and was not recorded" in told
    assert "--llmcache-record=new" in told

    class Ticket2(BaseModel):
        title: str

    with (
        offline(),
        pytest.raises(NotRecorded, match=r"json_schema\.schema\.properties\.urgent: was recorded \(\(dict"),
        cassette(path),
    ):
        llmcache.extract("Lunch?", Ticket2, kind="Ticket")
    with offline(), pytest.raises(NotRecorded, match="there is nothing in the cassette"), cassette(path.parent / "no"):
        llmcache.extract("Lunch?", Ticket)


def test_a_request_that_the_code_under_test_lets_pass_fails_all_the_same(provider: Sandbox, path: Path) -> None:
    def caught_by_the_code() -> None:
        with contextlib.suppress(Exception):
            llmcache.extract("Fire!", Ticket)

    with offline(), pytest.raises(NotRecorded, match="there is nothing in"), cassette(path):
        caught_by_the_code()
        # Nor does a thread of the code's own hide it.
        thread = threading.Thread(target=caught_by_the_code)
        thread.start()
        thread.join()
    with pytest.raises(KeyError), cassette(path):
        caught_by_the_code()
        raise KeyError("what the test says of itself comes first")


def test_recording_needs_a_key_and_leave(provider: Sandbox, path: Path) -> None:
    with cassette(path, record="new"):
        llmcache.extract("Fire!", Ticket)
    before = path.read_text()
    for mode in ("new", "all"):
        with (
            offline(),
            pytest.raises(NotRecorded, match=r"could not be recorded .*There is no API key"),
            cassette(path, record=mode),
            pytest.raises(llmcache.ConfigurationError),
        ):
            llmcache.extract("Lunch?", Ticket)
        next_test()
        with override_llmcache(ALLOW_PROVIDER_CALLS=False), cassette(path, record="new"):
            # What is recorded needs neither.
            llmcache.extract("Fire!", Ticket)
            with (
                pytest.raises(NotRecorded, match=r"could not be recorded .*ALLOW_PROVIDER_CALLS"),
                cassette(path, record=mode),
                pytest.raises(llmcache.ProviderCallsForbidden),
            ):
                asyncio.run(llmcache.aextract("Lunch?", Ticket))
    assert path.read_text() == before
    assert provider.received == 1


def test_all_records_anew_drops_what_is_unused_and_makes_no_diff_of_nothing(provider: Sandbox, path: Path) -> None:
    provider.answers |= {"a": 1, "b": 2, "c": 3}
    with cassette(path, record="new"):
        assert [llmcache.extract(text, int) for text in "abc"] == [1, 2, 3]
    first = path.read_text()
    next_test()
    with pytest.raises(ZeroDivisionError), cassette(path, record="all"):
        # A test that fails has not asked for all that it needs.
        llmcache.extract("c", int)
        llmcache.extract("a", int) // 0
    assert [each["request"] for each in interactions_of(path)] == [
        each["request"] for each in json.loads(first)["interactions"]
    ]
    provider.answers["c"] = 30
    next_test()
    with cassette(path, record="all"):
        assert [llmcache.extract(text, int) for text in "cab"] == [30, 1, 2]
    replies = [each["reply"]["answer"]["value"] for each in interactions_of(path)]
    assert replies == [1, 2, 30]
    next_test()
    with cassette(path, record="all"):
        llmcache.extract("b", int)
        llmcache.extract("new", int)
    assert [each["request"]["messages"][0]["content"] for each in interactions_of(path)] == ["b", "new"]
    next_test()
    with cassette(path, record="all", shared=True):
        llmcache.extract("new", int)
    assert len(interactions_of(path)) == 2
    next_test()
    with cassette(path, record="all"):
        pass
    assert not path.exists()


def test_a_case_that_fails_drops_nothing_however_its_cassette_was_entered(provider: Sandbox, tmp_path: Path) -> None:
    ends = ["fail", "error", "skip", "subtest", "expected", "pass"]

    class Cases(SimpleTestCase):
        def setUp(self) -> None:
            made = cassette(tmp_path / f"{self._testMethodName}.json", record="all")
            if self._testMethodName == "test_by_a_stack":
                stack = contextlib.ExitStack()
                self.addCleanup(stack.close)
                stack.enter_context(made)
            else:
                self.enterContext(made)

        def test_entered(self) -> None:
            self.ask()

        async def test_awaited(self) -> None:
            await asyncio.to_thread(self.ask)

        def test_by_a_stack(self) -> None:
            self.ask()

        def ask(self) -> None:
            llmcache.extract("one", int)
            if end == "subtest":
                with self.subTest("one of several"):
                    self.fail()
            if end in ("fail", "expected"):
                self.fail()
            if end == "error":
                raise ZeroDivisionError
            if end == "skip":
                self.skipTest("today")
            if end == "first":
                llmcache.extract("two", int)

    names = ("test_entered", "test_awaited", "test_by_a_stack")
    for end in ("first", *ends):
        for name in names:
            next_test()
            case = Cases(name)
            if end == "expected":
                case.__unittest_expecting_failure__ = True  # type: ignore[attr-defined]
            case(result := unittest.TestResult())
            assert result.wasSuccessful() == (end not in ("fail", "error", "subtest")), (end, result)
            kept = len(interactions_of(tmp_path / f"{name}.json"))
            assert (end, name, kept) == (end, name, 1 if end == "pass" else 2)


def test_what_nothing_asks_for_is_told(provider: Sandbox, path: Path) -> None:
    with cassette(path, record="new"):
        llmcache.extract("a", int)
        llmcache.extract("b", int)
    with (
        offline(),
        pytest.warns(UnusedInteractions, match="Nothing asked for interaction 1 of the cassette"),
        cassette(path),
    ):
        llmcache.extract("b", int)
    with (
        offline(),
        pytest.raises(AssertionError, match="Nothing asked for interaction 1, 2 of"),
        cassette(path, strict=True),
    ):
        pass
    with offline(), cassette(path, shared=True):
        llmcache.extract("a", int)
    with pytest.raises(CassetteError, match="shared cannot be strict"):
        cassette(path, shared=True, strict=True)


def test_secrets_are_masked_and_texts_redacted(provider: Sandbox, path: Path) -> None:
    provider.answers["mail of ada@example.org"] = {"title": f"Key {KEY} of ada@example.org", "urgent": True}
    text = "mail of ada@example.org"

    def redact(each: str) -> str:
        return each.replace("ada@example.org", "[mail]")

    # One key may begin with another.
    own, other = ({"base_url": provider.base_url, "api_key": key} for key in (KEY, KEY[:12]))
    with override_llmcache(PROVIDERS={"other": other, "openai": own}), cassette(path, record="new", redact=redact):
        assert KEY in llmcache.extract(text, Ticket).title
        llmcache.extract(f"Here is my key: {KEY}", int)
    recorded = path.read_text()
    assert KEY not in recorded
    assert "ada@example.org" not in recorded
    assert '"Here is my key: [API key]"' in recorded
    with offline(), cassette(path, redact=redact, shared=True):
        assert llmcache.extract(text, Ticket).title == "Key [API key] of [mail]"
    with offline(), pytest.raises(NotRecorded, match=r"recorded 'mail of \[mail\]'"), cassette(path):
        llmcache.extract(text, Ticket)


def test_who_asked_is_told_to_nobody_by_an_api_that_repeats_it(sandbox: Sandbox, path: Path) -> None:
    served = {"base_url": sandbox.base_url, "api_key": KEY, "api": "responses"}
    ada: dict[str, Any] = {"metadata": {"of": "ada@example.org"}}
    ada |= {name: f"{name}-of-ada" for name in ("user", "safety_identifier", "prompt_cache_key")}
    with override_llmcache(MODEL="own/m", PROVIDERS={"own": served}), cassette(path, record="new"):
        _, own = llmcache.extract_with_completion("Fire!", Ticket, **ada)
        _, hit = llmcache.extract_with_completion("Fire!", Ticket, user="bob")
        list(llmcache.extract_partial("grows", Ticket, **ada))
        _, streamed = llmcache.extract_with_completion("grows", Ticket, user="bob")
    assert [request.body["user"] for request in sandbox.requests] == ["user-of-ada"] * 2
    for each in (path.read_text(), *(str(made) for made in (own, hit, streamed))):
        assert "of-ada" not in each
        assert "ada@" not in each


def test_what_is_in_no_key_is_in_no_cassette(sandbox: Sandbox, path: Path) -> None:
    def answer(request: Any) -> Any:
        return Answer('{"title": "x", "urgent": true}', raw={"user": request.params["user"], "own": 1, **more(request)})

    def more(request: Any) -> dict[str, Any]:
        return {"trace": request.params["trace"]}

    def ask(number: int, model: str) -> str:
        told = {"trace": f"trace-{number}", "user": f"user-{number}", "unkeyed": ["trace"]}
        return llmcache.extract_with_info("Fire!", Ticket, model=model, cache="bypass", **told).outcome

    providers = {"here": {"call": answer, "identity": "here"}, "own": {"base_url": sandbox.base_url, "api_key": KEY}}
    with override_llmcache(PROVIDERS=providers):
        with cassette(path, record="new"):
            assert [ask(1, model) for model in ("own/m", "here/m")] == ["bypass"] * 2
        asked = sandbox.received
        with cassette(path, strict=True):
            assert [ask(2, model) for model in ("own/m", "here/m")] == ["bypass"] * 2
    assert sandbox.received == asked == 1
    assert "trace" not in path.read_text()
    assert '"raw": {"own": 1}' in path.read_text()
    assert "user-1" not in path.read_text()


def answer_here(request: Any) -> str:
    return json.dumps({"title": "Here", "urgent": request.model == "m"})


def test_whatever_face_or_function_answers_is_played(sandbox: Sandbox, tmp_path: Path) -> None:
    served = {"base_url": sandbox.base_url, "api_key": KEY}
    faces: list[dict[str, Any]] = [
        *(
            {**served, "api": api, "output": output}
            for api in ("chat", "responses")
            for output in ("json_schema", "tools")
        ),
        {**served, "output": "json_object"},
        {"call": answer_here, "identity": "here"},
    ]

    def everything() -> list[Any]:
        info = llmcache.extract_with_info("Fire!", Ticket, model="own/m")
        _, completion = llmcache.extract_with_completion("Fire!", Ticket, model="own/m")
        values = list(llmcache.extract_partial("grows", Ticket, model="own/m"))
        return [info.value, info.usage, info.cost_incurred_usd, str(completion), values]

    for number, face in enumerate(faces):
        path = tmp_path / f"{number}.json"
        with override_llmcache(PROVIDERS={"own": face}), cassette(path, record="new"):
            next_test()
            recorded = everything()
        assert len(interactions_of(path)) == 2
        asked = sandbox.received
        gone = {**face, "base_url": NOWHERE} if "base_url" in face else {**face, "call": print}
        gone.pop("api_key", None)
        with override_llmcache(PROVIDERS={"own": gone}), cassette(path, strict=True):
            next_test()
            assert everything() == recorded
        assert sandbox.received == asked
        # A schema is written once, wherever a face has it.
        assert path.read_text().count('"type": "boolean"') <= 1


def test_a_call_whose_caller_has_gone_is_recorded_to_its_end(provider: Sandbox, path: Path) -> None:
    async def ask_and_go() -> None:
        task = asyncio.create_task(llmcache.aextract("Fire!", Ticket))
        await asyncio.to_thread(provider.wait_until_received, 1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def release_when_it_ends() -> None:
        until(lambda: not departures._stand_ins)
        provider.release()

    provider.hold()
    with ThreadPoolExecutor(1) as pool, cassette(path, record="new"):
        asyncio.run(ask_and_go())
        pool.submit(release_when_it_ends)
    assert len(interactions_of(path)) == 1


def test_what_outlasts_the_end_is_told(provider: Sandbox, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "_END_SECONDS", 0.1)
    provider.hold()
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as end:
        end.callback(provider.release)
        with (
            pytest.raises(NotRecorded, match=r"1 could not be recorded in .*mine.json: no answer had come 0.1 seconds"),
            cassette(path, record="new"),
        ):
            late = pool.submit(contextvars.copy_context().run, llmcache.extract, "Fire!", Ticket)
            provider.wait_until_received(1)
        provider.release()
        assert isinstance(late.result(20), Ticket)
    assert not path.exists()


def test_an_image_is_in_it_by_its_digest(provider: Sandbox, path: Path) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + b"x" * 100_000

    def parts(image: bytes) -> list[Any]:
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        return [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Which?"}, {"type": "image_url", "image_url": {"url": url}}],
            }
        ]

    with cassette(path, record="new"):
        recorded = llmcache.extract(parts(picture), Ticket)
    assert len(path.read_text()) < 5_000
    assert "100008 bytes, sha256 " in path.read_text()
    with offline(), cassette(path):
        assert llmcache.extract(parts(picture), Ticket) == recorded
    with offline(), pytest.raises(NotRecorded, match=r"image_url\.url"), cassette(path):
        llmcache.extract(parts(picture + b"y"), Ticket)


def test_what_is_refreshed_in_the_background_is_the_tests_too(provider: Sandbox, path: Path) -> None:
    texts = [f"text {number}" for number in range(15)]

    def stale() -> list[int]:
        first = [llmcache.extract(text, int, ttl=0.001, stale_ttl=600) for text in texts]
        threading.Event().wait(0.002)
        return first + [llmcache.extract(text, int, ttl=0.001, stale_ttl=600) for text in texts]

    with override_llmcache(JITTER=0), cassette(path, record="new"):
        recorded = stale()
    # More than can be under way when the block ends.
    assert len(interactions_of(path)) == 30
    with override_llmcache(JITTER=0), offline(), cassette(path, strict=True):
        assert stale() == recorded


def test_a_function_is_decorated_and_each_of_its_runs_begins_at_the_start(provider: Sandbox, path: Path) -> None:
    @cassette(path, record="new")
    def recorded(text: str) -> int:
        """Told."""
        return llmcache.extract(text, int)

    @cassette(path)
    async def awaited(text: str) -> int:
        return await llmcache.aextract(text, int)

    @cassette(path)
    def nested(times: int) -> int:
        return nested(times - 1) if times else llmcache.extract("five", int)

    first = recorded("five")
    assert recorded.__doc__ == "Told."
    for _ in range(2):
        with offline():
            assert asyncio.run(awaited("five")) == first
    with offline(), pytest.warns(UnusedInteractions):
        # The innermost one answers.
        assert nested(1) == first
    with pytest.raises(TypeError, match="enterContext"):
        cassette(path)(Ticket)

    def values() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="functions and coroutine functions"):
        cassette(path)(values)


def test_it_is_found_beside_who_asks_for_it() -> None:
    folder = Path(__file__).parent / "cassettes"
    assert cassette("route").path == folder / "route.json"
    assert cassette("mail/route.json").path == folder / "mail" / "route.json"

    class Tests(unittest.TestCase):
        def test_it(self) -> None:
            pass

    assert cassette(Tests("test_it")).path == folder / "test_cassettes" / "Tests.test_it.json"


def test_outside_of_a_test_it_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = cassette(path)
    with used, pytest.raises(CassetteError, match="in use already"):
        used.__enter__()
    isolation.end_test()
    with pytest.raises(CassetteError, match="IsolatedMixin"), cassette(path):
        pass
    monkeypatch.setattr(isolation, "in_tests", lambda: False)
    with pytest.raises(CassetteError, match="test environment only"), cassette(path):
        pass


def test_cases_play_what_cases_recorded(provider: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cases(SimpleTestCase):
        def setUp(self) -> None:
            self.used = self.enterContext(cassette(tmp_path / f"{self._testMethodName}.json"))

        def test_one(self) -> None:
            llmcache.extract("same", int)

        async def test_two(self) -> None:
            await llmcache.aextract("same", int)

    def run() -> unittest.TestResult:
        result = unittest.TestResult()
        for name in ("test_one", "test_two"):
            next_test()
            Cases(name)(result)
        return result

    monkeypatch.setenv("LLMCACHE_RECORD", "new")
    assert run().wasSuccessful()
    assert provider.received == 2
    monkeypatch.delenv("LLMCACHE_RECORD")
    with offline():
        assert run().wasSuccessful()
        (tmp_path / "test_two.json").unlink()
        failed = run()
    # The call's own error, and the clean-up's, which would be the only one had the test caught it.
    assert {str(case) for case, _ in failed.failures} == {str(Cases("test_two"))}
    assert not failed.errors
    assert provider.received == 2


def test_samples_are_played_in_their_places(provider: Sandbox, path: Path) -> None:
    for number in range(6):
        provider.fail(faults.says(json.dumps({"value": number})), 1)

    def everything() -> list[Any]:
        return [list(llmcache.extract_samples("dice", int, samples=3, variant=each)) for each in (None, "b")]

    with cassette(path, record="new"):
        recorded = everything()
    assert sorted(recorded[0] + recorded[1]) == list(range(6))
    document = json.loads(path.read_text())
    # In whatever order they stand.
    document["interactions"].reverse()
    path.write_text(json.dumps(document))
    with offline(), cassette(path, strict=True):
        assert everything() == recorded


def test_a_waiting_call_and_a_fake_go_their_own_ways(provider: Sandbox, path: Path) -> None:
    with cassette(path, record="new"):
        with fake() as inner:
            inner.answer(int, 7)
            assert llmcache.extract("seven", int) == 7
        with ThreadPoolExecutor(4) as pool:
            same = list(pool.map(lambda _: llmcache.extract("same", int), range(4)))
    assert len(set(same)) == 1
    assert len(interactions_of(path)) == 1
    assert process.current().provider("openai")


def test_usage_and_price_that_a_hand_has_changed_hold(provider: Sandbox, path: Path) -> None:
    with cassette(path, record="new"):
        llmcache.extract("five", int)
    document = json.loads(path.read_text())
    reply = document["interactions"][0]["reply"]
    reply |= {"answer": {"value": 555}, "usage": {"input_tokens": 1_000_000, "output_tokens": 0}}
    del reply["completion"]
    path.write_text(json.dumps(document, indent=4).replace("\n", "\r\n"))
    with offline(), cassette(path, strict=True):
        made = llmcache.extract_with_info("five", int)
        _, completion = llmcache.extract_with_completion("five", int)
    assert made.value == 555
    assert made.usage == Usage(1_000_000, 0, 0)
    assert completion.choices[0].message.content == '{"value":555}'
