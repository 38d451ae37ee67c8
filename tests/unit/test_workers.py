"""Threads beside an event loop, and imports in them."""

import asyncio
import gc
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from llmcache import loading, workers
from tests.unit.test_journal_thread import WAIT, forked

word: ContextVar[str] = ContextVar("word", default="")


def test_work_is_done_elsewhere_in_a_copy_of_the_context() -> None:
    def work() -> tuple[str, str]:
        found = word.get()
        word.set("changed")
        return found, threading.current_thread().name

    async def main() -> tuple[str, str]:
        word.set("mine")
        found = await workers.Workers("test", 2).run(work)
        assert word.get() == "mine"
        return found

    assert asyncio.run(main()) == ("mine", "test-1")


def test_an_error_is_raised_where_it_is_awaited() -> None:
    def work() -> None:
        raise ending("no")

    for ending in (RuntimeError, SystemExit):
        with pytest.raises(ending, match="no"):
            asyncio.run(workers.files.run(work))
    assert asyncio.run(workers.files.run(lambda: 1)) == 1


def test_an_error_that_no_future_takes_is_told_all_the_same() -> None:
    async def main() -> None:
        await asyncio.wait_for(workers.files.run(lambda: next(iter(()))), WAIT)

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(main())
    assert isinstance(caught.value.__cause__, StopIteration)


def test_at_most_so_many_threads() -> None:
    pool, together, over = workers.Workers("test", 3), threading.Semaphore(0), threading.Event()

    def work() -> str:
        together.release()
        assert over.wait(WAIT)
        return threading.current_thread().name

    async def main() -> list[str]:
        tasks = [asyncio.create_task(pool.run(work)) for _ in range(9)]
        for _ in range(3):
            while not together.acquire(blocking=False):
                await asyncio.sleep(0.001)
        over.set()
        return await asyncio.gather(*tasks)

    assert set(asyncio.run(main())) == {"test-1", "test-2", "test-3"}


def test_whoever_is_cancelled_or_gone_is_told_nothing() -> None:
    begun, over, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert over.wait(WAIT)
        done.set()

    async def main() -> None:
        tasks.append(asyncio.create_task(workers.files.run(work)))
        while not begun.is_set():
            await asyncio.sleep(0.001)

    tasks: list[asyncio.Task[Any]] = []
    asyncio.run(main())
    assert tasks[0].cancelled()
    over.set()
    assert done.wait(WAIT)
    assert asyncio.run(workers.files.run(lambda: 2)) == 2


def test_a_forked_child_starts_threads_of_its_own() -> None:
    over = threading.Event()
    blocked = [threading.Event() for _ in range(4)]

    def block(number: int) -> None:
        blocked[number].set()
        assert over.wait(WAIT)

    async def main() -> None:
        tasks = [asyncio.create_task(workers.files.run(lambda n=n: block(n))) for n in range(4)]
        while not all(each.is_set() for each in blocked):
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert all(each.wait(WAIT) for each in blocked)
    assert forked(lambda: asyncio.run(workers.files.run(lambda: 0))) == 0
    thread.join()


def test_the_collector_rests_while_something_is_loaded_for_the_first_time() -> None:
    assert gc.isenabled()
    with loading.first_time("a thing"):
        assert not gc.isenabled()
        with loading.first_time("another thing"):
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    with loading.first_time("a thing"):
        assert gc.isenabled()


def test_what_could_not_be_loaded_is_a_first_time_again() -> None:
    with pytest.raises(RuntimeError), loading.first_time("a broken thing"):
        raise RuntimeError
    assert gc.isenabled()
    with loading.first_time("a broken thing"):
        assert not gc.isenabled()


def test_a_program_that_has_switched_the_collector_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with loading.first_time("yet another thing"):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_heap_that_is_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with loading.first_time("a thing beside a frozen heap"):
            pass
        # Some may have died meanwhile, of another thread's.
        assert gc.get_freeze_count() > 0.9 * frozen
    finally:
        gc.unfreeze()


def test_a_child_forked_meanwhile_collects_again() -> None:
    with loading.first_time("a thing and a fork"):
        assert forked(lambda: 0 if gc.isenabled() else 1) == 0
        assert not gc.isenabled()
