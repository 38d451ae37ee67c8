"""A process that does what lines of JSON say: ``python -m chaos.flights.crew``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
from pydantic import BaseModel

_LONGEST = 60.0
"""Seconds after which something is held to hang."""


class Person(BaseModel):
    """A person."""

    name: str


def ask(text: str, **options: Any) -> list[Any]:
    """Return the name that a call brings or an error's code, its outcome, and when it began and ended."""
    import llmcache

    began = time.monotonic()
    try:
        found = llmcache.extract_with_info(text, Person, **options)
    except llmcache.LLMCacheError as error:
        return [error.code, "error", began, time.monotonic()]
    return [found.value.name, found.outcome, began, time.monotonic()]


async def aask(text: str) -> list[Any]:
    """Return what ``ask`` does."""
    import llmcache

    began = time.monotonic()
    try:
        found = await llmcache.aextract_with_info(text, Person)
    except llmcache.LLMCacheError as error:
        return [error.code, "error", began, time.monotonic()]
    return [found.value.name, found.outcome, began, time.monotonic()]


def held() -> int:
    """Return how many leases and flights there are."""
    from llmcache.engine import process

    now = process.current()
    return len(now.flights) + (len(now.leases) if now.leases is not None else 0)


def until(holds: Callable[[], object], seconds: float = 20.0) -> bool:
    """Wait until a condition holds; return whether it came to."""
    last = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < last:
        time.sleep(0.01)
    return bool(found)


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208


def resident() -> int:
    """Return how many bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Crew:
    """What this process does, by its name."""

    def __init__(self) -> None:
        self._children: dict[int, int] = {}
        self._used: set[int] = set()

    def make_ready(self, text: str) -> None:
        """Make everything that calls need, blocking and in a loop."""
        name, outcome, *_ = ask(text)
        assert (name, outcome) == (text, "miss"), (name, outcome)
        assert asyncio.run(aask(text))[1] == "hit"
        # As servers do that are warm: looking through all that Django and the SDKs have made takes a tenth of a second,
        # at whatever moment, and is no time of a call's.
        gc.collect()
        gc.freeze()

    def ask(self, text: str, at: float = 0.0, **options: Any) -> list[Any]:
        """Ask, not before a moment."""
        time.sleep(max(0.0, at - time.monotonic()))
        return ask(text, **options)

    def flush(self) -> bool:
        """Bring what was noted into the ledger."""
        import llmcache

        return llmcache.flush()

    def rows(self) -> list[Any]:
        """Answer with the calls of the ledger and how they ended."""
        from llmcache.models import ProviderCall

        return [[str(call_id), outcome] for call_id, outcome in ProviderCall.objects.values_list("call_id", "outcome")]

    def held(self) -> int:
        """Answer with how many leases and flights there are."""
        return held()

    def let_go(self) -> None:
        """Close everything; what is needed is made anew."""
        from llmcache.engine import process

        process.install(None)

    def note_waits(self, folder: str) -> None:
        """Leave a file there whenever this process waits for another's lease."""
        from llmcache.engine.leases import Leases

        take = Leases.take

        def noted(*given: Any) -> Any:
            found = take(*given)
            if found[0].state == "waits":
                Path(folder, str(os.getpid())).touch()
            return found

        Leases.take = noted  # type: ignore[method-assign]

    # -- many at once

    def crowd(self, text: str, threads: int, tasks: int) -> dict[str, Any]:
        """Ask at once from threads and tasks; answer with what came, and how long all of it took."""
        found: list[list[Any]] = []
        gate = threading.Barrier(threads + bool(tasks))

        def one() -> None:
            gate.wait(_LONGEST)
            found.append(ask(text))

        async def loop() -> None:
            made = [asyncio.ensure_future(self._behind(begin, text)) for _ in range(tasks)]
            await asyncio.sleep(0)
            gate.wait(_LONGEST)
            begin.set()
            found.extend(await asyncio.gather(*made))

        begin = asyncio.Event()
        running = [threading.Thread(target=one, daemon=True) for _ in range(threads)]
        if tasks:
            running.append(threading.Thread(target=lambda: asyncio.run(loop()), daemon=True))
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(_LONGEST)
        outcomes = Counter(f"{name} {outcome}" for name, outcome, *_ in found)
        wall = max(ended for *_, ended in found) - min(began for *_, began, _ in found)
        return {"outcomes": outcomes, "wall": wall, "held": held()}

    async def _behind(self, begin: asyncio.Event, text: str) -> list[Any]:
        await begin.wait()
        return await aask(text)

    # -- children

    def fork(self, count: int, text: str) -> list[list[Any]]:
        """Let so many children of this process ask at once; answer with what each says."""
        waiting, begin = os.pipe()
        reading, writing = os.pipe()
        children: list[int] = []
        for _ in range(count):
            child = os.fork()
            if child:
                children.append(child)
                continue
            code = 1
            try:
                os.close(begin)
                os.read(waiting, 1)
                found = ask(text)
                os.write(writing, (json.dumps(found) + "\n").encode())
                self.flush()
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        # All begin when the last end of the pipe is closed.
        os.close(waiting)
        os.close(begin)
        with os.fdopen(reading) as said:
            answers = [json.loads(line) for line in said]
        for child in children:
            os.waitpid(child, 0)
        return answers

    def lead(self, text: str) -> int:
        """Let a child ask; answer with its process id."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(reading)
                os.write(writing, json.dumps(ask(text)).encode())
                self.flush()
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        self._children[child] = reading
        return child

    def led(self, child: int) -> list[Any] | None:
        """Answer with what a child has found; nothing when it has been killed."""
        with os.fdopen(self._children.pop(child)) as said:
            told = said.read()
        os.waitpid(child, 0)
        return json.loads(told) if told else None

    def _note_sockets(self) -> None:
        """Note each socket that something is sent on."""
        sendall, send = socket.socket.sendall, socket.socket.send

        def noted(real: Callable[..., Any]) -> Callable[..., Any]:
            def sent(own: socket.socket, *given: Any) -> Any:
                self._used.add(os.fstat(own.fileno()).st_ino)
                return real(own, *given)

            return sent

        socket.socket.sendall = noted(sendall)  # type: ignore[method-assign]
        socket.socket.send = noted(send)  # type: ignore[method-assign]

    def fork_after_use(self, count: int, text: str) -> dict[str, int]:
        """Let children ask after their parent has; answer with what each found and how many sockets two have used."""
        self._note_sockets()
        for number in range(4):
            ask(f"{text} {number}")
        sockets = [set(self._used)]
        reading, writing = os.pipe()
        children: list[int] = []
        for place in range(count):
            child = os.fork()
            if child:
                children.append(child)
                continue
            code = 1
            try:
                signal.alarm(int(_LONGEST))
                self._used.clear()
                asked = [f"{text} 0", f"{text} of {place}", f"{text} of {place}", f"{text} of all"]
                found = [ask(each) for each in asked] + [asyncio.run(aask(each)) for each in asked]
                right = [name for name, *_ in found] == asked * 2
                os.write(writing, (json.dumps([right, sorted(self._used)]) + "\n").encode())
                self.flush()
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as said:
            told = [json.loads(line) for line in said]
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        ask(f"{text} of the parent")
        sockets[0] |= self._used
        sockets += [set(used) for _, used in told]
        shared = sum(number > 1 for number in Counter(each for used in sockets for each in used).values())
        used = min(map(len, sockets))
        return {"right": sum(right for right, _ in told), "ended": ended.count(0), "shared": shared, "used": used}

    # -- loops

    def loops(self, count: int, text: str) -> dict[str, int]:
        """Ask in so many loops one after the other; answer with how many found what they should."""
        found: Counter[str] = Counter()

        async def both(each: str) -> None:
            found.update([f"{name == each} {outcome}" for name, outcome, *_ in [await aask(each), await aask(each)]])

        for number in range(count):
            asyncio.run(asyncio.wait_for(both(f"{text} {number}"), _LONGEST))
        return found

    def cancel(self, count: int, at_once: int, texts: list[str], seed: str) -> dict[str, int]:
        """Ask in tasks that are cancelled at random; answer with what became of them."""
        dice, found = random.Random(seed), Counter[str](foreign=0, failed=0, hung=0)

        async def one() -> None:
            text = dice.choice(texts)
            task = asyncio.ensure_future(self._fresh(text, dice.choice([0.05, 60.0])))
            await asyncio.sleep(dice.random() * 0.05)
            if dice.random() < 0.8:
                found["cancelled"] += task.cancel()
            try:
                name = await task
            except asyncio.CancelledError:
                return
            found["answered"] += name == text
            found["foreign"] += name in texts and name != text
            found["failed"] += name not in texts

        async def some() -> None:
            while found["cancelled"] < count:
                made = [asyncio.ensure_future(one()) for _ in range(at_once)]
                _, late = await asyncio.wait(made, timeout=_LONGEST)
                found["hung"] += len(late)

        asyncio.run(some())
        return {**found, "held": 0 if until(lambda: held() == 0) else held()}

    async def _fresh(self, text: str, ttl: float) -> str:
        import llmcache

        try:
            return (await llmcache.aextract(text, Person, ttl=ttl)).name
        except llmcache.LLMCacheError as error:
            return error.code

    # -- a load

    def load(self, texts: list[str], calls: int, threads: int, pause: float, seed: str) -> list[list[Any]]:
        """Ask in threads, with pauses at random; answer with name, outcome, beginning and end of each call."""
        found: list[list[Any]] = []
        dice = random.Random(seed)
        # Of four, three ask what others have asked.
        given = [dice.choice(texts) for _ in range(calls)]

        def work(place: int) -> None:
            own = random.Random(f"{seed} {place}")
            for text in given[place::threads]:
                time.sleep(own.uniform(0, 2 * pause))
                name, *told = ask(text)
                found.append([name == text or name, *told])

        running = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return found

    # -- warming

    def prepare(self, count: int, calls: int) -> str:
        """Answer with the id of a run that is to ask so many texts in at most so many calls."""
        from llmcache.warming.runs import prepare

        return prepare((f"text {number}" for number in range(count)), kind="person", max_calls=calls).uid

    def warm(self, run: str, threads: int) -> dict[str, Any]:
        """Work at a run; answer with how it has ended."""
        from llmcache.warming.work import work

        found = work(run, concurrency=threads)
        return {"state": found.state, "warmed": found.warmed, "calls": found.calls}

    def prepare_file(self, path: str, most: int, at_once: int) -> str:
        """Answer with the id of a run of the first lines of a file."""
        from itertools import islice

        from llmcache.warming.files import from_json_lines
        from llmcache.warming.lines import opened
        from llmcache.warming.runs import prepare

        with opened(path) as source:
            texts = islice(from_json_lines(source, max_text_bytes=2**20), most)
            return prepare(texts, kind="Ingredient", concurrency=at_once).uid

    def send(self, run: str, times: int) -> None:
        """Let so many Celery workers work at a run."""
        from chaos import celery_app
        from llmcache.tasks import work_on_run

        celery_app.app.set_default()
        for _ in range(times):
            work_on_run.delay(run)

    def state(self, run: str) -> str:
        """Answer with how a run stands."""
        from llmcache.models import WarmingRun

        return WarmingRun.objects.values_list("state", flat=True).get(uid=run)

    def told(self, run: str) -> dict[str, Any]:
        """Answer with what is told of a run."""
        from llmcache.warming.runs import progress

        found = progress(run)
        return {name: getattr(found, name) for name in ("state", "live", "warmed", "failed", "calls", "in_doubt")}

    def calls_of(self, run: str) -> list[list[str]]:
        """Answer with key, outcome and id of each call of the ledger that is of a run."""
        from llmcache.models import WarmingRun
        from llmcache.warming.runs import calls_of

        row = WarmingRun.objects.get(uid=run)
        # By one clock: none that an earlier run has made.
        calls = calls_of(row, "default").filter(started_at__gte=row.made_at).values_list("key", "outcome", "call_id")
        return [[key, outcome, str(call_id)] for key, outcome, call_id in calls]

    # -- a long life

    def times(self, count: int, text: str, of: int = 0) -> dict[str, int]:
        """Ask for so many texts, or for so few again and again; answer with how often each outcome came."""
        return Counter(ask(f"{text} {number % of if of else number}")[1] for number in range(count))

    def has(self) -> dict[str, int]:
        """Answer with what this process has."""
        gc.collect()
        return {"held": held(), "bytes": resident(), "files": descriptors(), "threads": threading.active_count()}

    # -- the demo's log

    def replay(self, count: int, place: int, of: int, threads: int) -> dict[str, int]:
        """Ask for this process's share of the demo's log, again where the provider fails; answer with what came."""
        import llmcache
        from project.demo.data import read_log
        from project.demo.types import Ingredient

        requests = iter(read_log(count)[place::of])
        found, turn = Counter[str](wrong=0), threading.Lock()

        def one() -> None:
            while True:
                with turn:
                    request = next(requests, None)
                if request is None:
                    return
                value = None
                while value is None:
                    with contextlib.suppress(llmcache.ProviderError):
                        value = llmcache.extract(request.text, Ingredient)
                with turn:
                    found["right" if value == request.gold else "wrong"] += 1

        running = [threading.Thread(target=one, daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return {**found, "held": held()}


def main() -> None:
    """Do what the lines say, one after the other."""
    django.setup()
    crew = Crew()
    for line in sys.stdin:
        order = json.loads(line)
        done = getattr(crew, order.pop("do"))(**order)
        print(json.dumps({"done": done}), flush=True)


if __name__ == "__main__":
    main()
