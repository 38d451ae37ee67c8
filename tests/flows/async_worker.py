"""A process that makes asynchronous calls: ``python -m tests.flows.async_worker WORD``; see ``WORKS``."""

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import django
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str


def say(**told: Any) -> None:
    """Tell the test something, as one line of JSON."""
    print(json.dumps(told), flush=True)


def heard() -> str:
    """Return the next line from the test."""
    return sys.stdin.readline().strip()


def threads() -> list[str]:
    """Return the names of the threads that serve asynchronous calls in this process."""
    found = (thread.name for thread in threading.enumerate())
    return sorted(name for name in found if name.startswith(("llmcache-loop", "llmcache-journal", "llmcache-files")))


def tcp_sockets() -> set[str]:
    """Return the inodes of this process's TCP sockets."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    known = {f"socket:[{line.split()[9]}]" for line in lines}
    found: set[str] = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
        except FileNotFoundError:
            continue
    return found & known


def first() -> None:
    """Make the process's first call beside a heart that beats, and say who did what meanwhile."""
    import llmcache

    done: list[tuple[str, str, str]] = []
    watching = [False]

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if watching and watching[0] and event in ("import", "sqlite3.connect", "socket.connect", "open", "os.mkdir"):
            done.append((threading.current_thread().name, event, str(args[0])))

    def fsync(descriptor: int) -> None:
        done.append((threading.current_thread().name, "fsync", ""))
        real(descriptor)

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async def main() -> None:
        heart = asyncio.create_task(beat())
        await asyncio.sleep(0.05)
        gaps.clear()
        watching[0] = True
        call = asyncio.create_task(llmcache.aextract_with_info("Ada", Person))
        listener = asyncio.get_running_loop().run_in_executor(None, heard)
        await listener  # the provider holds the call
        watching[0] = False
        before = len(gaps)
        while len(gaps) < before + 50:
            await asyncio.sleep(0.001)
        say(beating=True)
        watching[0] = True
        outcome = (await call).outcome
        watching[0] = False
        heart.cancel()
        say(outcome=outcome, done=done, longest_gap_ms=max(gaps) * 1_000, beats=len(gaps), threads=threads())

    gaps: list[float] = []
    real, os.fsync = os.fsync, fsync
    sys.addaudithook(audit)
    asyncio.run(main())


def leave() -> None:
    """End the program while a call is being paid for."""
    import llmcache

    async def main() -> None:
        call = asyncio.create_task(llmcache.aextract("Ada", Person))
        await asyncio.get_running_loop().run_in_executor(None, heard)
        assert not call.done()

    asyncio.run(main())
    say(left=True)


def wait() -> None:
    """Wait for a call until a signal comes."""
    import llmcache

    asyncio.run(llmcache.aextract("Ada", Person))


def fork() -> None:
    """Fork while a call is under way; parent and child then go on."""
    import llmcache
    from llmcache.engine import background, process

    asyncio.run(llmcache.aextract("warm", Person))
    say(warm=True)
    own = tcp_sockets()

    async def main() -> None:
        call = asyncio.create_task(llmcache.aextract_with_info("Ada", Person))
        await asyncio.get_running_loop().run_in_executor(None, heard)
        child = os.fork()
        if not child:
            try:
                found = {
                    "threads": threads(),
                    "loop": background._loop is None,
                    "flights": len(process.current().flights),
                    "errands": len(background._errands),
                    "shared": len(own & tcp_sockets()),
                }
                say(**found)
                # In a thread, for the caller's loop is the parent's: the child must neither use nor close it.
                thread = threading.Thread(target=in_child)
                thread.start()
                thread.join()
            finally:
                os._exit(1)
        outcome = (await call).outcome
        say(parent=outcome, child=os.waitpid(child, 0)[1])
        say(again=(await llmcache.aextract_with_info("Grace", Person)).outcome)

    def in_child() -> None:
        async def calls() -> list[str]:
            return [(await llmcache.aextract_with_info(text, Person)).outcome for text in ("warm", "Eve", "Eve")]

        say(child=[*asyncio.run(calls()), llmcache.extract_with_info("Zoe", Person).outcome])
        say(sockets=len(own & tcp_sockets()))
        os._exit(0)

    asyncio.run(main())


WORKS = {work.__name__: work for work in (first, leave, wait, fork)}

if __name__ == "__main__":
    django.setup()
    WORKS[sys.argv[1]]()
