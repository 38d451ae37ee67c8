"""The race: a worker process for each entrant, one provider and one Redis for all, and rounds in random order."""

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.peers.cases import CASES
from benchmarks.peers.environments import ROOT
from benchmarks.peers.roster import Entrant
from llmcache.testing.sandbox import Sandbox

_ANSWER_SECONDS: Final = 60.0
_FEWEST_HITS, _MOST_HITS = 10, 200_000

# Nobody gets out: what is not on this machine is looked for behind a proxy that is not there.
_DEAD_END: Final = "http://127.0.0.1:9"
_SURROUNDINGS: Final = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), _DEAD_END),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    "PIP_NO_INDEX": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LANGSMITH_TRACING": "false",
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
}
_KEPT_VARIABLES: Final = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ"})


class FailedError(Exception):
    """A worker could not do what it was told; the text says why."""


class Worker:
    """A process that answers orders; see ``worker``."""

    def __init__(self, python: str | Path, folder: Path, core: int | None = None) -> None:
        folder.mkdir(parents=True)
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.peers.worker"],
                cwd=folder,
                env={name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES} | _SURROUNDINGS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def tell(self, **order: Any) -> dict[str, Any]:
        """Return the answer to an order. FailedError when there is none, or it is an error."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            answer = json.loads(self._line())
        except (OSError, ValueError):
            raise FailedError(f"ended: {self._last_words()}") from None
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer

    def rest(self) -> None:
        """Let the process stand still: its background threads do not run in others' turns."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let the process go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        deadline, line = time.monotonic() + _ANSWER_SECONDS, b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise FailedError(f"no answer within {_ANSWER_SECONDS:.0f} s")
            if not (piece := os.read(self._process.stdout.fileno(), 65_536)):
                raise OSError
            line += piece
        return line

    def _last_words(self) -> str:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return said[-1][:300] if said else "it said nothing"


@dataclass
class Place:
    """What all workers share."""

    provider: Sandbox
    redis_port: int
    folder: Path
    core: int | None


@dataclass
class Racer:
    """An entrant that is ready, and what has been seen of it."""

    entrant: Entrant
    worker: Worker
    versions: dict[str, str | None]
    shared: bool = False
    first_requests: dict[str, int] = field(default_factory=dict)
    """By case: requests at the provider for the first call."""
    hit_requests: int = 0
    """Requests at the provider for all calls after the first."""
    hits: dict[str, int] = field(default_factory=dict)
    """By case: calls in a turn."""
    commands: float | None = None
    """Commands that a hit sends to Redis, in the groups that use it."""
    times: dict[str, list[float]] = field(default_factory=dict)
    """By case: microseconds a call, a figure for each round."""


@contextlib.contextmanager
def place(core: int | None) -> Iterator[Place]:
    """Start the provider and the Redis that all use."""
    from tests.cache_servers import RedisServer

    answers = {case.text: case.answer for case in CASES.values()}
    with tempfile.TemporaryDirectory(prefix="llmcache-peers-") as folder, Sandbox(answers=answers) as provider:
        server = RedisServer()
        try:
            if core is not None:
                os.sched_setaffinity(int((server.folder / "pid").read_text()), {core})
            yield Place(provider, server.port, Path(folder), core)
        finally:
            server.close()


def ready(entrant: Entrant, packages: tuple[str, ...], python: str | Path, shared: Place, turn_ms: float) -> Racer:
    """Start an entrant, pay for its first calls, and see that the next are hits. FailedError when they are not."""
    folder = shared.folder / entrant.name
    worker = Worker(python, folder, shared.core)
    try:
        own = {"base_url": shared.provider.base_url, "redis_port": shared.redis_port, "folder": str(folder)}
        told = worker.tell(do="open", name=entrant.name, packages=packages, place=own)
        racer = Racer(entrant, worker, {"Python": told["python"], **told["versions"]})
        for case in CASES:
            first_calls(racer, case, shared.provider, turn_ms)
        if entrant.group.startswith("redis"):
            racer.commands = _commands_a_hit(racer, shared.redis_port)
    except BaseException:
        worker.stop()
        raise
    return racer


def first_calls(racer: Racer, case: str, provider: Sandbox, turn_ms: float) -> None:
    """Make a case's first call and then two hits, and see what a turn is. FailedError when those were no hits."""
    before = provider.received
    right = racer.worker.tell(do="ask", case=case)["right"]
    racer.first_requests[case] = provider.received - before
    before = provider.received
    compared = racer.worker.tell(do="compare", case=case)
    if not right or not compared["right"]:
        raise FailedError(f"the {case} answer is not the provider's")
    if requests := provider.received - before:
        raise FailedError(f"two hits, {case}: {requests} requests at the provider")
    racer.shared = racer.shared or compared["shared"]
    about = racer.worker.tell(do="time", case=case, hits=_FEWEST_HITS)["us"]
    racer.hits[case] = hits_in(turn_ms, about)
    racer.times[case] = []


def _commands_a_hit(racer: Racer, port: int) -> float:
    import redis

    pairs = 10
    with redis.Redis(port=port) as client:
        counts: list[int] = []
        for orders in (pairs, 0):
            told: Any = client.info("stats")
            counts.append(told["total_commands_processed"])
            for _ in range(orders):
                racer.worker.tell(do="compare", case="small")
    # The first of the two questions is counted in the second.
    return (counts[1] - counts[0] - 1) / (2 * pairs)


def hits_in(turn_ms: float, us: float) -> int:
    """Return how many calls make a turn of this length."""
    return max(_FEWEST_HITS, min(_MOST_HITS, round(turn_ms * 1_000 / us)))


def race(racers: list[Racer], provider: Sandbox, rounds: int, tell: Callable[[str], None]) -> None:
    """Let everybody have a turn of each case in each round, in random order, and rest in between."""
    for racer in racers:
        racer.worker.rest()
    turns = [(racer, case) for racer in racers for case in CASES]
    for number in range(rounds):
        for racer, case in random.sample(turns, len(turns)):
            before = provider.received
            racer.worker.wake()
            racer.times[case].append(racer.worker.tell(do="time", case=case, hits=racer.hits[case])["us"])
            racer.worker.rest()
            racer.hit_requests += provider.received - before
        tell(f"round {number + 1} of {rounds}")
