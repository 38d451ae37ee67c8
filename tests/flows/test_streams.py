"""Streams: growing values and single items while an answer is written, from the provider and from the cache alike."""

import asyncio
import gc
import json
import random
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.models import ProviderCall
from llmcache.testing import Fake
from llmcache.testing.sandbox import Sandbox, faults
from llmcache.testing.sandbox.charges import INPUT_PICO_USD, OUTPUT_PICO_USD
from tests.conftest import JournalReader, MovedClock, llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.flows.test_flights import in_background, wait_until
from tests.gated import END, Gated, event, gated_provider


class Line(BaseModel):
    """A line of a recipe."""

    name: str
    amount: float


class Recipe(BaseModel):
    """A recipe."""

    title: str
    lines: list[Line]


SOUP = {
    "title": "A soup for many guests",
    "lines": [{"name": "big onion", "amount": 1.5}, {"name": "sel ñ", "amount": 2}],
}
LINES = [{"name": f"thing {number}", "amount": number} for number in range(4)]


@pytest.fixture(autouse=True)
def answers(sandbox: Sandbox) -> None:
    sandbox.answers.update({"soup": SOUP, "lines": LINES})


def test_values_grow_and_a_repeat_grows_in_the_same_way(sandbox: Sandbox) -> None:
    first = list(llmcache.extract_partial("soup", Recipe))
    assert first[-1] == Recipe.model_validate(SOUP)
    assert [value.title for value in first[:4]] == [None, "", "A ", "A soup "]
    assert len(first) > 10
    assert list(llmcache.extract_partial("soup", Recipe)) == first
    info = llmcache.extract_with_info("soup", Recipe)
    assert (info.outcome, info.value, sandbox.calls) == ("hit", first[-1], 1)
    assert info.completion.choices[0].message.content == json.dumps(SOUP, ensure_ascii=False, separators=(",", ":"))
    assert info.completion.usage.completion_tokens > 0
    assert sandbox.requests[0].body["stream_options"] == {"include_usage": True}


def test_an_answer_that_came_whole_yields_the_same(sandbox: Sandbox) -> None:
    whole = llmcache.extract("soup", Recipe)
    streamed = list(llmcache.extract_partial("soup", Recipe, version="2"))
    assert list(llmcache.extract_partial("soup", Recipe)) == streamed
    assert (streamed[-1], sandbox.calls) == (whole, 2)


def test_items_share_the_key_of_their_list(sandbox: Sandbox) -> None:
    items = list(llmcache.extract_iterable("lines", Line))
    assert items == [Line.model_validate(each) for each in LINES] == llmcache.extract("lines", list[Line])
    assert list(llmcache.extract_iterable("lines", Line)) == items
    assert sandbox.calls == 1


def test_awaited_it_is_the_same(sandbox: Sandbox) -> None:
    async def main() -> tuple[list[Any], ...]:
        return (
            [value async for value in llmcache.aextract_partial("soup", Recipe)],
            [item async for item in llmcache.aextract_iterable("lines", Line)],
            [value async for value in llmcache.aextract_partial("soup", Recipe)],
        )

    first, items, second = asyncio.run(main())
    assert first == second == list(llmcache.extract_partial("soup", Recipe))
    assert items == llmcache.extract("lines", list[Line])
    assert sandbox.calls == 2


def test_the_fake_streams_too(llmcache_fake: Fake) -> None:
    llmcache_fake.answer("Ada", {"title": "One two three", "lines": []})
    assert [value.title for value in llmcache.extract_partial("Ada", Recipe)][-2:] == ["One two three"] * 2
    assert len(llmcache_fake.calls) == 1


# -- while it is written


@pytest.fixture
def gated() -> Iterator[Gated]:
    with gated_provider() as provider:
        yield provider


def test_each_value_is_there_as_soon_as_the_provider_has_written_it(gated: Gated) -> None:
    gated.pieces = [event('{"title":"One '), event('two three",'), event('"lines":[]}'), *END]
    values = llmcache.extract_partial("text", Recipe)
    assert gated.received == 0
    gated.let()
    # Whether a word is whole is known by what comes after it.
    assert [next(values).title for _ in range(2)] == [None, ""]
    gated.let()
    assert [next(values).title for _ in range(3)] == ["One ", "One two ", "One two three"]
    # Nothing is kept before its end.
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("text", Recipe, cache="only")
    gated.let(3)
    assert list(values)[-1] == Recipe(title="One two three", lines=[])
    assert llmcache.extract("text", Recipe, cache="only").title == "One two three"


def test_each_item_is_there_as_soon_as_it_is_whole(gated: Gated) -> None:
    gated.pieces = [event('{"value":[{"name":"a","amount":1},'), event(' {"name":"b","amount":2}'), event("]}"), *END]
    items = llmcache.extract_iterable("text", Line)
    gated.let()
    assert next(items) == Line(name="a", amount=1)
    gated.let(4)
    assert list(items) == [Line(name="b", amount=2)]


WORDS = ["soup", "ñandú", "中文", 'a"b', "\u2028"]


def test_100_streams_cut_at_random_bytes_are_replayed_as_they_were(gated: Gated) -> None:
    chance = random.Random(20_261_122)
    for number in range(100):
        recipe = {
            "title": " ".join(chance.choice(WORDS) for _ in range(chance.randrange(9))),
            "lines": [{"name": f"n {n}", "amount": n / 4} for n in range(chance.randrange(4))],
        }  # fmt: skip
        text = json.dumps(recipe, ensure_ascii=chance.random() < 0.5)
        tokens = [text[at : at + 5] for at in range(0, len(text), 5)]
        stream = b"".join([*map(event, tokens), *END])
        ends = sorted(chance.randrange(1, len(stream)) for _ in range(chance.randrange(12)))
        gated.pieces = [
            stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True) if end > start
        ]
        gated.let(len(gated.pieces))
        live = list(llmcache.extract_partial(f"text {number}", Recipe))
        assert live[-1] == Recipe.model_validate(recipe)
        assert list(llmcache.extract_partial(f"text {number}", Recipe)) == live
    assert gated.received == 100


# -- who goes


def closed(values: Any) -> None:
    values.close()


def dropped(values: Any) -> None:
    del values
    gc.collect()


@pytest.mark.parametrize("leave", [closed, dropped])
def test_who_leaves_breaks_the_call_off_and_nothing_is_kept(
    leave: Callable[[Any], None], gated: Gated, journal: JournalReader
) -> None:
    gated.pieces = [event('{"title":"One '), *END]
    gated.let()

    def begin() -> Any:
        values = llmcache.extract_partial("text", Recipe)
        assert next(values).title is None
        return values

    if leave is closed:
        closed(begin())
    else:
        dropped(begin())
    wait_until(lambda: not process.current().flights._flights)
    wait_until(lambda: [record.event for record in journal.records()] == ["started", "failed"])
    assert journal.records()[1].facts == {"error": "interrupted", "cost": None, "in_doubt": True}
    gated.pieces = [event('{"title":"Other","lines":[]}'), *END]
    gated.let(6)
    assert list(llmcache.extract_partial("text", Recipe))[-1].title == "Other"
    assert gated.received == 2


def test_a_task_that_is_cancelled_breaks_the_call_off(gated: Gated) -> None:
    gated.pieces = [event('{"title":"One '), *END]

    async def main() -> None:
        seen = asyncio.Event()

        async def read() -> None:
            async for _ in llmcache.aextract_partial("text", Recipe):
                seen.set()

        task = asyncio.create_task(read())
        gated.let()
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: not process.current().flights._flights)
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("text", Recipe, cache="only")


def test_who_never_reads_asks_nobody(sandbox: Sandbox) -> None:
    values = llmcache.extract_partial("soup", Recipe)
    values.close()
    del values
    assert sandbox.received == 0


def test_a_stream_joins_a_call_that_is_under_way_and_is_joined(sandbox: Sandbox) -> None:
    def both(lead: Callable[[], Any], follow: Callable[[], Any]) -> list[Any]:
        sandbox.hold()
        threads = [in_background(lead)]
        sandbox.wait_until_received(sandbox.received + 1)
        threads.append(in_background(follow))
        wait_until(waited_for)
        sandbox.release()
        for thread, _ in threads:
            thread.join(10)
        return [found for _, (found,) in threads]

    def waited_for() -> bool:
        (flight,) = process.current().flights._flights.values()
        return bool(flight.watchers or flight.landed._cond._waiters)  # type: ignore[attr-defined]

    whole, values = both(
        lambda: llmcache.extract("soup", Recipe), lambda: list(llmcache.extract_partial("soup", Recipe))
    )
    assert values[-1] == whole
    assert values == list(llmcache.extract_partial("soup", Recipe))
    items, joined = both(
        lambda: list(llmcache.extract_iterable("lines", Line)), lambda: llmcache.extract("lines", list[Line])
    )
    assert items == joined
    assert sandbox.calls == 2


# -- what goes wrong


@pytest.mark.parametrize(
    ("fault", "code", "is_begun"),
    [
        (faults.refusal(), "refused", False),
        (faults.content_filter(), "refused", False),
        (faults.truncated(), "truncated", True),
        (faults.wrong_json(), "validation_failed", False),
        (faults.broken_json(), "validation_failed", True),
        (faults.fenced_json(), "validation_failed", False),
        (faults.reset_mid_body(), "provider_unavailable", True),
        (faults.empty_choices(), "invalid_response", False),
        (faults.garbage(), "provider_unavailable", False),
        (faults.unauthorized(), "authentication_failed", False),
    ],
    ids=lambda value: value.name if isinstance(value, faults.Fault) else None,
)
@pytest.mark.django_db
def test_what_fails_is_raised_in_its_place_and_not_kept(
    fault: faults.Fault, code: str, is_begun: bool, sandbox: Sandbox
) -> None:
    sandbox.fail(fault, times=None)
    seen: list[Recipe] = []
    with pytest.raises(llmcache.LLMCacheError) as raised:
        seen.extend(llmcache.extract_partial("soup", Recipe))
    assert (raised.value.code, raised.value.attempts) == (code, 1)
    values = llmcache.extract_partial("soup", Recipe)
    with pytest.raises(llmcache.LLMCacheError):
        seen.extend(values)
    assert any(value.title for value in seen) == is_begun
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("soup", Recipe, cache="only")
    llmcache.flush()
    calls = ProviderCall.objects.all()
    assert len(calls) == sandbox.received == 2
    # A stream that came to its end has told its usage.
    told = fault.name in ("refusal", "content_filter", "truncated", "wrong_json", "broken_json", "fenced_json")
    assert [call.output_tokens is not None for call in calls] == [told] * 2


def running(output: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 5, "completion_tokens": output, "total_tokens": 5 + output}}


BEGUN, MORE, OVER = '{"title":"One ', "two ", b'data: {"error": {"message": "over", "type": "server_error"}}\n\n'
BROKEN: dict[str, tuple[list[bytes], int | None]] = {
    "with each piece": ([event(BEGUN, **running(3)), event(MORE, **running(4))], 4),
    "at the end": ([event(BEGUN), event(MORE), event(finish="length"), event(choices=[], **running(9))], 9),
    "not of the last piece": ([event(BEGUN, **running(3)), event(MORE)], None),
    "of no output": ([event(BEGUN, **running(0)), event(MORE, **running(0))], None),
    "what cannot be": ([event(BEGUN), event(MORE, usage={"prompt_tokens": -1, "completion_tokens": 3})], None),
    "nothing": ([event(BEGUN), event(MORE)], None),
}


@pytest.mark.django_db
@pytest.mark.parametrize("leaves", [False, True], ids=["the provider ends it", "the reader goes"])
def test_what_a_stream_had_told_of_its_cost_is_known(leaves: bool, gated: Gated) -> None:
    """What was told of all that had come is what it cost; where nothing was, it is in doubt."""
    with llmcache_settings(PRICES=SANDBOX_PRICES):
        # A reader cannot know that the end has come before it is over.
        cases = {text: case for text, case in BROKEN.items() if not (leaves and text == "at the end")}
        for number, (text, (pieces, output)) in enumerate(cases.items(), 1):
            gated.pieces = [*pieces, b": nothing more\n\n" if leaves else OVER]
            values = llmcache.extract_partial(text, Recipe)
            gated.let(len(pieces))
            # The beginning of the title is known once there is more of it.
            assert [next(values).title for _ in range(3)] == [None, "", "One "]
            error = None
            if leaves:
                values.close()
            gated.let()
            if not leaves:
                with pytest.raises(llmcache.ProviderError) as raised:
                    list(values)
                error = raised.value
            wait_until(lambda: not process.current().flights._flights and gated.is_done)
            wait_until(lambda: llmcache.flush() and ProviderCall.objects.exclude(ended_at=None).count() == number)  # noqa: B023
            call = ProviderCall.objects.latest("started_at")
            assert (call.output_tokens, call.outcome) == (output, "failed" if output else "in_doubt"), text
            cost = None if output is None else Decimal(5 * INPUT_PICO_USD + output * OUTPUT_PICO_USD)
            assert call.cost_pico_usd == cost, text
            if error is not None:
                assert error.cost_usd == (cost and cost / 10**12), text
            with pytest.raises(llmcache.NotCached):
                llmcache.extract(text, Recipe, cache="only")
        stats, known = llmcache.stats(), sum(output is not None for _, output in cases.values())
        assert (stats.calls, stats.calls_in_doubt, stats.calls_unpriced) == (len(cases), len(cases) - known, 0)
        assert gated.received == len(cases)


def test_what_fails_before_its_first_piece_is_tried_again(sandbox: Sandbox) -> None:
    sandbox.fail(faults.server_error(503))
    assert list(llmcache.extract_partial("soup", Recipe))[-1].title == SOUP["title"]
    assert sandbox.received == 2


@pytest.mark.django_db
def test_a_stream_without_usage_has_no_known_cost(sandbox: Sandbox) -> None:
    sandbox.fail(faults.missing_usage())
    assert list(llmcache.extract_iterable("lines", Line))[-1].name == "thing 3"
    llmcache.flush()
    call = ProviderCall.objects.get()
    assert (call.outcome, call.cost_pico_usd, call.output_tokens) == ("answered", None, None)
    assert llmcache.extract_with_info("lines", list[Line]).cost_avoided_usd is None


def test_the_third_item_is_not_valid(sandbox: Sandbox) -> None:
    sandbox.answers["lines"] = [*LINES[:2], {"name": "bad", "amount": "much"}, LINES[3]]
    items = llmcache.extract_iterable("lines", Line)
    assert [next(items).name, next(items).name] == ["thing 0", "thing 1"]
    with pytest.raises(llmcache.ValidationFailed) as raised:
        next(items)
    assert raised.value.errors[0]["loc"] == ("value", 2, "amount")
    assert sandbox.calls == 1
    with pytest.raises(llmcache.NotCached):
        llmcache.extract("lines", list[Line], cache="only")


def test_an_error_in_the_midst_of_a_stream(gated: Gated) -> None:
    gated.pieces = [event('{"title":"One two'), b'data: {"error": {"message": "over", "type": "server_error"}}\n\n']
    gated.let(2)
    values = llmcache.extract_partial("text", Recipe)
    assert next(values).title is None
    with pytest.raises(llmcache.ProviderError):
        list(values)
    assert gated.received == 1


def test_no_piece_after_the_deadline(gated: Gated) -> None:
    gated.pieces = [event('{"title":"One two'), *END]
    gated.let()
    values = llmcache.extract_partial("text", Recipe, timeout=0.4, max_retries=0)
    assert next(values).title is None
    with pytest.raises(llmcache.ProviderTimeout):
        list(values)


def test_a_reply_that_is_too_long(sandbox: Sandbox) -> None:
    sandbox.fail(faults.huge(200_000))
    with llmcache_settings(MAX_VALUE_BYTES=50_000), pytest.raises(llmcache.ProviderError) as raised:
        list(llmcache.extract_partial("soup", Recipe))
    assert raised.value.code == "reply_too_large"


# -- how it is called

_who: ContextVar[str] = ContextVar("who", default="nobody")


def test_tenant_and_context_are_those_of_the_call(sandbox: Sandbox) -> None:
    with llmcache_settings(TENANT=_who.get):
        _who.set("acme")
        values, items = llmcache.extract_partial("soup", Recipe), llmcache.aextract_iterable("lines", Line)
        _who.set("globex")
        assert list(values)[-1].title == SOUP["title"]

        async def rest() -> list[Line]:
            return [item async for item in items]

        assert len(asyncio.run(rest())) == 4
        for tenant, outcome in (("acme", "hit"), ("globex", "miss")):
            assert llmcache.extract_with_info("soup", Recipe, tenant=tenant).outcome == outcome
            assert llmcache.extract_with_info("lines", list[Line], tenant=tenant).outcome == outcome


def test_what_it_takes(sandbox: Sandbox) -> None:
    with pytest.raises(llmcache.InvalidRequest, match="max_reasks"):
        llmcache.extract_partial("soup", Recipe, max_reasks=1)
    with pytest.raises(llmcache.InvalidRequest, match="ttl"):
        list(llmcache.extract_partial("soup", Recipe, ttll=1))
    with pytest.raises(llmcache.UnsupportedType):
        list(llmcache.extract_iterable("soup", "Line"))
    with pytest.raises(llmcache.InvalidRequest):
        list(llmcache.extract_partial("", Recipe))
    with pytest.raises(llmcache.NotCached):
        list(llmcache.extract_partial("soup", Recipe, cache="only"))
    assert sandbox.received == 0
    acme = llmcache.Extractor(tenant="acme", max_reasks=3)
    assert list(acme.extract_partial("soup", Recipe, ttl=0))[-1] == list(acme.extract_partial("soup", Recipe))[-1]
    assert list(acme.extract_partial("soup", Recipe, cache="refresh"))[-1].title == SOUP["title"]
    assert sandbox.calls == 3

    async def main() -> None:
        with pytest.raises(llmcache.AsyncContext, match="aextract_iterable"):
            llmcache.extract_iterable("soup", Line)

    asyncio.run(main())


def test_a_stale_answer_is_replayed_while_it_is_asked_for_anew(sandbox: Sandbox, clock: MovedClock) -> None:
    first = list(llmcache.extract_partial("soup", Recipe, ttl=60, stale_ttl=600))
    clock.move(120)
    assert list(llmcache.extract_partial("soup", Recipe, ttl=60, stale_ttl=600)) == first
    wait_until(lambda: sandbox.calls == 2)
    # Nobody reads that one piece by piece.
    assert [request.body.get("stream", False) for request in sandbox.requests] == [True, False]
