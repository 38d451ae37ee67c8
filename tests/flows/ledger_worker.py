"""A process whose calls end up in the ledger: ``python -m tests.flows.ledger_worker WORD [ARGUMENTS]``; see ``WORKS``.

It says what it did as lines of JSON; before what a test has to wait for, it waits for a line from the test.
"""

import contextlib
import faulthandler
import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from queue import Queue
from typing import Any

import django
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str


def say(**told: Any) -> None:
    """Tell the test something, as one line of JSON, in one write."""
    os.write(1, (json.dumps(told, default=str) + "\n").encode())


def heard() -> str:
    """Return the next line from the test."""
    return sys.stdin.readline().strip()


def outcome(text: str, **options: Any) -> str:
    """Extract, and return how the call was answered."""
    import llmcache

    return llmcache.extract_with_info(text, Person, **options).outcome


def outcomes(*texts: str) -> dict[str, int]:
    """Extract from each text, and return how often each outcome came."""
    return Counter(outcome(text) for text in texts)


def flushed(seconds: float = 30) -> bool:
    import llmcache

    return llmcache.flush(seconds)


def tell() -> None:
    """Flush, and say what the ledger and the journal's folder hold."""
    import llmcache
    from llmcache.engine import process
    from llmcache.models import ProviderCall, UsageBucket

    done = flushed()
    now = process.current()
    stats = llmcache.stats()
    folder = now.journal.folder
    assert folder is not None
    buckets = [
        (str(bucket.hour), bucket.kind, bucket.outcome, bucket.count, bucket.attempts)
        for bucket in UsageBucket.objects.order_by("hour", "kind", "outcome")
    ]
    say(
        flushed=done,
        calls=list(ProviderCall.objects.values("call_id", "kind", "outcome", "cost_pico_usd", "error_types")),
        stats={name: getattr(stats, name) for name in stats.__dataclass_fields__},
        buckets=buckets,
        files=sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [],
        unread=now.writer.lines_unread,
    )


def quiet() -> None:
    """Let the writer import nothing by itself from now on."""
    from llmcache.money import writer

    writer.IMPORT_SECONDS = 3_600
    # It has begun, and has nothing to do.
    flushed()


# The ends of a process


def ask(count: str) -> None:
    """Make calls and two hits of each, and end."""
    texts = [f"text {number}" for number in range(int(count))]
    say(**outcomes(*texts, *texts, *texts))


def leave() -> None:
    """End the program while a thread waits for a provider."""
    outcome("first")
    say(waiting=True)
    heard()
    threading.Thread(target=outcome, args=("under way",), daemon=True).start()
    heard()


def answered_late() -> None:
    """End the program while answers come in a thread that nobody waits for, each after the lines have been read."""
    from llmcache.engine import process
    from llmcache.money.importer import Importer

    quiet()
    numbers, answered = Queue[int](), Queue[int]()
    real, turns = Importer.import_own, iter(range(4))

    def import_own(importer: Importer) -> None:
        real(importer)
        if process.current().writer._stopping:
            for number in itertools.islice(turns, 1):
                numbers.put(number)
                answered.get(timeout=20)

    def work() -> None:
        while True:
            number = numbers.get()
            outcome(f"late {number}")
            answered.put(number)

    Importer.import_own = import_own  # type: ignore[method-assign]
    outcome("first")
    threading.Thread(target=work, daemon=True).start()


def die(how: str, prefix: str) -> None:
    """Make calls and hits of which nothing is imported yet, and die of a signal, or by ``os._exit``."""
    quiet()
    say(**outcomes(f"{prefix} Ada", f"{prefix} Grace", f"{prefix} Ada"))
    heard()
    if how == "_exit":
        os._exit(0)
    os.kill(os.getpid(), signal.Signals[how])


def wait_and_go_on() -> None:
    """Make calls, wait for the test, make one more, and tell."""
    quiet()
    say(**outcomes("Ada", "Grace"))
    heard()
    say(**outcomes("Eve"))
    tell()


# Forks


def fork(how: str) -> None:
    """Use everything, fork children that use it too, and wait for them; then say what the ledger holds."""
    quiet()
    say(**outcomes("parent", "parent"))
    children = [_forked(how, number) for number in range(4)]
    say(children=[os.waitpid(child, 0)[1] for child in children])
    say(**outcomes("parent"))
    tell()


def _fork() -> int:
    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside threads warns; that is what preloading servers do.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _forked(how: str, number: int) -> int:
    child = _fork()
    if child:
        return child
    try:
        threads = [thread.name for thread in threading.enumerate()]
        assert threads == ["MainThread"], threads
        found = outcomes("parent", f"child {number}", f"child {number}")
        assert found == {"hit": 2, "miss": 1}, found
        if how == "_exit":
            os._exit(0)
        # As gunicorn's workers end: the interpreter does all that it does at its end.
        sys.exit(0)
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)


def _in_process(number: int) -> None:
    if multiprocessing.get_start_method() == "spawn":
        django.setup()
    assert outcomes("parent", f"child {number}", f"child {number}") == {"hit": 2, "miss": 1}


def processes(method: str) -> None:
    """Do as ``fork`` with multiprocessing's children, which end without the interpreter's exit handlers."""
    multiprocessing.set_start_method(method)
    say(**outcomes("parent", "parent"))
    children = [multiprocessing.Process(target=_in_process, args=(number,)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    say(children=[child.exitcode for child in children])
    say(**outcomes("parent"))
    tell()


def fork_busy(count: str) -> None:
    """Fork while the writer writes all the time; each child uses the database, and looks who holds its locks."""
    from llmcache.money import writer

    writer.IMPORT_SECONDS = 0.0
    over = threading.Event()

    def work(thread: int) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            outcome(f"{thread} {number}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    outcome("first")
    ends = Counter[int]()
    for _ in range(int(count)):
        child = _fork()
        if not child:
            _use_database()
        ends[os.waitpid(child, 0)[1]] += 1
    over.set()
    for thread in threads:
        thread.join()
    say(ends=ends)


def _databases() -> list[str]:
    """Return the files of SQLite that this process has open."""
    found: list[str] = []
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
    return [path for path in found if "sqlite3" in path]


def _use_database() -> None:
    """Read and write in a forked child; it ends with 0 when files and locks are its own, with 1 when it hangs."""
    from django.contrib.auth.models import Group
    from django.db import connection, transaction

    faulthandler.dump_traceback_later(20, exit=True)
    try:
        assert not (inherited := _databases()), inherited
        with transaction.atomic():
            Group.objects.create(name=f"group {os.getpid()}")
            mine = f" {os.getpid()} "
            with open("/proc/locks") as locks:  # noqa: PTH123
                assert any(mine in line for line in locks), "this process writes, and holds no lock"
        connection.close()
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)


# What cannot be written


def limited() -> None:
    """Make calls while no file may grow any more, then with the limit raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    texts = [f"text {number}" for number in range(12)]
    outcome("before")
    flushed()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, hard))
    say(**outcomes(*texts))
    from llmcache.engine import process

    say(waiting=process.current().journal.waiting > 0, flushed=flushed(0.5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    tell()


def full(way: str, count: str) -> None:
    """Make calls until told otherwise, each of which may be refused; then go on when the test says so."""
    import asyncio

    import llmcache

    def one(text: str) -> str:
        try:
            if way == "sync":
                return outcome(text)
            return asyncio.run(llmcache.aextract_with_info(text, Person)).outcome
        except llmcache.LedgerFull as error:
            return f"{error.code}: {error.attempts} attempts, ${error.cost_usd}"

    say(**Counter(one(f"text {number}") for number in range(int(count))))
    heard()
    say(flushed=flushed())
    say(**Counter(one(f"more {number}") for number in range(5)))
    tell()


def blocked_and_leave() -> None:
    """End with a call under way whose lines can be in no file."""
    outcome("first")
    say(waiting=True)
    heard()
    threading.Thread(target=outcome, args=("under way",), daemon=True).start()
    heard()


# Transactions


def transactions() -> None:
    """Extract in a transaction that is rolled back, and flush inside of one."""
    from django.db import transaction

    from llmcache.models import ProviderCall

    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        outcome("rolled back")
        raise ZeroDivisionError
    say(flushed=flushed(), rows=ProviderCall.objects.count())
    with transaction.atomic():
        outcome("inside")
        say(flushed=flushed(1), rows=ProviderCall.objects.count())
    tell()


def hours() -> None:
    """Count in the last minute of an hour and in the first of the next one, beside a database that is locked."""
    from llmcache import conf
    from llmcache.clock import Clock
    from llmcache.engine import process
    from llmcache.engine.runtime import Runtime
    from llmcache.money import writer

    writer.IMPORT_SECONDS = writer.COUNT_SECONDS = 0.01
    now = [1_700_002_790.0]
    collected = threading.Event()
    real = writer.Importer.collect_counts

    def collect(importer: writer.Importer) -> None:
        real(importer)
        collected.set()

    writer.Importer.collect_counts = collect  # type: ignore[method-assign]
    process.install(Runtime(conf.current(), clock=Clock(wall=lambda: now[0])))
    outcome("Ada")
    say(first=flushed())
    heard()  # the test has locked the database
    outcome("Ada")
    outcome("Grace")
    now[0] += 20
    collected.clear()
    assert collected.wait(30)
    outcome("Ada")
    outcome("Ada")
    say(locked=flushed(0.2))
    heard()
    tell()


# Load


def load(threads: str, calls: str, rotate_bytes: str, import_seconds: str) -> None:
    """Make calls in threads beside a writer and a journal that begins a new file all the time."""
    from llmcache.money import journal, writer

    journal.ROTATE_BYTES = int(rotate_bytes)  # type: ignore[misc]
    writer.IMPORT_SECONDS = float(import_seconds)
    began = threading.Barrier(int(threads) + 1)

    def work(thread: int) -> None:
        outcome(f"thread {thread} begins")
        began.wait()
        for number in range(int(calls)):
            outcome(f"thread {thread} text {number}")

    workers = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(int(threads))]
    for worker in workers:
        worker.start()
    began.wait()
    say(began=True)
    for worker in workers:
        worker.join()


def claim() -> None:
    """Flush at the same time as another such process."""
    from llmcache.engine import process

    process.current()
    say(ready=True)
    heard()
    say(flushed=flushed())


WORKS: dict[str, Callable[..., None]] = {
    work.__name__: work
    for work in (
        *(tell, ask, leave, answered_late, die, wait_and_go_on, fork, processes, fork_busy, limited, full),
        *(blocked_and_leave, transactions, hours, load, claim),
    )
}

if __name__ == "__main__":
    django.setup()
    WORKS[sys.argv[1]](*sys.argv[2:])
