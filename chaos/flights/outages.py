"""Redis killed again and again, or frozen: who fails, what is wrong, and what it takes longer."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, Final

from chaos.flights.scene import Figure, Grounds, Hand, Scene, at_share, counted, timed
from llmcache.tiers.redis_pool import SOCKET_SECONDS

_ADDED: Final = 0.025
_WELL: Final = 1.0


@dataclass(frozen=True)
class Outages:
    """How much is asked, and how often the server goes."""

    calls: int = 10_000
    threads: int = 16
    texts: int = 5_000
    """So many that about as much is asked for anew where nothing is lost."""
    pause: float = 0.15
    provider: float = 0.01
    kills: int = 50
    freezes: int = 10
    frozen: float = 1.0
    seed: str = "outages"

    @property
    def seconds(self) -> float:
        """About how long the calls take in all."""
        return self.calls / self.threads * (self.pause + self.provider)


def restarts(grounds: Grounds, size: Outages) -> list[Figure]:
    """Kill the server while a process asks; then ask the same with a server that is left alone."""
    dice = random.Random(size.seed)
    with grounds.scene() as scene:
        (hand,) = scene.hands(1)
        _begin(scene, hand, size)
        for _ in range(size.kills):
            time.sleep(dice.uniform(0, 1.6) * size.seconds / size.kills)
            grounds.redis.stop()
            time.sleep(dice.uniform(0, 0.1))
            grounds.redis.start()
        found = hand.hear()
        agreement = scene.agreement()
        figures = [*_right(found, f"Redis killed {size.kills} times"), agreement]
    with grounds.scene() as scene:
        (hand,) = scene.hands(1)
        _begin(scene, hand, size)
        control = _took(hand.hear())
    usual = at_share(sorted(control), 0.99)
    figures.append(
        timed(
            f"Redis killed: all calls (left alone: p99 {1_000 * usual:.0f} ms)",
            _took(found),
            usual + _ADDED,
            share=0.99,
        )
    )
    return figures


def freezes(grounds: Grounds, size: Outages) -> list[Figure]:
    """Let the server stand still now and then while a process asks."""
    dice = random.Random(size.seed)
    thawed: list[float] = []
    with grounds.scene() as scene:
        (hand,) = scene.hands(1)
        _begin(scene, hand, size)
        for _ in range(size.freezes):
            time.sleep(0.2 + dice.uniform(0, 1) * max(0.0, size.seconds / size.freezes - size.frozen - _WELL))
            grounds.redis.freeze()
            try:
                time.sleep(size.frozen)
            finally:
                thawed.append(time.monotonic())
                grounds.redis.thaw()
            time.sleep(_WELL)
        found = hand.hear()
        agreement = scene.agreement()
    return [
        *_right(found, f"Redis frozen {size.freezes} times for {size.frozen:g} s"),
        agreement,
        timed("Redis frozen: all calls", _took(found), 1.5 * SOCKET_SECONDS, share=0.99),
        timed("Redis frozen: the slowest call", _took(found), 2 * SOCKET_SECONDS + 0.05),
        timed("Redis thawed: until it answers a call", [_well(found, at) for at in thawed], _WELL),
    ]


def _begin(scene: Scene, hand: Hand, size: Outages) -> None:
    texts = [scene.text(f"text {number}") for number in range(size.texts)]
    scene.sandbox.latency = size.provider
    hand.tell("load", texts=texts, calls=size.calls, threads=size.threads, pause=size.pause, seed=size.seed)


def _right(found: list[list[Any]], what: str) -> list[Figure]:
    failed = sum(outcome == "error" for _, outcome, *_ in found)
    wrong = sum(name is not True and outcome != "error" for name, outcome, *_ in found)
    return [
        counted(f"{what}, {len(found):,} calls: failed", failed, 0),
        counted("with a wrong answer", wrong, 0),
    ]


def _took(found: list[list[Any]]) -> list[float]:
    return [ended - began for _, _, began, ended in found]


def _well(found: list[list[Any]], thawed: float) -> float:
    """Return after how long the first call was answered from the server that had begun after it went on."""
    ends = [ended for _, outcome, began, ended in found if outcome == "hit" and began >= thawed]
    return min(ends, default=float("inf")) - thawed
