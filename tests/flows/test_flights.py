"""One call per key at a time, however many threads ask."""

import functools
import itertools
import linecache
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

import llmcache
from llmcache.engine import policy, process
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader


class Person(BaseModel):
    """A person."""

    name: str
    tags: list[str] = []


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until a condition holds; a deadline, not a pause."""
    over = threading.Event()
    for _ in range(int(seconds * 200)):
        if condition():
            return
        over.wait(0.005)
    raise AssertionError("the condition did not come to hold")


def together(number: int, work: Callable[[], Any]) -> list[Any]:
    """Return what each of many threads returned or raised."""

    def turn(_: int) -> Any:
        try:
            return work()
        except llmcache.LLMCacheError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(turn, range(number)))


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run work in a thread; the list gets what it returned or raised."""
    found: list[Any] = []

    def turn() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001  # whatever ends it is what the test looks at
            found.append(error)

    thread = threading.Thread(target=turn)
    thread.start()
    return thread, found


def test_64_threads_on_a_cold_key_make_one_call(sandbox: Sandbox, journal: JournalReader) -> None:
    sandbox.answers["Ada"] = {"name": "Ada", "tags": ["first"]}
    sandbox.hold()
    threads = [in_background(lambda: llmcache.extract_with_info("Ada", Person)) for _ in range(64)]
    sandbox.wait_until_received(1)
    sandbox.release()
    for thread, _ in threads:
        thread.join()
    infos = [found[0] for _, found in threads]
    assert (sandbox.received, sandbox.calls) == (1, 1)
    assert [info.value for info in infos] == [Person(name="Ada", tags=["first"])] * 64
    assert len({id(info.value) for info in infos}) == len({id(info.value.tags) for info in infos}) == 64
    outcomes = [info.outcome for info in infos]
    assert outcomes.count("miss") == 1
    assert outcomes.count("collapsed") + outcomes.count("hit") == 63
    assert sum(info.attempts for info in infos) == 1
    assert [record.event for record in journal.records()] == ["started", "settled"]


def test_again_and_again_one_call_a_key(sandbox: Sandbox) -> None:
    for number in range(20):
        together(16, lambda text=f"text {number}": llmcache.extract(text, Person))
    assert sandbox.received == 20
    assert len(process.current().flights) == 0


def test_different_keys_fly_side_by_side(sandbox: Sandbox) -> None:
    sandbox.hold()
    threads = [in_background(lambda n=n: llmcache.extract(f"text {n}", Person)) for n in range(8)]
    sandbox.wait_until_received(8)
    sandbox.release()
    for thread, found in threads:
        thread.join()
        assert isinstance(found[0], Person)


def test_a_leaders_error_is_each_followers_own(sandbox: Sandbox) -> None:
    sandbox.fail(faults.refusal(), times=None)
    sandbox.hold()
    threads = [in_background(lambda: llmcache.extract("Ada", Person)) for _ in range(16)]
    sandbox.wait_until_received(1)
    _all_but_one_wait(16)
    sandbox.release()
    for thread, _ in threads:
        thread.join()
    errors = [found[0] for _, found in threads]
    assert all(type(error) is llmcache.Refused for error in errors)
    assert len({id(error) for error in errors}) == 16
    assert sandbox.calls == 1
    assert sorted(error.attempts for error in errors) == [0] * 15 + [1]
    assert all(
        (error.__cause__ is None and error.__suppress_context__) or error.__context__ is None for error in errors
    )
    sandbox.heal()
    assert isinstance(llmcache.extract("Ada", Person), Person)  # an error is never kept


def _all_but_one_wait(number: int) -> None:
    """Wait until all followers have come to their waiting."""
    flights = process.current().flights

    def waiting() -> int:
        flight = next(iter(flights._flights.values()), None)
        # The event's condition keeps one entry for each waiter.
        return 0 if flight is None else len(flight.landed._cond._waiters)  # type: ignore[attr-defined]

    wait_until(lambda: waiting() == number - 1)


def test_a_leaders_own_deadline_is_not_its_followers(sandbox: Sandbox) -> None:
    sandbox.fail(faults.hang(), times=1)
    leader, led = in_background(lambda: llmcache.extract("Ada", Person, timeout=1.0))
    sandbox.wait_until_received(1)
    follower, followed = in_background(lambda: llmcache.extract_with_info("Ada", Person, timeout=30))
    leader.join()
    follower.join()
    assert isinstance(led[0], llmcache.ProviderTimeout)
    assert (followed[0].outcome, followed[0].attempts) == ("miss", 1)


def test_a_leader_without_time_to_try_again_does_not_fail_its_followers(sandbox: Sandbox) -> None:
    sandbox.fail(faults.server_error(503))
    sandbox.hold()
    leader, led = in_background(lambda: llmcache.extract("Ada", Person, timeout=0.8))
    sandbox.wait_until_received(1)
    follower, followed = in_background(lambda: llmcache.extract_with_info("Ada", Person, timeout=30))
    _all_but_one_wait(2)
    sandbox.release()
    leader.join()
    follower.join()
    assert isinstance(led[0], (llmcache.ProviderUnavailable, llmcache.ProviderTimeout, Person))
    assert followed[0].value == llmcache.extract("Ada", Person)


class Struck(BaseException):
    """What a signal handler may raise, at any moment."""


def struck_at(line: int, work: Callable[[], Any]) -> str | None:
    """Strike work at its so-and-so-manieth line in the policy; return that line's text, or None when work was over."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.endswith("engine/policy.py"):
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            sys.settrace(None)
            raise Struck(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        work()
    except Struck as struck:
        return linecache.getline(policy.__file__, struck.args[0]).strip()
    finally:
        sys.settrace(None)
    return None


def test_an_exception_at_any_line_of_a_miss_leaves_no_flight_behind(sandbox: Sandbox) -> None:
    llmcache.extract("warm", Person)
    flights = process.current().flights
    for number in itertools.count(1):
        line = struck_at(number, functools.partial(llmcache.extract, f"text {number}", Person))
        if line is None:
            break
        stranded, flights._flights = list(flights._flights), {}
        # On the line that lands the flight nothing is left to catch it; on a bare "try:" only a tracer can strike, for
        # signals are looked at by calls and loops.
        assert stranded == [] or line in ("port.land(own, landing)", "try:"), line
    assert number > 50


def test_a_followers_deadline_is_its_own(sandbox: Sandbox) -> None:
    sandbox.hold()
    leader, led = in_background(lambda: llmcache.extract("Ada", Person))
    sandbox.wait_until_received(1)
    with pytest.raises(llmcache.FlightTimeout) as caught:
        llmcache.extract("Ada", Person, timeout=0.05)
    assert caught.value.attempts == 0
    sandbox.release()
    leader.join()
    assert isinstance(led[0], Person)


def test_an_interrupted_leader_lands_its_flight(sandbox: Sandbox) -> None:
    class Interrupting(BaseModel):
        """Interrupts the first time."""

        name: str

        @field_validator("name")
        @classmethod
        def interrupt(cls, value: str) -> str:
            if not interrupted.is_set():
                interrupted.set()
                raise KeyboardInterrupt
            return value

    interrupted = threading.Event()
    sandbox.hold()
    leader, led = in_background(lambda: llmcache.extract("Ada", Interrupting))
    sandbox.wait_until_received(1)
    follower, followed = in_background(lambda: llmcache.extract_with_info("Ada", Interrupting))
    _all_but_one_wait(2)
    sandbox.release()
    leader.join()
    follower.join()
    assert isinstance(led[0], KeyboardInterrupt)
    assert followed[0].outcome == "miss"
    assert len(process.current().flights) == 0


def test_an_answer_is_not_lost_to_a_leaders_own_validator(sandbox: Sandbox) -> None:
    class Raising(BaseModel):
        """Fails the first time with something else than a validation error."""

        name: str

        @field_validator("name")
        @classmethod
        def check(cls, value: str) -> str:
            if not failed.is_set():
                failed.set()
                raise RuntimeError("a database is down")
            return value

    failed = threading.Event()
    sandbox.hold()
    leader, led = in_background(lambda: llmcache.extract("Ada", Raising))
    sandbox.wait_until_received(1)
    follower, followed = in_background(lambda: llmcache.extract_with_info("Ada", Raising))
    _all_but_one_wait(2)
    sandbox.release()
    leader.join()
    follower.join()
    assert isinstance(led[0], RuntimeError)
    assert (followed[0].outcome, sandbox.calls) == ("collapsed", 1)


def test_an_answer_is_not_lost_to_an_error_of_another_call_in_a_validator(sandbox: Sandbox) -> None:
    class Asking(BaseModel):
        """Asks the first time for what is not there."""

        name: str

        @field_validator("name")
        @classmethod
        def check(cls, value: str) -> str:
            if not failed.is_set():
                failed.set()
                llmcache.extract("Grace", Person, cache="only")
            return value

    failed = threading.Event()
    sandbox.hold()
    leader, led = in_background(lambda: llmcache.extract("Ada", Asking))
    sandbox.wait_until_received(1)
    follower, followed = in_background(lambda: llmcache.extract_with_info("Ada", Asking))
    _all_but_one_wait(2)
    sandbox.release()
    leader.join()
    follower.join()
    # What it has cost is what the call has paid, though its error is another's.
    assert (type(led[0]), led[0].attempts) == (llmcache.NotCached, 1)
    assert (followed[0].outcome, sandbox.calls) == ("collapsed", 1)


@pytest.mark.parametrize("limit", ["max_retries", "max_reasks"])
def test_who_may_try_more_often_does_not_fail_with_a_leader_who_may_not(limit: str, sandbox: Sandbox) -> None:
    sandbox.fail(faults.server_error(503) if limit == "max_retries" else faults.wrong_json())
    sandbox.hold()

    def ask(most: int) -> tuple[threading.Thread, list[Any]]:
        limits: dict[str, Any] = {limit: most}
        return in_background(lambda: llmcache.extract("Ada", Person, **limits))

    threads = [ask(0)]
    sandbox.wait_until_received(1)
    threads += [ask(most) for most in (0, 0, 1, 1)]
    _all_but_one_wait(5)
    sandbox.release()
    for thread, _ in threads:
        thread.join()
    failed = llmcache.ProviderUnavailable if limit == "max_retries" else llmcache.ValidationFailed
    assert [type(found[0]) for _, found in threads] == [failed] * 3 + [Person] * 2
    assert sandbox.received == 2


def test_a_provider_that_is_not_to_be_asked_for_long_is_not_asked_by_each_who_waits(sandbox: Sandbox) -> None:
    sandbox.fail(faults.rate_limited(retry_after=3_600), times=None)
    sandbox.hold()
    threads = [in_background(lambda: llmcache.extract("Ada", Person, timeout=60)) for _ in range(8)]
    sandbox.wait_until_received(1)
    _all_but_one_wait(8)
    sandbox.release()
    for thread, _ in threads:
        thread.join()
    errors = [found[0] for _, found in threads]
    assert [(type(error), error.retry_after) for error in errors] == [(llmcache.RateLimited, 3_600)] * 8
    assert sorted(error.attempts for error in errors) == [0] * 7 + [1]
    assert sandbox.received == 1


def test_a_validator_that_asks_for_its_own_request_is_told_so(sandbox: Sandbox) -> None:
    class Asking(BaseModel):
        """Asks for itself."""

        name: str

        @field_validator("name")
        @classmethod
        def ask(cls, value: str) -> str:
            llmcache.extract("Ada", Asking, timeout=5)
            return value

    with pytest.raises(llmcache.RecursiveExtract):
        llmcache.extract("Ada", Asking)


def test_a_validator_may_ask_for_something_else(sandbox: Sandbox) -> None:
    class Asking(BaseModel):
        """Asks for another thing."""

        name: str

        @field_validator("name")
        @classmethod
        def ask(cls, value: str) -> str:
            llmcache.extract("Grace", Person)
            return value

    assert isinstance(llmcache.extract("Ada", Asking), Asking)
    assert sandbox.calls == 2


def test_a_leader_whose_thread_is_gone_strands_nobody(sandbox: Sandbox) -> None:
    from llmcache.engine.flights import Flight

    found = llmcache.extract_with_info("Ada", Person, cache="bypass")
    gone = threading.Thread(target=lambda: flights.board(Flight(bytes.fromhex(found.key))))
    flights = process.current().flights
    gone.start()
    gone.join()
    assert len(flights) == 1
    assert llmcache.extract_with_info("Ada", Person, timeout=30).outcome == "miss"
    assert len(flights) == 0


def test_bypass_does_not_wait_for_others(sandbox: Sandbox) -> None:
    sandbox.hold()
    threads = [in_background(lambda: llmcache.extract("Ada", Person, cache="bypass")) for _ in range(3)]
    sandbox.wait_until_received(3)
    sandbox.release()
    for thread, _ in threads:
        thread.join()


def test_a_forked_child_starts_with_no_flights_and_no_counts(sandbox: Sandbox) -> None:
    import os

    llmcache.extract("Ada", Person)
    sandbox.hold()
    leader, _ = in_background(lambda: llmcache.extract("Grace", Person))
    sandbox.wait_until_received(2)
    reader, writer = os.pipe()
    import warnings

    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside threads warns; that is what preloading servers do.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        counted, flying = process.current().counts.total(), len(process.current().flights)
        hit = llmcache.extract_with_info("Ada", Person).outcome
        os.write(writer, f"{counted} {flying} {hit}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1_000) == b"{} 0 hit"
    os.close(reader)
    os.close(writer)
    sandbox.release()
    leader.join()
