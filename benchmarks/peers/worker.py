"""A process that makes one entrant's calls: ``python -m benchmarks.peers.worker``, told by lines of JSON what to do.

    {"do": "open", "name": …, "packages": […], "place": {…}}   -> {"python": …, "versions": {…}}
    {"do": "ask", "case": …}                                    -> {"right": …}     one call
    {"do": "compare", "case": …}                                -> {"right": …, "shared": …}     two calls
    {"do": "time", "case": …, "hits": …}                        -> {"us": …}        microseconds a call

What cannot be done is answered with {"error": …}. It ends when its input does.
"""

import asyncio
import gc
import importlib
import inspect
import json
import os
import platform
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.peers.cases import CASES
from benchmarks.peers.entrants import Asker, Call, Place

_PR_SET_PDEATHSIG = 1


class Seat:
    """The entrant that is open here, and the loop its awaited calls run in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ask: Asker | None = None
        self._calls: dict[str, Call] = {}

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what an order says."""
        match order:
            case {"do": "open", "name": name, "packages": packages, "place": place}:
                return self._open(name, packages, Place(**{**place, "folder": Path(place["folder"])}))
            case {"do": "ask", "case": case}:
                return {"right": _is_right(case, self._result(case))}
            case {"do": "compare", "case": case}:
                one, other = self._result(case), self._result(case)
                return {"right": _is_right(case, one) and _is_right(case, other), "shared": one is other}
            case {"do": "time", "case": case, "hits": hits}:
                return {"us": self._timed(case, hits)}
            case _:
                raise ValueError("this is no order that a worker knows")

    def _open(self, name: str, packages: list[str], place: Place) -> dict[str, Any]:
        module, _, function = name.partition(".")
        self._ask = getattr(importlib.import_module(f"benchmarks.peers.entrants.{module}"), function)(place)
        return {"python": platform.python_version(), "versions": {each: _version(each) for each in packages}}

    def _call(self, case: str) -> Call:
        if self._ask is None:
            raise ValueError("nothing is open")
        if case not in self._calls:
            self._calls[case] = self._ask(CASES[case])
        return self._calls[case]

    def _result(self, case: str) -> Any:
        made = self._call(case)()
        return self._loop.run_until_complete(made) if inspect.isawaitable(made) else made

    def _timed(self, case: str, hits: int) -> float:
        call, warm_up = self._call(case), hits // 20 + 1
        if inspect.isawaitable(first := call()):
            return self._loop.run_until_complete(_timed_awaited(call, first, warm_up, hits))
        for _ in repeat(None, warm_up):
            call()
        gc.collect()
        began = time.perf_counter()
        for _ in repeat(None, hits):
            call()
        return (time.perf_counter() - began) / hits * 1e6


async def _timed_awaited(call: Call, first: Any, warm_up: int, hits: int) -> float:
    await first
    for _ in repeat(None, warm_up):
        await call()
    gc.collect()
    began = time.perf_counter()
    for _ in repeat(None, hits):
        await call()
    return (time.perf_counter() - began) / hits * 1e6


def _is_right(case: str, value: Any) -> bool:
    # Instructor answers with a subclass of its own.
    return isinstance(value, CASES[case].model) and value.model_dump() == CASES[case].answer


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _end_with_parent() -> None:
    """Be killed when the race is: one that rests would not see that its input has ended. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Answer orders until there are no more."""
    _end_with_parent()
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    seat = Seat()
    for line in sys.stdin:
        try:
            answer = seat.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever an entrant raises is its result
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
