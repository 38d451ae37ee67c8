"""One call per key at a time, however many threads and tasks ask, and what becomes of it when they go."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

import llmcache
from llmcache.engine import background, process
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader
from tests.flows.test_async import background_calls
from tests.flows.test_flights import in_background, together, wait_until


class Person(BaseModel):
    """A person."""

    name: str
    tags: list[str] = []


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, and let the loop go on meanwhile."""
    for _ in range(4_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not come to hold")


def waiting() -> int:
    """Return how many tasks and threads wait for a flight."""
    flight = next(iter(process.current().flights._flights.values()), None)
    # The event's condition keeps one entry for each waiter.
    return 0 if flight is None else len(flight.watchers) + len(flight.landed._cond._waiters)  # type: ignore[attr-defined]


async def received(sandbox: Sandbox, count: int) -> None:
    """Wait until requests have arrived."""
    await until(lambda: sandbox.received >= count)


async def outcome(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returns or raises."""
    try:
        return await call
    except llmcache.LLMCacheError as error:
        return error


def test_64_tasks_on_a_cold_key_make_one_call(sandbox: Sandbox, journal: JournalReader) -> None:
    async def main() -> list[llmcache.Extraction[Person]]:
        tasks = [asyncio.create_task(llmcache.aextract_with_info("Ada", Person)) for _ in range(64)]
        await received(sandbox, 1)
        await until(lambda: waiting() == 63)
        sandbox.release()
        return await asyncio.gather(*tasks)

    sandbox.answers["Ada"] = {"name": "Ada", "tags": ["first"]}
    sandbox.hold()
    infos = asyncio.run(main())
    assert (sandbox.received, sandbox.calls) == (1, 1)
    assert [info.value for info in infos] == [Person(name="Ada", tags=["first"])] * 64
    assert len({id(info.value) for info in infos}) == len({id(info.value.tags) for info in infos}) == 64
    assert sorted(info.outcome for info in infos) == ["collapsed"] * 63 + ["miss"]
    assert sum(info.attempts for info in infos) == 1
    assert [record.event for record in journal.records()] == ["started", "settled"]
    assert len(process.current().flights) == 0


@pytest.mark.parametrize("leader", ["a thread", "a task"])
def test_threads_and_tasks_of_many_loops_share_one_call(leader: str, sandbox: Sandbox) -> None:
    def of_thread() -> list[llmcache.Extraction[Person]]:
        return [llmcache.extract_with_info("Ada", Person)]

    def of_loop(tasks: int) -> list[llmcache.Extraction[Person]]:
        async def main() -> list[llmcache.Extraction[Person]]:
            return await asyncio.gather(*(llmcache.aextract_with_info("Ada", Person) for _ in range(tasks)))

        return asyncio.run(main())

    sandbox.hold()
    with ThreadPoolExecutor(80) as pool:
        first = pool.submit(of_thread) if leader == "a thread" else pool.submit(of_loop, 1)
        sandbox.wait_until_received(1)
        works = [first, *(pool.submit(of_thread) for _ in range(64)), *(pool.submit(of_loop, 16) for _ in range(4))]
        wait_until(lambda: waiting() == 128)
        sandbox.release()
        infos = [info for work in works for info in work.result()]
    assert (len(infos), sandbox.received) == (129, 1)
    assert {info.value.model_dump_json() for info in infos} == {infos[0].value.model_dump_json()}
    assert sorted(info.outcome for info in infos) == ["collapsed"] * 128 + ["miss"]


def test_threads_and_tasks_again_and_again(sandbox: Sandbox) -> None:
    def mixed(text: str) -> None:
        async def main() -> None:
            await asyncio.gather(*(llmcache.aextract(text, Person) for _ in range(8)))

        thread, found = in_background(lambda: together(8, lambda: llmcache.extract(text, Person)))
        asyncio.run(main())
        thread.join()
        assert len({person.model_dump_json() for person in found[0]}) == 1

    for number in range(20):
        mixed(f"text {number}")
    assert sandbox.received == 20
    assert (len(process.current().flights), background_calls()) == (0, 0)


def test_different_keys_fly_side_by_side(sandbox: Sandbox) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(llmcache.aextract(f"text {number}", Person)) for number in range(100)]
        await received(sandbox, 100)
        sandbox.release()
        await asyncio.gather(*tasks)

    sandbox.hold()
    asyncio.run(main())


def test_an_error_is_each_followers_own(sandbox: Sandbox) -> None:
    async def main() -> list[Any]:
        tasks = [asyncio.create_task(outcome(llmcache.aextract("Ada", Person))) for _ in range(16)]
        await until(lambda: waiting() == 16)
        sandbox.release()
        return await asyncio.gather(*tasks)

    sandbox.fail(faults.refusal(), times=None)
    sandbox.hold()
    thread, found = in_background(lambda: llmcache.extract("Ada", Person))
    sandbox.wait_until_received(1)
    errors = asyncio.run(main())
    thread.join()
    errors += found
    assert all(type(error) is llmcache.Refused for error in errors)
    assert len({id(error) for error in errors}) == 17
    assert (sandbox.calls, sorted(error.attempts for error in errors)) == (1, [0] * 16 + [1])
    sandbox.heal()
    assert isinstance(asyncio.run(llmcache.aextract("Ada", Person)), Person)


def test_a_cancelled_waiter_is_only_its_own_affair(sandbox: Sandbox) -> None:
    async def main() -> llmcache.Extraction[Person]:
        leader = asyncio.create_task(llmcache.aextract_with_info("Ada", Person))
        await received(sandbox, 1)
        waiter = asyncio.create_task(llmcache.aextract("Ada", Person))
        await until(lambda: waiting() == 1)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await until(lambda: background_calls() == 1)
        sandbox.release()
        return await leader

    sandbox.hold()
    assert asyncio.run(main()).outcome == "miss"
    assert sandbox.received == 1


def test_a_cancelled_leaders_answer_is_received_noted_and_kept(sandbox: Sandbox, journal: JournalReader) -> None:
    async def main() -> llmcache.Extraction[Person]:
        leader = asyncio.create_task(llmcache.aextract("Ada", Person))
        await received(sandbox, 1)
        follower = asyncio.create_task(llmcache.aextract_with_info("Ada", Person))
        await until(lambda: waiting() == 1)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        sandbox.release()
        return await follower

    sandbox.hold()
    assert asyncio.run(main()).outcome == "collapsed"
    assert llmcache.extract_with_info("Ada", Person).outcome == "hit"
    assert ([record.event for record in journal.records()], sandbox.received) == (["started", "settled"], 1)


def test_a_timeout_round_a_call_is_a_cancelled_leader(sandbox: Sandbox) -> None:
    async def main() -> None:
        async with asyncio.timeout(None) as timeout:
            task = asyncio.create_task(received(sandbox, 1))
            task.add_done_callback(lambda _: timeout.reschedule(0))
            await llmcache.aextract("Ada", Person)

    sandbox.hold()
    with pytest.raises(TimeoutError):
        asyncio.run(main())
    sandbox.release()
    wait_until(lambda: background_calls() == 0)
    assert llmcache.extract_with_info("Ada", Person).outcome == "hit"


@pytest.mark.parametrize("end", ["asyncio.run", "a loop that is just closed"])
def test_a_loop_that_ends_early_loses_no_answer(end: str, sandbox: Sandbox, journal: JournalReader) -> None:
    async def main() -> None:
        tasks.append(asyncio.create_task(llmcache.aextract("Ada", Person)))
        await received(sandbox, 1)

    tasks: list[asyncio.Task[Any]] = []
    sandbox.hold()
    if end == "asyncio.run":
        asyncio.run(main())
        assert tasks[0].cancelled()
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        # Nobody has a use for the task any more: it is not cancelled but collected.
        tasks.pop()._log_destroy_pending = False  # type: ignore[attr-defined]
        gc.collect()
    assert background_calls() == 1
    sandbox.release()
    wait_until(lambda: background_calls() == 0)
    assert [record.event for record in journal.all_records()] == ["started", "settled", "stored"]
    assert llmcache.extract_with_info("Ada", Person).outcome == "hit"
    assert sandbox.received == 1


def test_who_has_gone_begins_no_further_attempt(sandbox: Sandbox, journal: JournalReader) -> None:
    async def main() -> None:
        leader = asyncio.create_task(llmcache.aextract("Ada", Person))
        await received(sandbox, 1)
        leader.cancel()

    sandbox.fail(faults.server_error(503), times=None)
    sandbox.hold()
    asyncio.run(main())
    sandbox.release()
    wait_until(lambda: background_calls() == 0)
    assert [record.event for record in journal.records()] == ["started", "failed"]
    assert (sandbox.received, len(process.current().flights)) == (1, 0)


def test_who_waited_for_one_that_has_gone_makes_the_next_attempt(sandbox: Sandbox) -> None:
    async def main() -> tuple[Any, Any]:
        leader = asyncio.create_task(llmcache.aextract("Ada", Person))
        await received(sandbox, 1)
        followers = [asyncio.create_task(llmcache.aextract_with_info("Ada", Person)) for _ in range(2)]
        await until(lambda: waiting() == 2)
        leader.cancel()
        await until(lambda: any(errand.deserted for errand in background._errands))
        sandbox.release()
        return tuple(await asyncio.gather(*followers))  # type: ignore[return-value]

    sandbox.fail(faults.wrong_json())
    sandbox.hold()
    found = asyncio.run(main())
    assert sorted((each.outcome, each.attempts) for each in found) == [("collapsed", 0), ("miss", 1)]
    assert sandbox.received == 2


def test_a_caller_who_goes_before_anything_is_paid_pays_nothing(sandbox: Sandbox) -> None:
    async def main() -> None:
        for number in range(50):
            task = asyncio.create_task(llmcache.aextract(f"text {number}", Person))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()

    llmcache.extract("warm", Person)
    asyncio.run(main())
    wait_until(lambda: background_calls() == 0)
    # Some had come so far; what they asked for is there.
    assert sandbox.received == sandbox.calls <= 51
    assert len(process.current().flights) == 0


def test_a_leaders_own_deadline_is_not_its_followers(sandbox: Sandbox) -> None:
    async def main() -> tuple[Any, Any]:
        leader = asyncio.create_task(outcome(llmcache.aextract("Ada", Person, timeout=1.0)))
        await received(sandbox, 1)
        follower = asyncio.create_task(llmcache.aextract_with_info("Ada", Person, timeout=30))
        return await leader, await follower

    sandbox.fail(faults.hang(), times=1)
    led, followed = asyncio.run(main())
    assert isinstance(led, llmcache.ProviderTimeout)
    assert (followed.outcome, followed.attempts) == ("miss", 1)


@pytest.mark.parametrize("led_by", ["a thread", "a task"])
def test_a_followers_deadline_is_its_own(led_by: str, sandbox: Sandbox) -> None:
    async def main() -> None:
        leader = asyncio.create_task(llmcache.aextract("Ada", Person)) if led_by == "a task" else None
        await received(sandbox, 1)
        with pytest.raises(llmcache.FlightTimeout) as caught:
            await llmcache.aextract("Ada", Person, timeout=0.05)
        assert caught.value.attempts == 0
        sandbox.release()
        if leader is not None:
            await leader

    sandbox.hold()
    thread, _ = in_background(lambda: llmcache.extract("Ada", Person) if led_by == "a thread" else None)
    asyncio.run(main())
    thread.join()
    assert isinstance(llmcache.extract("Ada", Person), Person)
    assert sandbox.received == 1


def test_a_thread_whose_leader_is_a_task_waits_as_for_a_thread(sandbox: Sandbox) -> None:
    async def main() -> tuple[Any, list[Any]]:
        leader = asyncio.create_task(llmcache.aextract_with_info("Ada", Person))
        await received(sandbox, 1)
        with pytest.raises(llmcache.FlightTimeout):
            await asyncio.to_thread(llmcache.extract, "Ada", Person, timeout=0.05)
        thread, found = in_background(lambda: llmcache.extract_with_info("Ada", Person))
        await until(lambda: waiting() == 1)
        leader.cancel()
        sandbox.release()
        await asyncio.to_thread(thread.join)
        return leader, found

    sandbox.hold()
    _, found = asyncio.run(main())
    assert (found[0].outcome, sandbox.received) == ("collapsed", 1)


def test_a_thread_that_is_gone_strands_no_task(sandbox: Sandbox) -> None:
    from llmcache.engine.flights import Flight

    found = llmcache.extract_with_info("Ada", Person, cache="bypass")
    flights = process.current().flights
    gone = threading.Thread(target=lambda: flights.board(Flight(bytes.fromhex(found.key))))
    gone.start()
    gone.join()
    assert len(flights) == 1
    assert asyncio.run(llmcache.aextract_with_info("Ada", Person, timeout=30)).outcome == "miss"
    assert len(flights) == 0


def test_an_answer_is_not_lost_to_a_leaders_own_validator(sandbox: Sandbox) -> None:
    class Raising(BaseModel):
        """Fails the first time with something else than a validation error."""

        name: str

        @field_validator("name")
        @classmethod
        def check(cls, value: str) -> str:
            if not failed:
                failed.append(1)
                raise RuntimeError("a database is down")
            return value

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(llmcache.aextract_with_info("Ada", Raising)) for _ in range(8)]
        await until(lambda: waiting() == 7)
        sandbox.release()
        return await asyncio.gather(*tasks, return_exceptions=True)

    failed: list[int] = []
    sandbox.hold()
    found = asyncio.run(main())
    assert sorted(type(each).__name__ for each in found) == ["Extraction"] * 7 + ["RuntimeError"]
    assert sandbox.calls == 1


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_a_validator_that_ends_the_program_ends_its_own_call_alone(
    ending: type[BaseException], sandbox: Sandbox
) -> None:
    class Ending(BaseModel):
        """Ends the program, it thinks."""

        name: str

        @field_validator("name")
        @classmethod
        def end(cls, value: str) -> str:
            raise ending

    async def main() -> Person:
        other = asyncio.create_task(llmcache.aextract("Grace", Person))
        with pytest.raises(ending):
            await llmcache.aextract("Ada", Ending)
        return await other

    assert isinstance(asyncio.run(main()), Person)
    assert isinstance(asyncio.run(llmcache.aextract("Eve", Person)), Person)
    assert [thread.name for thread in threading.enumerate()].count("llmcache-loop") == 1


def test_a_validator_that_asks_for_its_own_request_is_told_so(sandbox: Sandbox) -> None:
    class Asking(BaseModel):
        """Asks for itself, in an event loop of its own."""

        name: str

        @field_validator("name")
        @classmethod
        def ask(cls, value: str) -> str:
            asyncio.run(llmcache.aextract("Ada", Asking, timeout=5))
            return value

    with pytest.raises(llmcache.RecursiveExtract):
        llmcache.extract("Ada", Asking)
    assert sandbox.calls == 1


def test_a_validator_may_ask_for_something_else_in_a_loop_of_its_own(sandbox: Sandbox) -> None:
    class Asking(BaseModel):
        """Asks for another thing."""

        name: str

        @field_validator("name")
        @classmethod
        def ask(cls, value: str) -> str:
            asyncio.run(llmcache.aextract("Grace", Person))
            return value

    assert isinstance(llmcache.extract("Ada", Asking), Asking)
    assert sandbox.calls == 2


def test_a_validator_that_blocks_the_background_loop_for_ever_is_named(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blocking(BaseModel):
        """Waits in its validator for another asynchronous call, which cannot come."""

        name: str

        @field_validator("name")
        @classmethod
        def block(cls, value: str) -> str:
            with ThreadPoolExecutor(1) as pool:
                inner = pool.submit(asyncio.run, outcome(llmcache.aextract("Grace", Person, timeout=0.1)))
                told.append(inner.result())
            return value

    monkeypatch.setattr(background, "ALARM_SECONDS", 0.2)
    told: list[Any] = []
    assert isinstance(asyncio.run(llmcache.aextract("Ada", Blocking, timeout=30)), Blocking)
    assert isinstance(told[0], llmcache.ProviderTimeout)
    assert "llmcache-loop" in str(told[0])
