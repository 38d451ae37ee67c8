"""Processes for the journal's tests: to be killed, forked and limited apart from pytest's own process.

    python journal_worker.py ROLE FOLDER

Each role says on standard output what it has done, one line each; what waits does so for its standard input.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from llmcache.money.journal import Journal
from llmcache.money.journal_files import claim_dead

NAMESPACE = "shop"
THREADS = 4


def say(*words: object) -> None:
    # One write a line, without a buffer: nothing is lost with the process, nor said twice by a forked child.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def wait() -> None:
    os.read(0, 1)


def calls(folder: Path) -> None:
    """Record calls in several threads until killed; an id is said when ``started`` has returned."""
    journal = Journal(folder, NAMESPACE)

    def work(thread: int) -> None:
        for number in itertools.count():
            call_id = f"{thread}-{number}"
            journal.started(call_id, {"kind": "inbox"})
            say(call_id)
            journal.settled(call_id, {"cost": number})

    for thread in range(THREADS):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    wait()


def claim(folder: Path) -> None:
    """Claim, say and remove everything, at the same time as another such process."""
    say("ready")
    wait()
    for claimed in claim_dead(folder, NAMESPACE):
        say(*(record.call_id for record in claimed.contents.records))
        claimed.remove()


def claim_and_hold(folder: Path) -> None:
    """Claim one file and keep it."""
    claimed = next(claim_dead(folder, NAMESPACE))
    say(claimed.path.name)
    wait()


def fork(folder: Path) -> None:
    """Write a line, and another in a forked child; the parent stays until killed."""
    journal = Journal(folder, NAMESPACE)
    journal.started("parent", {})
    if os.fork() == 0:
        journal.started("child", {})
        say("child", os.getpid())
        wait()
        journal.settled("child", {})
        os._exit(0)
    signal.pause()


def fork_with_claim(folder: Path) -> None:
    """Fork while holding a claim; the parent stays until killed."""
    claimed = next(claim_dead(folder, NAMESPACE))
    if os.fork() == 0:
        claimed.remove()
        say("child")
        wait()
        os._exit(0)
    signal.pause()


def fork_waiting(folder: Path) -> None:
    """Fork with lines in memory, and say what of them the child has."""
    journal = Journal(folder, NAMESPACE)
    journal.started("parent", {})
    pid = os.fork()
    if pid == 0:
        say("child", journal.waiting)
        os._exit(0)
    os.waitpid(pid, 0)
    say("parent", journal.waiting)


def fork_busy(folder: Path) -> None:
    """Fork again and again while threads write: no child may find a lock that nobody will release."""
    journal = Journal(folder, NAMESPACE, fsync=False)
    done = threading.Event()

    def work(thread: int) -> None:
        for number in itertools.count():
            if done.is_set():
                return
            journal.started(f"{thread}-{number}", {})

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for number in range(20):
        pid = os.fork()
        if pid == 0:
            journal.started(f"child-{number}", {})
            os._exit(0)
        os.waitpid(pid, 0)
    done.set()
    for thread in threads:
        thread.join()
    say("done")


def fork_amid_opening(folder: Path) -> None:
    """Fork while another thread is between opening its file and knowing it; say how many files the child has open."""
    opened, forked, real = threading.Event(), threading.Event(), os.open

    def slow(path: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags, mode)
        if flags & os.O_CREAT:
            opened.set()
            # A fork that is held off does not come in this time; one that is not, does at once.
            forked.wait(0.2)
        return descriptor

    os.open = slow
    journal = Journal(folder, NAMESPACE)
    thread = threading.Thread(target=journal.started, args=("a", {}))
    thread.start()
    opened.wait()
    if os.fork() == 0:
        (path,) = folder.iterdir()
        say(sum(is_open(descriptor, path) for descriptor in range(3, 256)))
        os._exit(0)
    forked.set()
    os.wait()
    thread.join()


def is_open(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def limited(folder: Path) -> None:
    """Write past the process's limit of file size, then with the limit raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal(folder, NAMESPACE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3333, hard))
    for number in range(100):
        journal.started(str(number), {})
    say(journal.waiting, journal.lost)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    journal.started("100", {})
    say(journal.waiting, journal.lost)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
