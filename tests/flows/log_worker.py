"""A process that asks and invalidates: ``python -m tests.flows.log_worker``, told by lines of JSON what to do."""

import contextlib
import json
import os
import sys
import threading
import traceback
from typing import Any

import django
from pydantic import BaseModel

from tests.waiting import until


class Person(BaseModel):
    """A person."""

    name: str


def _waiting(others: set[int]) -> int:
    """Return how many threads but these are between two looks at a lease, or wait for the thread that is."""
    stacks = [traceback.walk_stack(top) for thread, top in sys._current_frames().items() if thread not in others]
    names = [{frame.f_code.co_name for frame, _ in stack} for stack in stacks]
    return sum(("_fly" in each and "idle" in each) or ("_follow" in each and "wait" in each) for each in names)


class Worker:
    """What this process does, by its name."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def ask(self, text: str) -> str:
        """Answer with the outcome of a call, and the tier that had it."""
        import llmcache

        found = llmcache.extract_with_info(text, Person)
        return f"{found.outcome} {found.tier or ''}".strip()

    def tries(self, text: str, **options: Any) -> list[Any]:
        """Answer with the name that a call brings, its outcome and its attempts; or with an error's code."""
        import llmcache

        try:
            found = llmcache.extract_with_info(text, Person, **options)
        except llmcache.LLMCacheError as error:
            return [error.code, "error", error.attempts]
        return [found.value.name, found.outcome, found.attempts]

    def try_together(self, text: str, many: list[dict[str, Any]], folder: str) -> list[list[Any]]:
        """Do as ``tries`` in a thread for each of these options, one after the other; leave a file when all wait."""
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path

        others = set(sys._current_frames())
        with ThreadPoolExecutor(len(many)) as threads:
            asked: list[Any] = []
            for options in many:
                asked.append(threads.submit(self.tries, text, **options))
                until(lambda: _waiting(others) == len(asked))
            Path(folder, "all").touch()
            return [each.result() for each in asked]

    def note_waits(self, folder: str) -> None:
        """Leave a file there when this process waits for another's lease."""
        from pathlib import Path

        from llmcache.engine.leases import Leases

        take = Leases.take

        def noted(*given: Any) -> Any:
            found = take(*given)
            if found[0].state == "waits":
                Path(folder, str(os.getpid())).touch()
            return found

        Leases.take = noted  # type: ignore[method-assign]

    def crowd(self, text: str, threads: int, tasks: int) -> dict[str, int]:
        """Ask at once from threads and tasks; answer with how many had each name and outcome."""
        import asyncio
        from collections import Counter

        import llmcache

        found: Counter[str] = Counter()

        async def atry() -> None:
            made = await llmcache.aextract_with_info(text, Person)
            found[f"{made.value.name} {made.outcome}"] += 1

        async def all_tasks() -> None:
            await asyncio.gather(*(atry() for _ in range(tasks)))

        def one() -> None:
            name, outcome, _ = self.tries(text)
            found[f"{name} {outcome}"] += 1

        running = [threading.Thread(target=one) for _ in range(threads)]
        for thread in running:
            thread.start()
        if tasks:
            asyncio.run(all_tasks())
        for thread in running:
            thread.join()
        return found

    def hit(self, text: str) -> bool:
        """Ask the short way; whether the provider was left alone is for the test to see."""
        import llmcache

        return llmcache.extract(text, Person) == Person(name=text)

    def told(self, text: str) -> str:
        """Answer with the name that a call was told, and whose answer it was."""
        import llmcache

        found = llmcache.extract_with_info(text, Person)
        return f"{found.value.name} {found.origin}"

    def flush(self) -> bool:
        """Bring what was noted into the ledger."""
        import llmcache

        return llmcache.flush()

    def correct(self, text: str, answer: str) -> str:
        """Correct the answer, and say by which row."""
        import llmcache
        from llmcache import corrections

        return corrections.correct(llmcache.extract_with_info(text, Person).key, answer).invalidation.uid

    def value(self, text: str) -> str:
        """Answer with the name that a call brings."""
        import llmcache

        return llmcache.extract(text, Person).name

    def completion(self, text: str) -> str:
        """Answer with what the completion of a hit says; empty without one."""
        import llmcache

        try:
            _, completion = llmcache.extract_with_completion(text, Person, cache="only")
        except llmcache.NotCached:
            return ""
        return completion.choices[0].message.content

    def refresh(self, text: str) -> bool:
        """Ask anew, for the entry of a text; answer whether the new answer is another one."""
        import llmcache
        from llmcache import rewriting

        return rewriting.refresh(llmcache.extract_with_info(text, Person).key).is_other

    def retime(self, text: str, ttl: float) -> bool:
        """Give the entry of a text another time."""
        import llmcache
        from llmcache import rewriting

        return rewriting.retime(llmcache.extract_with_info(text, Person).key, ttl).was_capped is False

    def left(self, text: str) -> float | None:
        """Answer with how long the entry of a text is fresh."""
        import llmcache

        return llmcache.extract_with_info(text, Person).ttl_left_seconds

    def invalidate(self, **conditions: Any) -> str | None:
        """Answer with the id."""
        import llmcache

        return llmcache.invalidate(**conditions).id

    def told_of_invalidations(self) -> int:
        """Answer with how many rows of the log this process knows."""
        from llmcache.engine import process

        log = process.current().log
        log.confirm()
        return log.shared.state.rows

    def undo(self, invalidation: str) -> bool:
        """Answer whether it was in force."""
        import llmcache

        return llmcache.undo(invalidation)

    def begin(self) -> None:
        """Begin a transaction."""
        from django.db import transaction

        self._open.enter_context(transaction.atomic())

    def commit(self) -> None:
        """End it."""
        self._open.close()

    def invalidate_and_die(self, **conditions: Any) -> None:
        """Be killed when it is committed, and nobody has been told."""
        from llmcache.engine.log import Log

        Log.commit = lambda *_: os._exit(9)  # type: ignore[method-assign]
        self.invalidate(**conditions)

    def many(self, count: int) -> int:
        """Write so many rows of no matter into the log."""
        from django.utils import timezone

        from llmcache.engine import process
        from llmcache.models import Invalidation

        namespace = process.current().namespace
        made = (
            Invalidation(uid=os.urandom(16).hex(), namespace=namespace, tag=f"tag-{n}", made_at=timezone.now())
            for n in range(count)
        )
        return len(Invalidation.objects.bulk_create(made, batch_size=500))

    def threads(self) -> list[str]:
        """Answer with the threads that read the log."""
        return [thread.name for thread in threading.enumerate() if thread.name == "llmcache-log"]

    def fork(self, text: str) -> list[str]:
        """Answer with what a child is told, before and after this process has invalidated everything."""
        to_child, from_child = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.write(from_child[1], f"{self.ask(text)}\n".encode())
                os.read(to_child[0], 1)
                while self.ask(text).startswith("hit"):
                    pass
                os.write(from_child[1], b"miss\n")
                code = 0
            finally:
                os._exit(code)
        with os.fdopen(from_child[0]) as said:
            first = said.readline().strip()
            self.invalidate(everything=True)
            os.write(to_child[1], b"!")
            second = said.readline().strip()
        return [first, second, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))]


def main(made: type[Worker] = Worker) -> None:
    """Do what the lines say, one after the other."""
    django.setup()
    worker = made()
    for line in sys.stdin:
        order = json.loads(line)
        done = getattr(worker, order.pop("do"))(**order)
        print(json.dumps({"done": done}), flush=True)


if __name__ == "__main__":
    main()
