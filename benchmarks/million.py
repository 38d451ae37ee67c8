"""What memory does while one process makes very many calls, each with a system prompt of its own.

    python -m benchmarks.million 100000

One call of a hundred is a miss, asked of the sandbox over HTTP and answered with 10 KB; then a hit in memory and one on
disk follow, which are not counted. The others may only look (``cache="only"``), for a million requests over HTTP would
take an hour: they go the same way, through arguments, plan, key and tiers, and end where the provider would be asked.
Budgets are small, so that they are full after two tenths. After each tenth the database takes what waits for it: four
threads that never rest leave the ledger's writer no time.
"""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import django

CALLS: Final = 1_000_000
SAMPLES: Final = 10

_MISS_EACH: Final = 100
_THREADS: Final = 4
_MEMORY_BYTES: Final = 4 * 2**20
_DISK_BYTES: Final = 16 * 2**20
_BACK: Final = 500
"""Misses since an entry that lies on disk, and no longer in memory: twice as many have been used on disk since then."""
_PROMPT: Final = "You read letters of customer number {}. " + "Say what they want, and in what tone. " * 10


def main() -> None:
    """Make as many calls as the first argument says; print a line of JSON for each tenth of them, and one at last."""
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    import llmcache
    from benchmarks.hits import LARGE
    from llmcache.engine import process
    from llmcache.testing.sandbox import start_sandbox_process

    count = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    place = Path(os.environ["LLMCACHE_BENCH_PLACE"])
    texts = place / "texts.million.jsonl"
    texts.write_text(json.dumps({"text": _TEXT, "gold": LARGE}))
    with start_sandbox_process(texts=texts, charges=place / "charges.million.jsonl") as provider:
        settings.LLMCACHE["PROVIDERS"]["openai"]["base_url"] = provider.base_url
        settings.LLMCACHE.update(JOURNAL_FSYNC=False, MEMORY_BYTES=_MEMORY_BYTES, DISK_BYTES=_DISK_BYTES)
        call_command("migrate", verbosity=0)
        step = count // SAMPLES
        for begun in range(0, SAMPLES * step, step):
            _call_all(range(begun, begun + step))
            if not llmcache.flush(timeout=120):
                raise RuntimeError("the database did not take the lines")
            sample = {"calls": begun + step, "rss": rss(), "files": len(list(Path("/proc/self/fd").iterdir()))}
            print(json.dumps(sample), flush=True)
        told = {"requests": provider.calls(), "not written to disk": len(_not_written), "tables": tables()}
        print(json.dumps(told), flush=True)
        process.install(None)


def rss() -> int:
    """Return the bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tables() -> dict[str, tuple[int, int]]:
    """Return the size of each table that calls fill, and its bound."""
    from llmcache import plans, prepared
    from llmcache.engine import counts, process, schemas

    now = process.current()
    memory = now.memory
    assert memory is not None
    live = [len(mine.totals) for mine in now.counts._live.values()]
    waiting = now.counts._waiting
    return {
        "plans": (len(now.plans._plans), plans.MAX_PLANS),
        "plans, bytes of their bodies": (now.plans._size, plans.MAX_PLANS_BYTES),
        "prepared calls": (len(now.prepared._found), prepared.MAX_PREPARED),
        "prepared calls, characters of their prompts": (now.prepared._size, prepared.MAX_PREPARED_CHARACTERS),
        "memory, bytes": (memory.used_bytes, memory.max_bytes),
        "memory, slots queued for its entries": (len(memory._queue), 2 * len(memory) + 64),
        "schema texts": (len(now.schemas._seen), schemas.MAX_SCHEMAS),
        "counts, tallies of one thread": (max(live, default=0), counts.MAX_TALLIES),
        "counts, sums in all": (len(now.counts._totals), counts.MAX_BUCKETS),
        "counts, sums that wait": (len(waiting.buckets), counts.MAX_BUCKETS),
        "counts, entries whose hits wait": (len(waiting.entries), counts.MAX_ENTRIES),
        "flights": (len(now.flights), _THREADS),
    }


_not_written: Final[list[int]] = []
_TEXT: Final = "Dear sir or madam, I am writing to you about the matter of last week."


def _call_all(numbers: Iterable[int]) -> None:
    """Make calls in some threads of their own, and raise what was raised in them."""
    left = iter(numbers)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors and (number := next(left, None)) is not None:
                _call(number)
        except BaseException as error:  # noqa: BLE001  # raised by whoever started the thread
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _call(number: int) -> None:
    import llmcache
    from benchmarks.hits import Large

    options: dict[str, Any] = {"system": _PROMPT.format(number)}
    if number % _MISS_EACH:
        try:
            llmcache.extract(_TEXT, Large, cache="only", **options)
        except llmcache.NotCached:
            return
        raise RuntimeError("found what nobody has asked for")
    llmcache.extract(_TEXT, Large, **options)
    llmcache.extract(_TEXT, Large, **options)
    back = number - _BACK * _MISS_EACH
    if back >= 0:
        try:
            llmcache.extract(_TEXT, Large, cache="only", system=_PROMPT.format(back))
        except llmcache.NotCached:
            # Four threads never leave the file alone: now and then a write takes longer than a call waits for it.
            _not_written.append(back)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
    with tempfile.TemporaryDirectory(prefix="llmcache-million-") as folder:
        os.environ["LLMCACHE_BENCH_PLACE"] = folder
        main()
