"""The memory store: what is evicted and when, what is counted, and that a hit waits for nobody."""

import subprocess
import sys
import threading
import tracemalloc

import pytest

from llmcache.tiers.memory import ITEM_OVERHEAD_BYTES, MemoryStore, store_named

SIZE = 1_000
COST = SIZE + ITEM_OVERHEAD_BYTES


def room_for(count: int) -> MemoryStore[str]:
    return MemoryStore(count * COST)


def filled(count: int) -> MemoryStore[str]:
    store = room_for(count)
    for number in range(count):
        store.put(str(number), f"item {number}", SIZE)
    return store


def present(store: MemoryStore[str], count: int) -> list[int]:
    return [number for number in range(count) if store.get(str(number)) is not None]


def test_an_item_is_the_very_object() -> None:
    store: MemoryStore[list[int]] = MemoryStore(10_000)
    item = [1]
    store.put(b"key", item, 1)
    assert store.get(b"key") is item
    assert store.get("key") is None


def test_what_was_put_first_goes_first() -> None:
    store = filled(5)
    for number in (5, 6):
        store.put(str(number), "more", SIZE)
    assert present(store, 7) == [2, 3, 4, 5, 6]


def test_what_was_used_survives() -> None:
    store = filled(5)
    store.get("0")
    store.get("2")
    for number in (5, 6, 7):
        store.put(str(number), "more", SIZE)
    assert present(store, 8) == [0, 2, 5, 6, 7]


def test_use_counts_once() -> None:
    store = filled(3)
    store.get("0")
    for number in range(3, 6):
        store.put(str(number), "more", SIZE)
    assert present(store, 6) == [3, 4, 5]


def test_an_item_stays_when_it_is_new_and_all_others_are_used() -> None:
    store = filled(4)
    assert present(store, 4) == [0, 1, 2, 3]
    store.put("4", "new", SIZE)
    assert store.get("4") == "new"
    assert len(store) == 4


def test_one_large_item_evicts_many() -> None:
    store = filled(10)
    store.put("large", "large", 5 * COST - ITEM_OVERHEAD_BYTES)
    assert present(store, 10) == [5, 6, 7, 8, 9]
    assert store.get("large") == "large"
    assert store.used_bytes == 10 * COST


def test_an_item_larger_than_the_budget_is_not_kept_and_takes_the_old_one_with_it() -> None:
    store = filled(3)
    store.put("1", "too large", 3 * COST - ITEM_OVERHEAD_BYTES + 1)
    assert present(store, 3) == [0, 2]
    assert store.used_bytes == 2 * COST
    store.put("fits", "exactly", 3 * COST - ITEM_OVERHEAD_BYTES)
    assert (store.get("fits"), len(store)) == ("exactly", 1)


def test_a_replaced_item_is_counted_once() -> None:
    store = filled(3)
    for size in (10, 999, 0, SIZE):
        store.put("1", f"of {size}", size)
        assert store.get("1") == f"of {size}"
        assert store.used_bytes == 2 * COST + size + ITEM_OVERHEAD_BYTES
    assert len(store) == 3


def test_a_replacement_that_grows_evicts_others_and_not_itself() -> None:
    store = filled(4)
    assert present(store, 4) == [0, 1, 2, 3]
    store.put("0", "twice as large", 2 * COST - ITEM_OVERHEAD_BYTES)
    assert store.get("0") == "twice as large"
    assert (len(store), store.used_bytes) == (3, 4 * COST)


def test_removal_gives_the_room_back() -> None:
    store = filled(3)
    assert (store.delete("1"), store.delete("1"), store.delete("absent")) == (True, False, False)
    assert (len(store), store.used_bytes) == (2, 2 * COST)
    store.put("3", "in its room", SIZE)
    assert present(store, 4) == [0, 2, 3]


def test_clear_removes_all_and_the_store_goes_on() -> None:
    store = filled(3)
    store.clear()
    assert (len(store), store.used_bytes, present(store, 3)) == (0, 0, [])
    store.put("1", "again", SIZE)
    assert store.get("1") == "again"


def test_a_smaller_budget_evicts_at_once() -> None:
    store = filled(5)
    store.get("0")
    store.resize(2 * COST)
    assert (len(store), store.used_bytes, store.max_bytes) == (2, 2 * COST, 2 * COST)
    assert store.get("0") is not None
    store.resize(0)
    assert (len(store), store.used_bytes) == (0, 0)
    store.put("1", "no room", 0)
    assert store.get("1") is None


@pytest.mark.parametrize("make", [lambda: MemoryStore(-1), lambda: MemoryStore(10).resize(-1)])
def test_a_negative_budget_is_refused(make: "object") -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="zero or more, got -1"):
        make()


def test_add_keeps_what_counts() -> None:
    store = room_for(3)
    assert store.add("key", "first", SIZE, lambda item: True) is True
    assert store.add("key", "second", SIZE, lambda item: True) is False
    assert store.get("key") == "first"
    assert store.add("key", "third", SIZE, lambda item: item != "first") is True
    assert store.get("key") == "third"
    assert store.add("large", "too large", 9 * COST, lambda item: True) is False


def test_a_reader_does_not_wait_for_a_writer() -> None:
    store = filled(3)
    # The predicate runs while the writer holds its lock.
    seen: list[str | None] = []

    def look(item: str) -> bool:
        reader = threading.Thread(target=lambda: seen.append(store.get("2")), daemon=True)
        reader.start()
        reader.join(timeout=10)
        return True

    assert store.add("1", "not kept", SIZE, look) is False
    assert seen == ["item 2"]


def test_removed_and_replaced_items_take_no_memory() -> None:
    store: MemoryStore[bytes] = MemoryStore(100 * 2**20)
    store.put("stays", b"", 0)
    most = 0
    tracemalloc.start()
    try:
        for number in range(3_000):
            store.put("replaced", bytes(50_000), 50_000)
            if number % 2:
                store.put(str(number), bytes(50_000), 50_000)
                store.delete(str(number))
            most = max(most, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # The two at hand and the bookkeeping of what is gone.
    assert most < 200_000
    assert len(store) == 2


def test_the_overhead_is_what_an_item_really_takes() -> None:
    store: MemoryStore[bytes] = MemoryStore(2**30)
    tracemalloc.start()
    try:
        for number in range(22_000):
            store.put(number.to_bytes(32, "big"), bytes(300), 300)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The allocator rounds up to 16 bytes, which tracemalloc does not see.
    assert 0.8 * store.used_bytes < taken <= store.used_bytes


def test_eight_threads_keep_the_budget() -> None:
    store: MemoryStore[tuple[str, int]] = MemoryStore(50 * COST)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(3_000):
                key = str((step * 7 + number * 13) % 120)
                action = (step + number) % 10
                if action < 3:
                    size = (step * 31) % (2 * SIZE)
                    store.put(key, (key, size), size)
                elif action == 3:
                    store.delete(key)
                elif action == 4:
                    store.add(key, (key, SIZE), SIZE, lambda item: item[1] > SIZE)
                elif step % 500 == 5:
                    store.resize((40 + number) * COST)
                else:
                    item = store.get(key)
                    assert item is None or item[0] == key
                assert store.used_bytes <= 50 * COST
        except BaseException as error:  # noqa: BLE001 -- shown by the test's own thread
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    left = [item for number in range(120) if (item := store.get(str(number))) is not None]
    assert len(store) == len(left) > 0
    assert store.used_bytes == sum(size + ITEM_OVERHEAD_BYTES for _, size in left) <= store.max_bytes


def test_a_name_is_one_store() -> None:
    one = store_named("tests.one", 10 * COST)
    assert store_named("tests.one", 10 * COST) is one
    assert store_named("tests.two", 10 * COST) is not one
    assert store_named("tests.one", 2 * COST).max_bytes == one.max_bytes == 2 * COST


def test_threads_that_ask_for_a_name_at_once_get_one_store() -> None:
    found: list[int] = []
    ready = threading.Barrier(8)

    def ask() -> None:
        ready.wait()
        found.append(id(store_named("tests.at once", COST)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


# The fork begins while a writer is half way: the predicate of `add` runs in the middle of the write.
FORK_DURING_A_WRITE = """
import os, sys, threading, time
from llmcache.tiers.memory import ITEM_OVERHEAD_BYTES, MemoryStore

store = MemoryStore(10_000)
store.put("key", "old", 100)
inside, forking = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)  # runs before the store's own hook

def half_way(item):
    inside.set()
    forking.wait()
    time.sleep(0.1)  # for a fork that would not wait
    return False

writer = threading.Thread(target=store.add, args=("key", "new", 200, half_way))
writer.start()
inside.wait()
child = os.fork()
if child == 0:
    whole = store.get("key") == "new" and store.used_bytes == 200 + ITEM_OVERHEAD_BYTES
    store.put("child", "writes", 1)
    os._exit(0 if whole and store.get("child") == "writes" else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
writer.join()
assert store.get("child") is None
store.put("parent", "writes", 1)
sys.exit(code)
"""


def test_a_fork_waits_for_the_write_that_is_under_way() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK_DURING_A_WRITE],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
