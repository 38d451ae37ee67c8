"""A cassette's file: what is written is read again as it was, and what a hand has broken is refused by name."""

import fcntl
import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcache import conf
from llmcache.exceptions import (
    AuthenticationFailed,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from llmcache.money.usage import Usage
from llmcache.providers.base import Failure, Reply
from llmcache.testing.cassettes import cleaning, interactions, layout, merging, modes, places, replies, requests
from llmcache.testing.cassettes.errors import CassetteError
from llmcache.testing.cassettes.interactions import Interaction

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Lone surrogates included: an answer's JSON can express them.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3),
    max_leaves=12,
)
SPECIAL = st.sampled_from(
    [{"$lines": ["a", "b"]}, {"$ref": "#/schemas/int"}, {"$lines": 5}, {"name": "x", "schema": {"$ref": "#/schemas/x"}}]
)
REQUESTS = st.builds(
    lambda model, fields: {**fields, "model": model},
    st.text(min_size=1, max_size=9),
    st.dictionaries(TEXTS | st.sampled_from(["schema", "parameters", "messages"]), JSON | SPECIAL, max_size=4),
)
ANSWERS = st.one_of(
    st.none(),
    TEXTS,
    st.builds(
        lambda data, options: json.dumps(data, **options),
        JSON,
        st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4}, {"ensure_ascii": False}]),
    ),
    st.sampled_from(['{"a": 12.50}', '{"a":1.0e5}', '{"a":1,"a":2}', "{}", "[ ]", "null", '{"a":-0}', '{"a":NaN}']),
)
TOKENS = st.integers(0, 2**53 - 1)
OPTIONAL = st.none() | TEXTS
COSTS = st.none() | st.decimals(0, 1000, places=6)
REPLIES = st.builds(
    Reply,
    answer=ANSWERS,
    finish_reason=st.sampled_from(["stop", "length", None]),
    refused=st.booleans(),
    model=OPTIONAL,
    usage=st.none() | st.builds(Usage, TOKENS, TOKENS, TOKENS, TOKENS),
    request_id=OPTIONAL,
    rest=st.dictionaries(TEXTS, JSON, max_size=3).map(lambda data: json.dumps(data, separators=(",", ":")).encode()),
    service_tier=OPTIONAL,
    cost_usd=COSTS,
)
KINDS = (ProviderError, AuthenticationFailed, ProviderTimeout, ProviderUnavailable, RateLimited)


@st.composite
def failures(draw: st.DrawFn) -> Failure:
    kind, status = draw(st.sampled_from(KINDS)), draw(st.none() | st.integers(100, 599))
    wait = draw(st.none() | st.floats(0, 1e6))
    code = draw(st.sampled_from(["invalid_response", kind.code]))
    error = kind(draw(TEXTS), code=code, status=status, provider_error=draw(OPTIONAL), request_id=draw(OPTIONAL))
    if isinstance(error, RateLimited):
        error.retry_after = wait
        error.status = status or 429
    if isinstance(error, AuthenticationFailed):
        error.status = status or 401
    return Failure(error, draw(COSTS), draw(st.booleans()), draw(st.booleans()), wait)


def told(reply: Reply | Failure) -> Any:
    """Return what can be compared: two errors are never equal."""
    if isinstance(reply, Reply):
        return reply
    facts = reply.cost_usd, reply.in_doubt, reply.retry, reply.retry_after
    return reply.error.message, type(reply.error), [getattr(reply.error, name) for name in reply.error.details], facts


@UNHURRIED
@given(st.lists(st.builds(Interaction, REQUESTS, REPLIES | failures(), TEXTS), max_size=4))
def test_what_is_written_is_read_as_it_was(made: list[Interaction]) -> None:
    text = interactions.rendered(made)
    text.encode()  # a lone surrogate could not be
    again = interactions.parsed(text)
    assert [each.identity for each in again] == [each.identity for each in made]
    assert [(told(each.reply), each.told) for each in again] == [(told(each.reply), each.told) for each in made]
    assert interactions.rendered(again) == text
    # As a checkout on Windows has it, and as an editor leaves it.
    windows = text.replace("\n", "\r\n")
    assert interactions.rendered(interactions.parsed(windows)) == text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert text.endswith("}\n")


@UNHURRIED
@given(st.dictionaries(TEXTS, JSON, min_size=1, max_size=3) | st.lists(JSON, min_size=1, max_size=3))
def test_an_answer_is_shown_as_json_however_models_lay_it_out(data: Any) -> None:
    for options in ({"separators": (",", ":")}, {}, {"indent": 2}, {"indent": 4}):
        text = json.dumps(data, ensure_ascii=False, **options)
        found = layout.style_of(text)
        assert found is not None
        assert layout.written(*found) == text
    assert layout.style_of(" " + text) is None


ANSWER = '{"total":12.50,"note":"dünn\\n"}'


def example(answer: str | None = ANSWER, text: str = "One\nTwo") -> Interaction:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    request = {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": text}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "Bill", "schema": schema}},
    }
    usage = Usage(10, 0, 5)
    rest = b'{"id":"chatcmpl-1","created":1,"choices":[]}'
    return Interaction(request, Reply(answer, "stop", False, "gpt-5-mini-2026", usage, "req_1", rest))


def test_it_can_be_reviewed() -> None:
    text = interactions.rendered([example(), example(answer='{"total": 1}')])
    assert (
        text
        == """{
  "cassette": 1,
  "interactions": [
    {
      "request": {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": {"$lines": ["One", "Two"]}}],
        "response_format": {
          "type": "json_schema",
          "json_schema": {"name": "Bill", "schema": {"$ref": "#/schemas/Bill"}}
        }
      },
      "reply": {
        "answer": {"total": 12.50, "note": "dünn\\n"},
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "model": "gpt-5-mini-2026",
        "request_id": "req_1",
        "completion": {"id": "chatcmpl-1", "created": 1, "choices": []}
      }
    },
    {
      "request": {
        "model": "openai/gpt-5-mini",
        "messages": [{"role": "user", "content": {"$lines": ["One", "Two"]}}],
        "response_format": {
          "type": "json_schema",
          "json_schema": {"name": "Bill", "schema": {"$ref": "#/schemas/Bill"}}
        }
      },
      "reply": {
        "answer": {"total": 1},
        "layout": "spaced",
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "model": "gpt-5-mini-2026",
        "request_id": "req_1",
        "completion": {"id": "chatcmpl-1", "created": 1, "choices": []}
      }
    }
  ],
  "schemas": {
    "Bill": {
      "type": "object",
      "properties": {"total": {"type": "number"}}
    }
  }
}
"""
    )


def test_what_turns_the_direction_of_text_is_seen() -> None:
    made = interactions.rendered([example(text="pay \u202e0001 \u2066")])
    assert r"pay \u202e0001 \u2066" in made


GOOD = json.loads(interactions.rendered([example()]))


def broken(place: str, value: Any = ..., **fields: Any) -> str:
    """Return a good file's text with one thing changed: ``a.0.b`` set to a value, taken out, or given more fields."""
    document = json.loads(json.dumps(GOOD))
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    inner: Any = document
    for step in way:
        inner = inner[step]
    if fields:
        inner[last].update(fields)
    elif value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(document)


FAILURE = {"request": GOOD["interactions"][0]["request"]}
REFUSED = {
    "empty": ("", "no JSON at line 1, column 1"),
    "cut": (json.dumps(GOOD, indent=2)[:150], "no JSON at line "),
    "comma": ('{\n  "cassette": 1,\n  "interactions": [],\n}', "no JSON at line 4"),
    "conflict": ('{\n<<<<<<< HEAD\n"cassette": 1,\n=======\n', "line 2 is the mark of a merge conflict"),
    "list": ("[]", "does not begin with 'cassette'"),
    "other": ('{"version": 1}', "does not begin with 'cassette'"),
    "version": (broken("cassette", 2), "its form is 2, and this llmcache reads 1"),
    "version word": (broken("cassette", "1"), "its form is "),
    "no list": (broken("interactions", {}), "'interactions' has to be a list"),
    "none": (broken("interactions"), "'interactions' has to be a list"),
    "more": (broken("recorded", "2026"), "'recorded', which is unknown; there may be cassette, interactions, schemas"),
    "twice": ('{"cassette": 1, "interactions": [], "interactions": []}', "the name 'interactions' twice"),
    "schemas": (broken("schemas", []), "'schemas' has to be an object"),
    "lost schema": (broken("schemas.Bill"), "interaction 1: 'request' names the schema 'Bill', which is not in"),
    "word": (broken("interactions.0", "x"), "interaction 1: it has to be an object"),
    "no request": (broken("interactions.0.request"), "interaction 1: 'request' has to be an object"),
    "no model": (broken("interactions.0.request.model"), "interaction 1: 'request' needs the 'model'"),
    "only lines": (broken("interactions.0.request", {"$lines": ["x"]}), "interaction 1: 'request' needs the 'model'"),
    "lines": (broken("interactions.0.request.messages", {"$lines": "x"}), "interaction 1: 'request' has a '$lines'"),
    "no reply": (broken("interactions.0.reply"), "interaction 1: needs either 'reply' or 'failure', and has none"),
    "both": (broken("interactions.0", failure={}), "interaction 1: needs either 'reply' or 'failure', and has both"),
    "unknown part": (broken("interactions.0", answer={}), "interaction 1: it has 'answer', which is unknown"),
    "reply": (broken("interactions.0.reply", []), "interaction 1: 'reply' has to be an object"),
    "misspelt": (
        broken("interactions.0.reply", anwser={}),
        "interaction 1: 'reply': 'anwser' is unknown; there may be",
    ),
    "scalar": (broken("interactions.0.reply.answer", 5), "'answer' has to be an object or array"),
    "text too": (broken("interactions.0.reply", text="x"), "has both 'answer' (an object or array) and 'text'"),
    "text": (broken("interactions.0.reply", {"text": 5}), "'text' has to be a string, or {\"$lines\": [...]}"),
    "no lines": (broken("interactions.0.reply", {"text": {"$lines": []}}), "'text' has to be a string"),
    "layout": (broken("interactions.0.reply", layout="wide"), "has the 'layout' 'wide'; it goes with 'answer'"),
    "refused": (broken("interactions.0.reply", refused="no"), "'refused' has to be true or false"),
    "finish": (broken("interactions.0.reply", finish_reason=5), "'finish_reason' has to be a string"),
    "tokens": (broken("interactions.0.reply.usage.input_tokens", -1), "'reply'.'usage': 'input_tokens' has to be a"),
    "half": (broken("interactions.0.reply.usage.input_tokens", 1.5), "'input_tokens' has to be a whole number"),
    "true": (broken("interactions.0.reply.usage.input_tokens", True), "'input_tokens' has to be a whole number"),
    "usage": (broken("interactions.0.reply.usage", total=5), "'reply'.'usage': 'total' is unknown"),
    "completion": (broken("interactions.0.reply.completion", []), "'completion' has to be an object"),
    "cost": (broken("interactions.0.reply", cost_usd="much"), "'cost_usd' has to be an amount"),
    "told": (broken("interactions.0", told=5), "interaction 1: 'told' has to be a string"),
    "error": (broken("interactions.0", {**FAILURE, "failure": {}}), "'error' is ''; it has to be one of ProviderError"),
    "wait": (
        broken("interactions.0", {**FAILURE, "failure": {"error": "RateLimited", "retry_after": -1}}),
        "'retry_after' has to be seconds",
    ),
    "price": (
        broken("interactions.0", {**FAILURE, "failure": {"error": "RateLimited", "cost_usd": "-1"}}),
        "'cost_usd' cannot be negative",
    ),
    "deep": ("[" * 100_000, "it is nested too deeply"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_hand_has_broken_is_refused_and_named(case: str, tmp_path: Path) -> None:
    text, expected = REFUSED[case]
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(CassetteError, match=re.escape(expected)) as caught:
        interactions.read(path)
    assert str(path) in str(caught.value)
    assert "record it anew with --llmcache-record=new" in str(caught.value)


def test_what_is_no_text_or_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.json"
    assert interactions.read(path) == []
    path.write_bytes(b'{"cassette": 1, "interactions": [], "caf\xe9": 1}')
    with pytest.raises(CassetteError, match="not UTF-8 at byte 40"):
        interactions.read(path)
    path.write_bytes(b"\xef\xbb\xbf" + interactions.rendered([example()]).encode())
    assert interactions.read(path) == [example()]
    monkeypatch.setattr(interactions, "MAX_BYTES", 100)
    with pytest.raises(CassetteError, match="more than 100 bytes"):
        interactions.read(path)
    before = path.read_bytes()
    with pytest.raises(CassetteError, match="and 100 can be read"):
        interactions.write(path, [example()])
    assert path.read_bytes() == before
    with pytest.raises(CassetteError, match=r"cannot be read \(Is a directory\)"):
        interactions.read(tmp_path)
    with pytest.raises(CassetteError, match="cannot be written"), interactions.locked(path / "inner.json"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["mine.json"]


def test_the_least_that_can_be_written_by_hand() -> None:
    (made,) = interactions.parsed(
        '{"cassette": 1, "interactions": [{"request": {"model": "openai/x"}, "reply": {"answer": {"a": 1.50}}}]}'
    )
    assert made.reply == Reply('{"a":1.50}', "stop", False, None, None, None, b"")
    (made,) = interactions.parsed(
        '{"cassette": 1, "interactions": [{"request": {"model": "openai/x"}, "failure": {"error": "RateLimited"}}]}'
    )
    assert isinstance(made.reply, Failure)
    assert (made.reply.retry, made.reply.cost_usd, made.reply.error.status) == (True, Decimal(0), 429)


PNG = b"\x89PNG" + bytes(range(256)) * 4
SIZES = "1028 bytes, sha256 "


def test_images_and_files_are_told_by_size_and_digest() -> None:
    import base64
    import hashlib

    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    body = {
        "model": "x",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
        "bare": base64.b64encode(PNG).decode(),
        "not": ["data:image/png;base64,???", "A" * 1023, "word " * 500, "data:text/plain,hello"],
        "user": "u-17",
        "metadata": {"who": "Ada"},
        "store": True,
    }
    made = requests.recorded("openai/x", body, str)
    digest = hashlib.sha256(PNG).hexdigest()
    assert made["messages"][0]["content"][0]["image_url"]["url"] == f"data:image/png;base64,[{SIZES}{digest}]"
    assert made["bare"] == f"[{SIZES}{digest}]"
    assert made["not"] == body["not"]
    assert set(made) == {"model", "messages", "bare", "not"}
    other = json.loads(json.dumps(body).replace(url[-8:], url[-8:].swapcase()))
    assert requests.identity(requests.recorded("openai/x", other, str)) != requests.identity(made)


def test_equal_requests_are_equal_in_whatever_order_and_numbers_stay_apart() -> None:
    one = requests.recorded("a/x", {"temperature": 1, "messages": [], "seed": 5}, str)
    other = requests.recorded("a/x", {"seed": 5, "messages": [], "temperature": 1}, str)
    assert requests.identity(one) == requests.identity(other)
    assert list(one) == ["model", "temperature", "messages", "seed"]
    assert requests.identity(one) != requests.identity({**one, "temperature": True})
    assert requests.identity(one) != requests.identity({**one, "model": "b/x"})


def numbered(text: str, number: int, moment: str = "") -> Interaction:
    rest = json.dumps({"id": moment, "created": len(moment), "choices": []}).encode()
    reply = Reply(json.dumps({"n": number}), "stop", False, "m", None, f"req{moment}", rest)
    return Interaction({"model": "a/x", "text": text}, reply)


def shape(made: list[Interaction]) -> list[tuple[str, Any]]:
    return [
        (each.request["text"], json.loads(each.reply.answer or "")["n"])
        for each in made
        if isinstance(each.reply, Reply)
    ]


def test_what_is_recorded_anew_takes_the_place_of_what_was_there() -> None:
    old = [numbered("a", 1, "before"), numbered("b", 1), numbered("a", 2), numbered("c", 1)]
    new = [numbered("d", 1), numbered("a", 1, "later"), numbered("b", 5), numbered("d", 2)]
    made = merging.replaced(old, old, new, drops=True)
    assert shape(made) == [("a", 1), ("b", 5), ("d", 1), ("d", 2)]
    # The same answer at another moment is no diff.
    assert made[0] is old[0]
    kept = merging.replaced(old, old, new, drops=False)
    assert shape(kept) == [("a", 1), ("b", 5), ("a", 2), ("c", 1), ("d", 1), ("d", 2)]
    # Another process has written since: what it wrote is not this one's to drop.
    there = [*old, numbered("z", 1)]
    assert shape(merging.replaced(there, old, [], drops=True)) == [("z", 1)]


def test_what_another_process_has_recorded_meanwhile_is_not_recorded_twice() -> None:
    loaded = [numbered("a", 1)]
    there = [*loaded, numbered("b", 1), numbered("a", 2)]
    new = [numbered("b", 7), numbered("c", 1), numbered("b", 8), numbered("a", 7)]
    assert shape(merging.appended(there, loaded, new)) == [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 8)]


def test_each_test_has_a_file_that_every_system_takes() -> None:
    file = Path("/p/test_inbox.py")
    folder = Path("/p/cassettes/test_inbox")
    assert places.of_test(file, ["TestIt", "test_a[x-1.5]"]) == folder / "TestIt.test_a[x-1.5].json"
    names = ["test_a[a/b]", "test_a[a:b]", "test_a[../../x]", "test_a[ä]", "test_a[" + "x" * 300 + "]", "test_a[a b]"]
    made = [places.of_test(file, [name]) for name in names]
    assert len(set(made)) == len(names)
    for path in made:
        assert path.parent == folder
        assert len(path.name) < 130
        assert re.fullmatch(r"[A-Za-z0-9_.\-\[\]]+\.json", path.name)
    assert places.named("route", file) == Path("/p/cassettes/route.json")
    assert places.named("mail/route.json", file) == Path("/p/cassettes/mail/route.json")
    assert places.named("v1.5", file) == Path("/p/cassettes/v1.5.json")
    assert places.named("/tmp/x.json", file) == Path("/tmp/x.json")
    with pytest.raises(CassetteError, match="name is empty"):
        places.named("", file)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv(modes.VARIABLE, raising=False)
    return monkeypatch


def test_nothing_is_recorded_unless_it_is_said_and_never_in_ci(variables: pytest.MonkeyPatch) -> None:
    assert modes.mode_of(None) == "none"
    variables.setenv(modes.VARIABLE, "new")
    assert (modes.mode_of(None), modes.mode_of("all"), modes.mode_of("none")) == ("new", "all", "none")
    for off in ("", "false", "0"):
        variables.setenv("CI", off)
        assert modes.mode_of(None) == "new"
    variables.setenv("CI", "true")
    assert modes.mode_of("none") == "none"
    with pytest.raises(CassetteError, match=r"LLMCACHE_RECORD .* is 'new', and the variable CI is set"):
        modes.mode_of(None)
    with pytest.raises(CassetteError, match="record= is 'all', and the variable CI is set"):
        modes.mode_of("all")
    variables.setenv(modes.VARIABLE, "tests/")
    with pytest.raises(CassetteError, match="is 'tests/'; write 'none', 'new' or 'all'"):
        modes.mode_of(None)
    variables.setenv(modes.VARIABLE, "")
    assert modes.mode_of(None) == "none"


def test_a_failure_is_worth_recording_when_it_is_about_the_request() -> None:
    def failure(error: ProviderError, **facts: Any) -> Failure:
        return Failure(error, Decimal(0), in_doubt=False, retry=facts.get("retry", False))

    assert replies.is_worth_recording(failure(ProviderError("x", status=400)))
    assert replies.is_worth_recording(failure(ProviderError("x", code="reply_too_large")))
    assert not replies.is_worth_recording(failure(ProviderError("x")))
    assert not replies.is_worth_recording(failure(ProviderError("x", status=409), retry=True))
    for kind in KINDS[1:]:
        assert not replies.is_worth_recording(failure(kind("x", status=418)))


def test_what_is_beside_an_answer_is_cleaned_as_it_is() -> None:
    rest = b'{"id":"chatcmpl-1","choices":[{"message":{"content":null,"refusal":"Not with sk-1"}}]}'
    reply = Reply('{"a": "sk-1", "n": 1.50}', "stop", False, "m", None, None, rest)
    made = replies.cleaned(reply, lambda text: text.replace("sk-1", "…"))
    assert isinstance(made, Reply)
    assert made.answer == '{"a": "…", "n": 1.50}'
    assert json.loads(made.rest)["choices"] == [{"message": {"content": None, "refusal": "Not with …"}}]
    failure = Failure(ProviderError("of sk-1", status=400), Decimal(0), in_doubt=False, retry=False)
    made = replies.cleaned(failure, lambda text: text.replace("sk-1", "…"))
    assert isinstance(made, Failure)
    assert (made.error.message, made.error.status) == ("of …", 400)


CLEANED = {
    "in its layout": ('{"a": "Müller"}', '{"a": "M."}'),
    "an escape": (r'{"a": "M\u00fcller", "n": 1.50}', '{"a":"M.","n":1.50}'),
    "an escaped pair": (r'["\ud83d\udd11"]', '["[key]"]'),
    "a name": (r'{"M\u00fcller":1,"b":2}', '{"M.":1,"b":2}'),
    "a name in its layout": ('{\n  "of Müller": 1\n}', '{\n  "of M.": 1\n}'),
    "a layout of its own": ('{ "a" :"Müller"}', '{"a":"M."}'),
    "nothing to clean": (r'{ "a" :"\u00e9"}', r'{ "a" :"\u00e9"}'),
    "a string": (r'"M\u00fcller"', '"M."'),
    "no JSON": (r'```{"a": "M\u00fcller \u00e9"}```', '```{"a": "M. é"}```'),
    "no JSON, nothing to clean": (r'{"a": "\u00e9', r'{"a": "\u00e9'),
}


@pytest.mark.parametrize("case", CLEANED)
def test_a_text_is_cleaned_however_it_is_written(case: str) -> None:
    text, expected = CLEANED[case]

    def clean(each: str) -> str:
        return each.replace("Müller", "M.").replace("🔑", "[key]")

    reply = replies.cleaned(Reply(text, "stop", False, "m", None, None, b"{}"), clean)
    assert isinstance(reply, Reply)
    assert reply.answer == expected
    # In a question asked again the answer is a part of the request.
    body = {"messages": [{"role": "assistant", "content": text}], "note": {"Müller": 1}}
    made = requests.recorded("a/x", body, clean)
    assert made["messages"][0]["content"] == expected
    assert made["note"] == {"M.": 1}
    # What is played is asked about again in the same words.
    assert cleaning.cleaned_text(expected, clean) == expected


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(CassetteError, match="Two names of one object are the same when they are cleaned"):
        cleaning.cleaned_text('{"ada@a.org":1,"bob@a.org":2}', lambda text: re.sub(r"[a-z]+@a.org", "[mail]", text))


def test_what_is_beside_an_answer_says_nothing_of_who_asked() -> None:
    """Whichever face: entries that an older version has kept may still have it."""
    rest = b'{"id":"1","user":"ada","metadata":{"of":"ada"},"trace":7,"raw":{"user":"ada","trace":7,"own":7}}'
    reply = Reply("{}", "stop", False, "m", None, None, rest)
    made = replies.cleaned(reply, str, {"trace": 7, "own": 8})
    assert isinstance(made, Reply)
    assert json.loads(made.rest) == {"id": "1", "raw": {"own": 7}}


def test_keys_in_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_API_KEY", "sk-theirs-123")
    monkeypatch.setenv("SHORT_API_KEY", "key")
    clean = cleaning.cleaner(conf.current(), None)
    assert clean("the key sk-theirs-123") == "the key [API key]"


def test_writing_leaves_no_trace_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "mine.json"
    with interactions.locked(path):
        interactions.write(path, [example()])
        folder = os.open(path.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            # As another process would, which is to wait.
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
    assert interactions.read(path) == [example()]
    assert list(path.parent.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    interactions.write(path, [])
    assert list(path.parent.iterdir()) == []
