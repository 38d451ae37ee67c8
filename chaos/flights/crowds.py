"""Many who ask for the same at once: how often the provider is asked, and how long it takes them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import redis

from chaos.flights.scene import Figure, Grounds, Over, Scene, counted, timed

_IN_ONE: Final = 0.06
_OVER_SEVERAL: Final = 0.25
_LAG: Final = 0.25
_START: Final = 0.3
"""Seconds after which processes begin that are told to begin at once."""


@dataclass(frozen=True)
class Crowd:
    """How many ask."""

    places: tuple[Over, ...] = ("redis", "postgresql", "disk")
    times: int = 20
    many: int = 64
    processes: int = 8
    provider: float = 0.3


def crowd(grounds: Grounds, size: Crowd) -> list[Figure]:
    """Let threads, tasks, both and processes ask for the same, over each place where leases can lie."""
    return [figure for over in size.places for figure in _crowd_over(grounds, over, size)]


def _crowd_over(grounds: Grounds, over: Over, size: Crowd) -> list[Figure]:
    shapes = {
        "one caller": (1, 0),
        f"{size.many} threads": (size.many, 0),
        f"{size.many} tasks": (0, size.many),
        f"{size.many} threads and tasks": (size.many, size.many),
    }
    figures: list[Figure] = []
    with grounds.scene(over) as scene:
        hands = scene.hands(size.processes)
        scene.sandbox.latency = size.provider
        for shape, (threads, tasks) in shapes.items():
            hands[0].do("crowd", text=scene.text(f"{shape} at first"), threads=threads, tasks=tasks)
            before, walls, outcomes = scene.sandbox.received, list[float](), Counter[str]()
            for turn in range(size.times):
                found = hands[0].do("crowd", text=scene.text(f"{shape} {turn}"), threads=threads, tasks=tasks)
                walls.append(found["wall"] - size.provider)
                outcomes.update(_outcomes(found["outcomes"], f"{shape} {turn}"))
            figures += _of_crowd(
                f"{shape}, {over}", scene.sandbox.received - before, size.times, size.times * (threads + tasks),
                outcomes, walls, _IN_ONE,
            )  # fmt: skip
        before, walls, outcomes = scene.sandbox.received, [], Counter()
        for turn in range(size.times):
            text, at = scene.text(f"processes {turn}"), time.monotonic() + _START
            for hand in hands:
                hand.tell("ask", text=text, at=at)
            answers = [hand.hear() for hand in hands]
            outcomes.update(_outcomes(Counter(f"{name} {outcome}" for name, outcome, *_ in answers), text))
            walls.append(max(end for *_, end in answers) - min(began for *_, began, _ in answers) - size.provider)
        figures += _of_crowd(
            f"{len(hands)} processes, {over}", scene.sandbox.received - before, size.times, size.times * len(hands),
            outcomes, walls, _OVER_SEVERAL,
        )  # fmt: skip
        figures.append(scene.agreement(over))
    return figures


def _outcomes(found: dict[str, int], text: str) -> Counter[str]:
    """Return how often each outcome came with the right answer; all else is wrong."""
    made: Counter[str] = Counter()
    for told, number in found.items():
        name, _, outcome = told.rpartition(" ")
        made[outcome if name == text else "wrong"] += number
    return made


def _of_crowd(
    what: str, calls: int, times: int, asked: int, outcomes: Counter[str], walls: list[float], bound: float
) -> list[Figure]:
    right = outcomes["miss"] == times and sum(outcomes[each] for each in ("miss", "collapsed", "hit")) == asked
    return [
        counted(
            what, f"{calls} calls, {dict(outcomes)}", f"{times} calls for {times} texts", kept=right and calls == times
        ),
        timed(f"{what}: more than the provider took", walls, bound),
    ]


@dataclass(frozen=True)
class Thousands:
    """How many ask in one process."""

    threads: int = 1_000
    tasks: int = 1_000
    provider: float = 0.3


def thousands(grounds: Grounds, size: Thousands) -> list[Figure]:
    """Let a thousand threads and a thousand tasks of one process ask for the same."""
    with grounds.scene() as scene:
        (hand,) = scene.hands(1)
        scene.sandbox.latency = size.provider
        before = scene.sandbox.received
        found = hand.do("crowd", text=scene.text("all of them"), threads=size.threads, tasks=size.tasks)
        outcomes = _outcomes(found["outcomes"], "all of them")
        calls, asked = scene.sandbox.received - before, size.threads + size.tasks
        right = outcomes["miss"] == 1 and sum(outcomes[each] for each in ("miss", "collapsed", "hit")) == asked
        return [
            counted(
                f"{size.threads:,} threads and {size.tasks:,} tasks", f"{calls} calls, {dict(outcomes)}", "1 call",
                kept=right and calls == 1,
            ),
            counted("flights and leases that are left", found["held"], 0),
        ]  # fmt: skip


@dataclass(frozen=True)
class Forked:
    """How many children ask."""

    children: int = 100
    provider: float = 5.0
    times: int = 3


def forked(grounds: Grounds, size: Forked) -> list[Figure]:
    """Let processes that were forked from a warm one ask for the same."""
    lags: list[float] = []
    outcomes: Counter[str] = Counter()
    with grounds.scene() as scene:
        (hand,) = scene.hands(1)
        scene.sandbox.latency = size.provider
        before = scene.sandbox.received
        for turn in range(size.times):
            text = scene.text(f"children {turn}")
            answers: list[list[Any]] = hand.do("fork", count=size.children, text=text)
            outcomes.update(outcome if name == text else "wrong" for name, outcome, *_ in answers)
            led = [ended for _, outcome, _, ended in answers if outcome == "miss"]
            lags += [max(0.0, ended - min(led)) for _, outcome, _, ended in answers if outcome == "collapsed" and led]
        calls = scene.sandbox.received - before
    right = outcomes["miss"] == size.times and outcomes["miss"] + outcomes["collapsed"] == size.times * size.children
    return [
        counted(
            f"{size.children} forked processes", f"{calls} calls, {dict(outcomes)}",
            f"{size.times} calls for as many texts", kept=right and calls == size.times,
        ),
        timed(f"{size.children} forked processes: lag behind their leader", lags, _LAG, share=0.99),
    ]  # fmt: skip


@dataclass(frozen=True)
class Commands:
    """How often and how long."""

    misses: int = 50
    provider: float = 5.0
    waits: float = 5.0
    many: int = 64


class Monitor:
    """What a Redis is told, by the address of who tells it; what its scripts do is not among it."""

    def __init__(self, server: Any, name: str) -> None:
        self._client = redis.Redis.from_url(server.url)
        self._monitor = self._client.monitor()
        self._name = name
        self.seen: list[tuple[float, str, str]] = []
        """When, by whom, which command."""
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Monitor:
        self._monitor.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with redis.Redis.from_url(self._client_url()) as other:
            other.set(f"end:{self._name}", 1, px=1)
        self._thread.join(20)
        self._monitor.__exit__(None, None, None)
        self._client.close()

    def _client_url(self) -> str:
        told = self._client.connection_pool.connection_kwargs
        return f"redis://{told['host']}:{told['port']}/0"

    def _listen(self) -> None:
        for told in self._monitor.listen():
            command = told["command"]
            if command.startswith(f"SET end:{self._name}"):
                return
            if told["client_type"] != "lua" and self._name in command:
                self.seen.append((time.monotonic(), f"{told['client_address']}:{told['client_port']}", command))


def commands(grounds: Grounds, size: Commands) -> list[Figure]:
    """Count the commands of misses, of a slow one that renews its lease, and of those who wait for it."""
    from llmcache.tiers import redis_leases as scripts

    renews, takes = (scripts._DIGESTS[each] for each in (scripts._RENEW, scripts._TAKE))
    # Nobody looks at the log's board meanwhile.
    with grounds.scene(RECHECK=3_000.0) as scene:
        leader, other = scene.hands(2)
        with Monitor(grounds.redis, scene.name) as quick:
            for number in range(size.misses):
                leader.do("ask", text=scene.text(f"miss {number}"))
        with Monitor(grounds.redis, scene.name) as slow:
            scene.sandbox.latency = size.provider
            leader.do("ask", text=scene.text("slow"))
            scene.sandbox.latency = 0.0
        polls, waited = _polls(grounds, scene, leader, other, size, takes)
    renewals = sum(renews in command for *_, command in slow.seen)
    # Also a quick one renews, on a machine that is slow.
    misses = sum(renews not in command for *_, command in quick.seen)
    expected = 1 + int((size.provider - 0.7) // (10 / 3))
    rate = len(polls) / waited
    first = sum(at - polls[0] <= 1 for at in polls) if polls else 0
    return [
        counted(f"Redis commands of {size.misses} misses", misses, 3 * size.misses),
        counted(f"of one of {size.provider:g} s beside its renewals", len(slow.seen) - renewals, 3),
        counted("its renewals", renewals, f"at most {expected}", kept=renewals <= expected),
        counted(
            f"of {2 * size.many} who wait in one process", f"{rate:.1f} a second together, {first} in the first",
            "at most 8 a second", kept=0 < rate <= 8,
        ),
    ]  # fmt: skip


def _polls(
    grounds: Grounds, scene: Scene, leader: Any, other: Any, size: Commands, takes: str
) -> tuple[list[float], float]:
    """Return when those who waited in a process asked the server, and how long they did."""
    received = scene.sandbox.received
    scene.sandbox.hold()
    text = scene.text("waited for")
    leader.tell("ask", text=text)
    scene.sandbox.wait_until_received(received + 1)
    with Monitor(grounds.redis, scene.name) as monitor:
        began = time.monotonic()
        other.tell("crowd", text=text, threads=size.many, tasks=size.many)
        time.sleep(size.waits)
        waited = time.monotonic() - began
    scene.sandbox.release()
    leader.hear()
    other.hear()
    # What the leader does meanwhile is no look of theirs.
    return [at for at, _, command in monitor.seen if takes in command], waited
