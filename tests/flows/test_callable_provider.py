"""A function of the project's in the place of a server: asked, bounded, charged and kept as a server is."""

import asyncio
import functools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from decimal import Decimal
from functools import wraps
from typing import Any

import pytest
from pydantic import BaseModel

import llmcache
from llmcache import corrections, rewriting
from llmcache.checks import check_llmcache
from llmcache.diagnosis import outside
from llmcache.engine import process
from llmcache.exceptions import LLMCacheError
from llmcache.models import CacheEntry, ProviderCall
from llmcache.money.usage import Usage, told_usage
from llmcache.providers import callable_waits
from llmcache.providers.callables import Answer, Request
from llmcache.testing import Fake
from llmcache.workers import Workers
from tests.conftest import JournalReader, MovedClock, llmcache_settings

HERE = __name__
LOCAL = {"base_url": "http://localhost"}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


ADA = '{ "name": "Ada",  "age": 36 }'
"""With spaces that no dump would write: what is kept is what was answered."""

asked: list[Request] = []
threads: list[str] = []
caller: ContextVar[str] = ContextVar("caller", default="nobody")
seen: list[str] = []
tell: Callable[[Request], Any] = lambda _: ADA  # noqa: E731  # replaced by tests
tell_later: Callable[[Request], Any] | None = None


def _note(request: Request) -> None:
    asked.append(request)
    threads.append(threading.current_thread().name)
    seen.append(caller.get())


def ask(request: Request) -> Any:
    """Answer as the test says."""
    _note(request)
    return tell(request)


async def aask(request: Request) -> Any:
    """Answer as the test says, in a loop."""
    _note(request)
    await asyncio.sleep(0)
    return await tell_later(request) if tell_later is not None else tell(request)


class Asker:
    """An object that can be asked."""

    def ask(self, request: Request) -> str:
        """Answer always the same."""
        return ADA

    def __call__(self, request: Request) -> str:
        return ADA


asker = Asker()


@pytest.fixture(autouse=True)
def mine() -> Iterator[None]:
    """Settings that name the function, and nothing asked yet."""
    global tell, tell_later
    asked.clear()
    threads.clear()
    seen.clear()
    tell, tell_later = (lambda _: ADA), None
    with provided(call=f"{HERE}.ask"):
        yield


def provided(*, kinds: Any = None, **options: Any) -> Any:
    """Return settings whose provider ``mine`` has these options."""
    return llmcache_settings(
        KINDS=kinds or {},
        PROVIDERS={"mine": {**LOCAL, **options}},
        MODEL="mine/small",
        PRICES={"mine/small": {"input": "2", "output": "3"}},
    )


def answering(answer: Any) -> None:
    """Let the function answer so from now on; an error is raised."""
    global tell

    def told(_: Request) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    tell = told


@pytest.mark.django_db
def test_a_function_is_asked_once(journal: JournalReader) -> None:
    answering(Answer(ADA, usage=Usage(100, 0, 10), model="small-2", request_id="7", raw={"id": [1, None]}))
    person, answer = llmcache.extract_with_completion("Ada is 36", Person, system="Read.", top_k=[1], user="u")
    found = llmcache.extract_with_info("Ada is 36", Person, system="Read.", top_k=[1], user="v")
    assert (person, found.value, found.outcome, len(asked)) == (Person(name="Ada", age=36), person, "hit", 1)
    # The answer is what the function has said, to the byte, and what else it told comes back with it.
    assert (
        answer
        == found.completion
        == Answer(ADA, usage=Usage(100, 0, 10), model="small-2", request_id="7", raw={"id": [1, None]})
    )
    (request,) = asked
    assert (request.model, request.system, request.content) == ("small", "Read.", "Ada is 36")
    assert request.messages == [{"role": "system", "content": "Read."}, {"role": "user", "content": "Ada is 36"}]
    assert (request.response_model, request.schema_name) == (Person, "Person")
    assert (request.is_strict, request.is_wrapped) == (True, False)
    assert list(request.schema["properties"]) == ["name", "age"]
    assert (request.params, 59 < request.timeout <= 60) == ({"top_k": [1], "user": "u"}, True)
    assert "Ada" not in repr(request) + repr(answer)
    # By the project's price, in the ledger as any other.
    assert found.cost_avoided_usd == Decimal("0.00023")
    assert llmcache.flush()
    row = ProviderCall.objects.get()
    assert (str(row.call_id), row.answered_model, row.cost_pico_usd) == (request.call_id, "small-2", 230_000_000)
    assert (row.input_tokens, row.output_tokens, row.price_source) == (100, 10, "settings")
    assert "Ada is 36" not in journal.text()


def test_costs_that_it_tells_and_those_that_nobody_does() -> None:
    def cost(answer: Any) -> Any:
        answering(answer)
        return llmcache.extract_with_info("x", Person, cache="bypass").cost_incurred_usd

    assert cost(Answer(ADA, usage=Usage(1, 0, 1), cost_usd=Decimal("0.25"))) == Decimal("0.25")
    assert cost(Answer(ADA, cost_usd=Decimal(0))) == 0
    assert cost(Answer(ADA, usage=told_usage({"prompt_tokens": 10, "completion_tokens": 1}))) == Decimal("23e-6")
    assert cost(Answer(ADA, usage=told_usage({"prompt_tokens": -1}))) is None
    assert cost(ADA) is None
    # By the book where it says whom it asks.
    answering(Answer(ADA, usage=Usage(1_000_000, 0, 0)))
    told = {"call": f"{HERE}.ask", "base_url": "https://api.openai.com/v1"}
    with llmcache_settings(PROVIDERS={"mine": told}, MODEL="mine/gpt-5-mini", ALLOW_PROVIDER_CALLS=True):
        assert (llmcache.extract_with_info("x", Person).cost_incurred_usd or 0) > 0


def test_every_door_asks_either_function() -> None:
    async def awaited() -> list[Any]:
        return [
            await llmcache.aextract("a", Person),
            await llmcache.aextract_with_completion("b", Person),
            [value async for value in llmcache.aextract_partial("c", Person)][-1],
            list(await llmcache.aextract_many(["d", "e"], Person)),
        ]

    def plain() -> list[Any]:
        return [
            llmcache.extract("a", Person),
            llmcache.extract_with_completion("b", Person),
            list(llmcache.extract_partial("c", Person))[-1],
            list(llmcache.extract_many(["d", "e"], Person)),
        ]

    person = Person(name="Ada", age=36)
    wanted = [person, (person, Answer(ADA)), person, [person, person]]
    caller.set("me")
    own = threading.current_thread().name
    ways = {"call": {"call": ask}, "acall": {"acall": aask}, "both": {"call": ask, "acall": aask}}
    for name, options in ways.items():
        for run in (plain, lambda: asyncio.run(awaited())):
            threads.clear()
            with provided(**options, identity=f"{name} {run is plain}"):
                assert run() == wanted
            assert len(threads) == 5
            if run is plain and name == "call":
                # But for streams and batches, which have threads of their own.
                assert threads[:2] == [own, own]
            elif run is plain and name == "both":
                assert (threads[:2], threads[2]) == ([own, own], "llmcache-loop")
            elif name == "call":
                assert all(each.startswith("llmcache-callables") for each in threads)
            else:
                assert set(threads) == {"llmcache-loop"}
    assert set(seen) == {"me"}


def test_an_extractor_has_every_door() -> None:
    global tell
    tell = lambda request: f'{{"value": [{ADA}]}}' if request.is_wrapped else ADA  # noqa: E731
    doors = sorted(name for name in llmcache.__all__ if re.match(r"a?(extract|explain)|as_completed", name))
    assert len(doors) >= 15
    bound = llmcache.Extractor(system="Read.", seed=1)
    for number, name in enumerate(doors):
        asked.clear()
        content: Any = [f"text {number}"] if "many" in name or "completed" in name else f"text {number}"
        more = {"samples": 1} if "samples" in name else {}
        found = getattr(bound, name)(content, Person, **more)
        if name.startswith("a"):
            found = asyncio.run(_all_of(found))
        elif hasattr(found, "__next__"):
            found = list(found)
        wanted = [] if "explain" in name else [("Read.", {"seed": 1})]
        assert [(each.system, each.params) for each in asked] == wanted, name


async def _all_of(found: Any) -> Any:
    return [each async for each in found] if hasattr(found, "__aiter__") else await found


def test_a_stream_has_the_values_that_it_has_from_a_server() -> None:
    partials = list(llmcache.extract_partial("a", Person))
    assert partials[-1] == Person(name="Ada", age=36)
    assert ("Ada", None) in [(value.name, value.age) for value in partials[:-1]]
    assert list(llmcache.extract_partial("a", Person)) == partials
    assert (llmcache.extract_with_info("a", Person).outcome, len(asked)) == ("hit", 1)


SECRET = "the text itself"
RAISED: list[tuple[BaseException, type[LLMCacheError], Any, int]] = [
    # What is raised, what becomes of it, what it has cost, how often it is asked.
    (KeyError(SECRET), llmcache.ProviderError, None, 1),
    (llmcache.ProviderError(SECRET), llmcache.ProviderError, None, 1),
    (llmcache.ProviderError(SECRET, status=400), llmcache.ProviderError, 0, 1),
    (llmcache.ProviderError(SECRET, status=503), llmcache.ProviderError, 0, 3),
    (llmcache.ProviderUnavailable(SECRET), llmcache.ProviderUnavailable, None, 3),
    (llmcache.RateLimited(SECRET, retry_after=0), llmcache.RateLimited, 0, 3),
    (llmcache.AuthenticationFailed(SECRET), llmcache.AuthenticationFailed, 0, 1),
    (TimeoutError(SECRET), llmcache.ProviderTimeout, None, 1),
    (llmcache.NotCached(SECRET), llmcache.ProviderError, None, 1),
    # Nobody has cancelled the call: it is an error like others.
    (asyncio.CancelledError(SECRET), llmcache.ProviderError, None, 1),
    # What was done, somebody charges for.
    (llmcache.ProviderError(SECRET, status=200), llmcache.ProviderError, None, 1),
    # Details that nobody has checked.
    (llmcache.ProviderError(SECRET, status="503"), llmcache.ProviderError, None, 1),
    (llmcache.ProviderError(SECRET, status=10**30, request_id=7), llmcache.ProviderError, None, 1),
    (llmcache.RateLimited(SECRET, retry_after=-1), llmcache.RateLimited, 0, 3),
    (llmcache.RateLimited(SECRET, retry_after="soon"), llmcache.RateLimited, 0, 3),
    (llmcache.RateLimited(SECRET, retry_after=float("nan")), llmcache.RateLimited, 0, 3),
    (llmcache.RateLimited(SECRET, retry_after=10**400), llmcache.RateLimited, 0, 3),
]


@pytest.mark.parametrize("option", ["call", "acall"])
@pytest.mark.django_db
def test_what_it_raises(option: str, clock: MovedClock) -> None:
    with provided(**{option: ask if option == "call" else aask}), clock.kept():
        for number, (error, kind, cost, times) in enumerate(RAISED):
            asked.clear()
            answering(error)
            with pytest.raises(kind) as caught:
                llmcache.extract("x", Person, kind=f"kind {number}")
            found = caught.value
            assert (type(found), len(asked), found.attempts) == (kind, times, times)
            assert found.cost_usd == cost, error
            assert found.provider_error == type(error).__name__
            assert f" in {HERE}.{option.replace('call', 'ask')}, line " in str(found)
            assert SECRET not in str(found)
            assert (found.__cause__, found.__context__) == (None, None)
        assert llmcache.flush()
        for number, (_, _, cost, times) in enumerate(RAISED):
            rows = ProviderCall.objects.filter(kind=f"kind {number}")
            assert [row.cost_pico_usd for row in rows] == [cost] * times
            in_doubt = "in_doubt" if cost is None else "failed"
            assert {row.outcome for row in rows} == {in_doubt}


NO_ANSWERS = [None, {"name": "Ada"}, Person(name="Ada", age=1), b"{}"]


@pytest.mark.parametrize("answer", NO_ANSWERS, ids=lambda one: type(one).__name__)
def test_what_is_no_answer(answer: Any) -> None:
    answering(answer)
    for run in (llmcache.extract, lambda *args: asyncio.run(_awaited(*args))):
        with pytest.raises(llmcache.ProviderError, match=f"returned a {type(answer).__name__}") as caught:
            run("x", Person)
        assert (caught.value.code, caught.value.cost_usd) == ("invalid_response", None)


async def _awaited(*args: Any) -> Any:
    return await llmcache.aextract(*args)


def test_answers_that_cannot_be() -> None:
    dollars = [{"cost_usd": each} for each in (0.5, Decimal(-1), Decimal("nan"), Decimal(10_001))]
    tokens = [{"usage": each} for each in ({}, Usage(-1, 0, 0), Usage(1, 0, 2**60), Usage(1.5, 0, 0))]  # type: ignore[arg-type]
    others = ({"text": 5}, {"raw": object()}, {"raw": float("nan")}, {"model": 1}, {"is_refused": "no"})
    for wrong in (*dollars, *tokens, *others):
        with pytest.raises((TypeError, ValueError)):
            Answer(**{"text": ADA, **wrong})


@pytest.mark.parametrize("wrong", [{"cost_usd": 0.5}, {"usage": {}}, {"raw": object()}], ids=lambda wrong: min(wrong))
def test_an_answer_that_cannot_be_made_says_what_is_wrong_with_it(wrong: dict[str, Any]) -> None:
    def careless(request: Request) -> Answer:
        return Answer(SECRET, **wrong)

    says = rf"raised UnfitAnswerError in {HERE}\.careless, line \d+: Answer\({min(wrong)}=\) must be "
    with provided(call=careless, identity="careless"), pytest.raises(llmcache.ProviderError, match=says) as caught:
        llmcache.extract("x", Person)
    assert SECRET not in str(caught.value)


def test_answers_that_are_not_kept() -> None:
    answering(Answer(None, is_refused=True))
    with pytest.raises(llmcache.Refused):
        llmcache.extract("x", Person)
    answering(Answer(ADA[:9], finish_reason="length"))
    with pytest.raises(llmcache.Truncated):
        llmcache.extract("x", Person)
    for reason in ("max_tokens", "MAX_TOKENS", "max_output_tokens"):
        answering(Answer(ADA, finish_reason=reason))
        with pytest.raises(llmcache.Truncated):
            llmcache.extract("x", Person)
    answering(Answer(ADA, finish_reason="content_filter"))
    with pytest.raises(llmcache.Refused):
        llmcache.extract("x", Person)
    answering(Answer(ADA, finish_reason="STOP"))
    assert llmcache.extract("x", Person).age == 36


@pytest.mark.django_db
def test_what_an_answer_has_cost_that_cannot_be_kept() -> None:
    raw: dict[str, Any] = {}
    changed = Answer(ADA, cost_usd=Decimal("0.25"), raw=raw)
    raw["id"] = object()
    cases: list[tuple[Answer, str, Decimal | None]] = [
        (changed, "invalid_response", Decimal("0.25")),
        (Answer(ADA, raw="x" * 3_000), "reply_too_large", None),
        (Answer("é" * 1_500, cost_usd=Decimal("0.25")), "reply_too_large", Decimal("0.25")),
        (Answer("x" * 3_000, usage=Usage(100, 0, 10)), "reply_too_large", Decimal("0.00023")),
        (Answer("\ud800" * 800, cost_usd=Decimal(0)), "reply_too_large", Decimal(0)),
    ]
    with llmcache_settings(MAX_VALUE_BYTES=2_000):
        for number, (answer, code, cost) in enumerate(cases):
            answering(answer)
            with pytest.raises(llmcache.ProviderError) as caught:
                llmcache.extract("x", Person, kind=f"kind {number}")
            assert (caught.value.code, caught.value.cost_usd) == (code, cost)
            assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        assert llmcache.flush()
    for number, (answer, _, cost) in enumerate(cases):
        row = ProviderCall.objects.get(kind=f"kind {number}")
        assert (row.cost_usd, row.outcome) == (cost, "in_doubt" if cost is None else "failed")
        assert row.output_tokens == (answer.usage and answer.usage.output_tokens)


def test_a_refresh_that_its_function_breaks_off_has_failed(clock: MovedClock) -> None:
    with provided(acall=aask), clock.kept():
        for error in (asyncio.CancelledError(), SystemExit(1)):
            answering(ADA)
            given: dict[str, Any] = {"kind": type(error).__name__, "ttl": 1, "stale_ttl": 1_000}
            llmcache.extract("x", Person, **given)
            asked.clear()
            answering(error)
            clock.move(2)
            for _ in range(3):
                assert llmcache.extract_with_info("x", Person, **given).outcome == "stale"
                assert process.current().refreshes.wait(30)
            # Nobody asks anew at once after a failure.
            assert len(asked) == 1, error


def test_an_answer_that_does_not_pass_is_asked_for_again() -> None:
    global tell
    given, notes = iter(["no JSON", '{"name": "Ada"}', ADA]), list[int]()

    def hostile(request: Request) -> str:
        notes.append(len(request.messages))
        for each in (request.messages, request.schema, request.params):
            each.clear()
        return next(given)

    tell = hostile
    found = llmcache.extract_with_info("x", Person, max_reasks=2)
    # What it does to its request is its own affair: the next one is whole.
    assert (found.value.age, found.attempts, notes) == (36, 3, [1, 3, 5])


def test_a_deadline_ends_what_is_awaited() -> None:
    global tell, tell_later
    ended: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    async def long(_: Request) -> str:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return ADA

    tell_later = long
    for number, run in enumerate((llmcache.extract, lambda *args, **given: asyncio.run(_with(*args, **given)))):
        with provided(acall=aask):
            _out_of_time(run, number + 1)
        # It has ended before its caller is told.
        assert ended == ["cancelled"] * (number + 1)

    def held(_: Request) -> str:
        began.set()
        assert go_on.wait(30)
        return ADA

    tell = held
    _out_of_time(lambda *args, **given: asyncio.run(_with(*args, **given)), 3)
    # The thread goes on with what nobody can interrupt; who waits has been told.
    assert began.is_set()
    go_on.set()


def test_what_has_not_begun_when_its_time_is_over_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callable_waits, "_threads", Workers("llmcache-callables", 1))
    began, go_on = threading.Event(), threading.Event()

    def held(_: Request) -> str:
        began.set()
        assert go_on.wait(30)
        return ADA

    async def main() -> Decimal | None:
        first = asyncio.create_task(_with("first", Person))
        await asyncio.to_thread(began.wait, 30)
        with pytest.raises(llmcache.ProviderTimeout) as caught:
            await _with("second", Person, timeout=1)
        go_on.set()
        await asyncio.gather(first, _with("third", Person))
        return caught.value.cost_usd

    global tell
    tell = held
    # The one thread was not free: nobody was asked, and nothing can have been charged.
    assert (asyncio.run(main()), [each.content for each in asked]) == (0, ["first", "third"])


def _out_of_time(run: Callable[..., Any], times: int) -> None:
    """Fail unless a call ends for want of time once the function has been asked that often in all."""
    for timeout in (0.1, 1, 10):
        with pytest.raises(llmcache.ProviderTimeout) as caught:
            run("x", Person, timeout=timeout)
        # A machine that is slow may not have come to asking.
        assert (caught.value.cost_usd is None) == (len(asked) == times)
        if len(asked) == times:
            return
    raise AssertionError("the function was never asked")


async def _with(*args: Any, **given: Any) -> Any:
    return await llmcache.aextract(*args, **given)


def test_an_answer_that_comes_late_is_taken(clock: MovedClock) -> None:
    global tell
    with provided(call=f"{HERE}.ask"), clock.kept():

        def late(request: Request) -> str:
            clock.move(request.timeout + 1)
            return ADA

        tell = late
        assert llmcache.extract("x", Person, timeout=5).age == 36
        assert llmcache.extract_with_info("x", Person).outcome == "hit"


def test_who_is_who_in_keys() -> None:
    def key(**options: Any) -> str:
        with provided(**options):
            return llmcache.extract_with_info("x", Person).key

    first = key(call=f"{HERE}.ask")
    assert key(call=ask) == first
    assert key(call=ask, acall=aask) == first
    others = {key(acall=aask), key(call=ask, identity="a"), key(call=ask, identity="b"), key(call=f"{HERE}.asker")}
    assert len({first, *others}) == 5
    # What a module calls so is that, whatever it is made of.
    assert key(call=decorated) == key(call=f"{HERE}.decorated")
    with llmcache_settings(PROVIDERS={"mine": {"base_url": "http://localhost", "api_key": "k"}}, MODEL="mine/small"):
        assert llmcache.explain("x", Person).key not in {first, *others}


def wrapping(function: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Return a function that takes over another one's name."""

    @functools.wraps(function)
    def wrapper(request: Request) -> Any:
        return function(request)

    return wrapper


@wrapping
def decorated(request: Request) -> str:
    """Answer always the same."""
    return ADA


NAMELESS: dict[str, Callable[..., Any]] = {
    "wrapper": wrapping(ask),
    "lambda": lambda request: ADA,
    "partial": functools.partial(ask),
    "method": asker.ask,
    "object": asker,
}


@pytest.mark.parametrize("name", NAMELESS)
def test_a_function_without_a_name_needs_one(name: str) -> None:
    with provided(call=NAMELESS[name]):
        (problem,) = check_llmcache()
        assert (problem.id, "Add 'identity'" in problem.msg) == ("llmcache.E006", True)
        with pytest.raises(llmcache.ConfigurationError, match="Add 'identity'"):
            llmcache.extract("x", Person)
    with provided(call=NAMELESS[name], identity="one"):
        assert check_llmcache() == []
        assert llmcache.extract("x", Person).age == 36


def provided_by_two(request: Request, more: int) -> str:
    return ADA


async def aprovided_by_none() -> str:
    return ADA


def with_a_client(function: Any) -> Any:
    """Hand on what the project has only once, as a decorator does; its own signature is another."""

    @wraps(function)
    def handed(request: Request) -> str:
        return function(request, 1)

    return handed


@with_a_client
def provided_by_a_decorator(request: Request, more: int) -> str:
    return ADA


def test_a_decorator_may_hand_on_more_than_it_is_given() -> None:
    with provided(call=f"{HERE}.provided_by_a_decorator"):
        assert check_llmcache() == []
        assert llmcache.extract("x", Person).age == 36


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gone": ({"call": "nowhere.at.all"}, "cannot be imported: ModuleNotFoundError"),
    "no function": ({"call": f"{HERE}.ADA"}, "which cannot be called"),
    "async as plain": ({"call": f"{HERE}.aask"}, "Name it by 'acall'"),
    "plain as async": ({"acall": f"{HERE}.ask"}, "Name it by 'call'"),
    "two arguments": ({"call": f"{HERE}.provided_by_two"}, "with one argument, the request"),
    "no arguments": ({"acall": f"{HERE}.aprovided_by_none"}, "with one argument, the request"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_that_cannot_be_asked(name: str) -> None:
    options, says = REFUSED[name]
    with provided(**options):
        (problem,) = check_llmcache()
        assert (problem.id, says in problem.msg) == ("llmcache.E006", True)
        with pytest.raises(llmcache.ConfigurationError, match=says):
            llmcache.extract("x", Person)


def test_whom_it_asks_is_not_known() -> None:
    with provided(call=ask, base_url=None), pytest.raises(llmcache.ProviderCallsForbidden, match="http://localhost"):
        llmcache.extract("x", Person)
    with provided(call=ask, base_url="https://api.example.com"), pytest.raises(llmcache.ProviderCallsForbidden):
        llmcache.extract("x", Person)
    with provided(call=ask, base_url=None), llmcache_settings(ALLOW_PROVIDER_CALLS=True):
        assert llmcache.extract("x", Person).age == 36
    with provided(call=ask), llmcache_settings(ALLOW_PROVIDER_CALLS=False), pytest.raises(LLMCacheError):
        llmcache.extract("y", Person)
    assert len(asked) == 1


def test_the_doctor_does_not_call_it() -> None:
    now = process.current()
    (finding,) = outside.providers(now)["provider mine"](now)
    assert (finding.state, finding.told) == ("ok", "is a function of this project, and was not called")
    with provided(call=ask, base_url=None), llmcache_settings(ALLOW_PROVIDER_CALLS="loopback"):
        now = process.current()
        (finding,) = outside.providers(now)["provider mine"](now)
        assert (finding.state, finding.told[:35]) == ("note", "its function is not to be called he")
    assert asked == []


def test_parameters_that_no_provider_takes() -> None:
    for name in ("messages", "tools", "stream", "n", "response_format"):
        with pytest.raises(llmcache.InvalidRequest, match=f"{name}= cannot be passed"):
            llmcache.extract("x", Person, **{name: 1})
    assert asked == []


@pytest.mark.django_db
def test_what_is_kept_is_asked_anew_and_corrected() -> None:
    with provided(call=ask, kinds={"Person": {"type": f"{HERE}.Person"}}):
        llmcache.extract("x", Person, system="Read.", seed=1)
        assert llmcache.flush()
        row = CacheEntry.objects.get()
        answering('{"name": "Ada", "age": 40}')
        rewriting.refresh(row.key)
        assert llmcache.extract("x", Person, system="Read.", seed=1).age == 40
        assert asked[1].messages == asked[0].messages
        corrections.correct(row.key, '{"name": "Ada", "age": 41}')
        person, answer = llmcache.extract_with_completion("x", Person, system="Read.", seed=1)
        assert (person.age, answer) == (41, Answer('{"name": "Ada", "age": 41}', model="small"))
        assert len(asked) == 2
        with Fake() as fake:
            fake.answer(Person, Person(name="Eve", age=1))
            _, answer = llmcache.extract_with_completion("y", Person)
        assert json.loads(answer.text) == {"name": "Eve", "age": 1}
        assert answer.usage.output_tokens > 0
