"""A process that reads, or one that invalidates: ``python -m chaos.worker read …``.

It says ``ready`` on a line, begins when it is told so on a line, and writes what it has seen into a file.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import django
from pydantic import BaseModel

from chaos.staleness import TENANTS, TEXTS, concerned, tags_of, tenant_of

_PAUSE = 0.02
"""Seconds between a reader's calls, at most."""


class Answer(BaseModel):
    """When the provider was asked for it."""

    asked: int


def call(text: int) -> dict[str, Any]:
    """Return with which arguments a text is asked for."""
    return {"tags": tags_of(text), "tenant": tenant_of(text), "kind": "answers", "ttl": 86_400.0}


def words(text: int) -> str:
    """Return a text."""
    return f"text {text}"


def _keys() -> list[str]:
    """Ask for each text once, and return their keys."""
    import llmcache

    return [llmcache.extract_with_info(words(text), Answer, **call(text)).key for text in range(TEXTS)]


def _ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def read(out: Path, seed: str) -> None:
    """Read at random until the other end of the line is closed."""
    import llmcache

    dice, seen, told = random.Random(seed), array("q"), threading.Event()
    _keys()
    _ready()
    threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
    while not told.is_set():
        text = dice.randrange(TEXTS)
        began = time.monotonic_ns()
        value = llmcache.extract(words(text), Answer, **call(text))
        seen.extend((began, text, value.asked))
        time.sleep(dice.uniform(0, _PAUSE))
    out.write_bytes(seen.tobytes())


def _drawn(dice: random.Random, keys: list[str]) -> dict[str, Any]:
    """Return conditions: mostly of one text, and now and then of many."""
    text = dice.randrange(TEXTS)
    one: dict[str, Any] = {"tag": f"text-{text}"}
    return dice.choice(
        [
            *(one, one, one, one, {"key": keys[text]}, {"key": keys[text]}, {**one, "kind": "answers"}),
            *({**one, "tenant": dice.choice(TENANTS)}, {"tag": f"group-{text % 3}"}, {"tenant": tenant_of(text)}),
            dice.choice(
                [
                    {"kind": "answers"},
                    {"response_model": "Answer"},
                    {"model": "openai/gpt-5-mini"},
                    {"everything": True},
                ]
            ),
        ]
    )


def _invalidate(conditions: dict[str, Any], committed: Any) -> int:
    """Invalidate in a transaction; ``committed`` is called just after its commit. Return a time just before that."""
    from django.db import transaction

    import llmcache

    with transaction.atomic():
        # Before any callback of llmcache's.
        transaction.on_commit(committed)
        llmcache.invalidate(**conditions)
        return time.monotonic_ns()


def invalidate(out: Path, seed: str, count: str, seconds: str) -> None:
    """Invalidate so many times, at random times of so many seconds."""
    dice, made, at = random.Random(seed), list[Any](), list[int]()
    keys = _keys()
    _ready()
    for _ in range(int(count)):
        time.sleep(dice.expovariate(int(count) / float(seconds)))
        conditions = _drawn(dice, keys)
        before = _invalidate(conditions, lambda: at.append(time.monotonic_ns()))
        made.append((before, at[-1], sorted(concerned(conditions, keys))))
    out.write_text(json.dumps(made))


def die(out: Path, seed: str, count: str, seconds: str) -> None:
    """Let so many children invalidate, each killed between its commit and the moment at which it would tell others."""
    dice, made = random.Random(seed), list[Any]()
    keys = _keys()
    _ready()
    for _ in range(int(count)):
        time.sleep(dice.expovariate(int(count) / float(seconds)))
        conditions = _drawn(dice, keys)
        before, after = _killed(conditions)
        made.append((before, after, sorted(concerned(conditions, keys))))
    out.write_text(json.dumps(made))


def _killed(conditions: dict[str, Any]) -> tuple[int, int]:
    """Invalidate in a child that does not live on; return times just before and after its commit."""
    from django.db import connections, transaction

    import llmcache

    connections.close_all()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:

        def end() -> None:
            os.write(writer, f"{time.monotonic_ns()}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

        try:
            with transaction.atomic():
                transaction.on_commit(end)
                llmcache.invalidate(**conditions)
                os.write(writer, f"{time.monotonic_ns()} ".encode())
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as said:
        before, after = map(int, said.read().split())
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended != -signal.SIGKILL:
        raise RuntimeError(f"the child was not killed: it ended with {ended}")
    return before, after


def lose(out: Path, count: str) -> None:
    """Say how many of so many entries are served from before, after another project has invalidated everything."""
    import llmcache
    from llmcache.engine import process

    def ask() -> dict[str, int]:
        outcomes = [llmcache.extract_with_info(f"mail {number}", Answer, ttl=86_400.0) for number in range(int(count))]
        return {name: sum(each.outcome == name for each in outcomes) for name in ("miss", "hit")}

    first = ask()
    _ready()
    memory = process.current().memory
    if memory is not None:
        # Both what it holds itself and what lies in the Redis.
        hits = ask()
        memory.clear()
    out.write_text(json.dumps({"asked": first, "from memory": hits, "from Redis": ask()}))


def wipe(out: Path, count: str) -> None:
    """Invalidate everything, so many times, having asked for something each time."""
    import llmcache

    misses = 0
    _ready()
    for _ in range(int(count)):
        misses += llmcache.extract_with_info("mail 0", Answer, ttl=86_400.0).outcome == "miss"
        llmcache.invalidate(everything=True)
    out.write_text(json.dumps({"misses": misses}))


def main() -> None:
    """Do what the arguments say."""
    django.setup()
    role, out, *arguments = sys.argv[1:]
    {"read": read, "invalidate": invalidate, "die": die, "lose": lose, "wipe": wipe}[role](Path(out), *arguments)


if __name__ == "__main__":
    main()
