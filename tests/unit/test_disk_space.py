"""A disk store stays within its budget, and what is used stays."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llmcache.backends import DiskCache
from llmcache.exceptions import ConfigurationError
from llmcache.tiers.disk import DiskStore
from llmcache.tiers.disk_space import CHECKS, KEPT, NOTE_AFTER

VALUE = bytes(10_000)
BUDGET = 100 * len(VALUE)
PAGES = 64 * 4_096
"""What the file takes beside values: pages that are begun, and the index."""


@pytest.fixture
def now() -> list[float]:
    return [1_000_000.0]


@pytest.fixture
def store(tmp_path: Path, now: list[float]) -> DiskStore:
    return DiskStore(tmp_path / "store", max_bytes=BUDGET, clock=lambda: now[0])


def asked(store: DiskStore, statement: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store.path / "entries.sqlite3") as file:
        return file.execute(statement).fetchall()


def kept(store: DiskStore) -> set[str]:
    return {key.decode() for (key,) in asked(store, "SELECT key FROM entries") if isinstance(key, bytes)}


def last_use(store: DiskStore) -> dict[str, object]:
    return {key.decode(): used for key, used in asked(store, "SELECT key, used FROM entries") if isinstance(key, bytes)}


def test_it_never_takes_much_more_than_its_budget(store: DiskStore) -> None:
    for number in range(400):
        store.set(f"key {number}", VALUE, None)
        size = sum(len(VALUE) for _ in kept(store))
        assert size <= BUDGET + BUDGET // CHECKS + len(VALUE)
    assert size > KEPT * BUDGET - 2 * PAGES
    # The newest are there, and the file is not much larger than what it holds.
    assert "key 399" in kept(store)
    assert store.evicted == 400 - len(kept(store))
    store.close()
    assert (store.path / "entries.sqlite3").stat().st_size < BUDGET + BUDGET // CHECKS + PAGES


def test_what_was_not_used_for_longest_goes(store: DiskStore, now: list[float]) -> None:
    for number in range(60):
        now[0] += 10
        store.set(f"key {number}", VALUE, None)
    now[0] += NOTE_AFTER
    for number in range(10):
        assert store.get(f"key {number}") == VALUE
    now[0] += NOTE_AFTER
    for number in range(60, 120):
        store.set(f"key {number}", VALUE, None)
    found = kept(store)
    assert {f"key {number}" for number in range(10)} <= found
    assert "key 10" not in found


def test_use_is_noted_by_the_hour_and_written_with_the_next_write(store: DiskStore, now: list[float]) -> None:
    for key in ("often", "seldom", "never"):
        store.set(key, VALUE, None)
    made = int(now[0])
    now[0] += NOTE_AFTER - 1
    store.get("often")
    now[0] += 2
    store.get("seldom")
    assert last_use(store) == {"often": made, "seldom": made, "never": made}
    store.set("another", VALUE, None)
    used = int(now[0])
    assert last_use(store) == {"often": made, "seldom": used, "never": made, "another": used}


def test_an_older_note_does_not_undo_a_newer_use(tmp_path: Path) -> None:
    times = {"one": 1_000_000.0, "other": 1_000_000.0}
    one, other = (DiskStore(tmp_path, clock=lambda name=name: times[name]) for name in times)
    one.set("key", VALUE, None)
    times["one"] += 2 * NOTE_AFTER
    times["other"] += 4 * NOTE_AFTER
    one.get("key")
    other.set("key", VALUE, None)
    one.set("another", VALUE, None)
    assert last_use(one)["key"] == int(times["other"])


def test_a_last_use_that_is_no_number_is_mended(store: DiskStore, now: list[float]) -> None:
    store.set("key", VALUE, None)
    with sqlite3.connect(store.path / "entries.sqlite3") as file:
        file.execute("UPDATE entries SET used = 'yesterday'")
    assert store.get("key") == VALUE
    store.set("another", VALUE, None)
    assert last_use(store)["key"] == int(now[0])


def test_what_is_larger_than_the_budget_is_not_kept_and_pushes_nobody_out(store: DiskStore) -> None:
    store.set("small", VALUE, None)
    store.set("large", VALUE, None)
    store.set("large", bytes(BUDGET + 1), None)
    assert store.get("large") is None
    assert store.add("larger", bytes(BUDGET + 1), None)
    assert kept(store) == {"small"}


def test_one_large_value_pushes_out_no_more_than_it_needs(store: DiskStore, now: list[float]) -> None:
    for number in range(90):
        now[0] += 10
        store.set(f"key {number}", VALUE, None)
    now[0] += 10
    store.set("large", bytes(BUDGET // 5), None)
    found = kept(store)
    assert "large" in found
    # It takes twenty of their places; ten more are kept free.
    assert 60 <= len(found) <= 80
    assert "key 89" in found


def test_a_smaller_budget_holds_from_the_first_write(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    for number in range(100):
        store.set(f"key {number}", VALUE, None)
    smaller = DiskStore(tmp_path, max_bytes=20 * len(VALUE))
    smaller.set("key", VALUE, None)
    assert len(kept(smaller)) <= 20
    assert "key" in kept(smaller)


def test_processes_that_write_at_once_stay_within_it_together(tmp_path: Path) -> None:
    writer = (
        "import sys\nfrom pathlib import Path\nfrom llmcache.tiers.disk import DiskStore\n"
        f"store = DiskStore(Path(sys.argv[1]), max_bytes={BUDGET})\n"
        "for number in range(200):\n"
        f"    store.set(f'{{sys.argv[2]}} {{number}}', bytes({len(VALUE)}), None)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", writer, str(tmp_path), str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    assert [writer.communicate(timeout=60)[1] for writer in writers] == [""] * 3
    store = DiskStore(tmp_path)
    assert 0 < len(kept(store)) * len(VALUE) <= BUDGET + 3 * (BUDGET // CHECKS + len(VALUE))


def test_a_value_is_kept_where_no_room_can_be_made(store: DiskStore) -> None:
    store.set("key", VALUE, None)
    with sqlite3.connect(store.path / "entries.sqlite3") as file:
        file.execute("CREATE TABLE entries_used(in_the_way)")
    for number in range(120):
        store.set(f"key {number}", VALUE, None)
    assert len(kept(store)) == 121
    with sqlite3.connect(store.path / "entries.sqlite3") as file:
        file.execute("DROP TABLE entries_used")
    for number in range(120, 130):
        store.set(f"key {number}", VALUE, None)
    assert len(kept(store)) <= 102


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", None, True])
def test_a_budget_that_is_none_is_refused(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"MAX_BYTES.*DiskCache"):
        DiskCache(str(tmp_path), {"OPTIONS": {"MAX_BYTES": wrong}})


def test_a_cache_has_the_budget_of_its_options(tmp_path: Path) -> None:
    assert DiskCache(str(tmp_path), {"OPTIONS": {"MAX_BYTES": BUDGET}}).store.max_bytes == BUDGET
    assert DiskCache(str(tmp_path), {}).store.max_bytes == 2**30
