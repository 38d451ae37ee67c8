"""What is left over: of processes that fork, loops that end, tasks that are cancelled, and a long life."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Final

import redis

from chaos.flights.scene import Figure, Grounds, counted
from llmcache.testing.sandbox import faults
from llmcache.tiers.redis_pool import MOST_CONNECTIONS
from tests.waiting import until

_MEGABYTE: Final = 2**20


@dataclass(frozen=True)
class Churn:
    """How many come and go."""

    children: int = 8
    loops: int = 200
    cancelled: int = 10_000
    at_once: int = 100
    texts: int = 20
    seed: str = "churn"


def churn(grounds: Grounds, size: Churn) -> list[Figure]:
    """Fork after use, ask in loops that end, and cancel at random."""
    with grounds.scene() as scene, redis.Redis.from_url(grounds.redis.url) as client:

        def connections() -> int:
            return int(client.info("clients")["connected_clients"])

        before = connections()
        (hand,) = scene.hands(1)
        for text in ("fork 0", "fork 1", "fork 2", "fork 3", "fork of all", "fork of the parent"):
            scene.text(text)
        for place in range(size.children):
            scene.text(f"fork of {place}")
        forked = hand.do("fork_after_use", count=size.children, text="fork")
        for number in range(size.loops):
            scene.text(f"loop {number}")
        loops = hand.do("loops", count=size.loops, text="loop")
        texts = [scene.text(f"text {number}") for number in range(size.texts)]
        scene.sandbox.fail(faults.slow(0.02), times=None)
        cancelled = hand.do("cancel", count=size.cancelled, at_once=size.at_once, texts=texts, seed=size.seed)
        until(lambda: hand.do("flush"))
        used = connections() - before
        hand.do("let_go")
        # The server hears of it a moment later.
        with contextlib.suppress(AssertionError):
            until(lambda: connections() <= before, seconds=10)
        after = connections()
        agreement = scene.agreement()
    return [
        counted(f"of {size.children} children forked after use, right", forked["right"], size.children),
        counted("of them, ended well", forked["ended"], size.children),
        counted("sockets that two processes used", forked["shared"], 0, kept=forked["shared"] == 0 < forked["used"]),
        counted(
            f"{size.loops} loops one after the other", loops, "a miss and a hit each",
            kept=loops == {"True miss": size.loops, "True hit": size.loops},
        ),
        counted(f"{cancelled['cancelled']:,} cancelled: hung", cancelled["hung"], 0),
        counted(
            "foreign answers, failures", f"{cancelled['foreign']}, {cancelled['failed']} of {cancelled['answered']}",
            "0, 0", kept=cancelled["foreign"] == cancelled["failed"] == 0 < cancelled["answered"],
        ),
        counted("flights and leases that are left", cancelled["held"], 0),
        counted(
            "connections to Redis", f"{used} at the end, {after - before} when the process lets go",
            f"at most {MOST_CONNECTIONS}, 0", kept=used <= MOST_CONNECTIONS and after == before,
        ),
        agreement,
    ]  # fmt: skip


@dataclass(frozen=True)
class Life:
    """How much comes and goes."""

    rounds: int = 10
    hits: int = 1_000_000
    misses: int = 100_000
    failures: int = 10_000


def life(grounds: Grounds, size: Life) -> list[Figure]:
    """Let hits, misses and failures come and go, and look at what the process has after each part of them."""
    rounds = size.rounds + 1
    # Memory is full after the first round, which warms up.
    hits, misses, failures = wanted = [number // size.rounds for number in (size.hits, size.misses, size.failures)]
    told: list[dict[str, int]] = []
    outcomes: Counter[str] = Counter()
    with grounds.scene(memory_bytes=_MEGABYTE) as scene:
        (hand,) = scene.hands(1)
        for turn in range(rounds):
            found = Counter(hand.do("times", count=misses, text=f"text {turn}"))
            scene.sandbox.fail(faults.unauthorized(), times=None)
            found.update(hand.do("times", count=failures, text=f"failing {turn}"))
            scene.sandbox.heal()
            # Those that memory has.
            found.update(hand.do("times", count=hits, text=f"text {turn}", of=min(misses, 100)))
            until(lambda: hand.do("flush"), seconds=600)
            told.append(hand.do("has"))
            if turn:
                outcomes.update(found)
        agreement = scene.agreement()
    first, rest = told[0], told[1:]
    grown = _slope([turn["bytes"] for turn in rest]) / _MEGABYTE
    return [
        counted(
            "hits, misses, failures", [outcomes[name] for name in ("hit", "miss", "error")],
            [number * size.rounds for number in wanted],
        ),
        counted("flights and leases that are left", sum(turn["held"] for turn in told), 0),
        counted("memory, from the first part to the last", f"{grown:+.1f} MB", "at most 5 MB", kept=grown <= 5),
        _steady("files and sockets", [turn["files"] for turn in rest], first["files"], 2),
        _steady("threads", [turn["threads"] for turn in rest], first["threads"], 1),
        agreement,
    ]  # fmt: skip


def _slope(values: list[int]) -> float:
    """Return by how much a straight line through the values rises from the first to the last."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    squares = sum((place - middle) ** 2 for place in range(len(values)))
    return sum((place - middle) * (value - mean) for place, value in enumerate(values)) / squares * (len(values) - 1)


def _steady(what: str, values: list[int], first: int, by: int) -> Figure:
    most = max(abs(value - first) for value in values)
    return counted(what, f"{first}, then {min(values)} to {max(values)}", f"± {by}", kept=most <= by)


@dataclass(frozen=True)
class Replay:
    """How much of the demo's log, by how many."""

    requests: int = 20_000
    processes: int = 4
    threads: int = 8
    every: int = 20


def replay(grounds: Grounds, size: Replay) -> list[Figure]:
    """Ask for the demo's log over processes and threads while every so-manieth call of the provider fails."""
    from project.demo.data import distinct, read_log

    log = read_log(size.requests)
    with grounds.scene(memory_bytes=64 * _MEGABYTE) as scene:
        scene.sandbox.answers.update({request.text: request.gold for request in log})
        hands = scene.hands(size.processes)
        before = scene.sandbox.received
        scene.sandbox.fail(faults.server_error(503), every=size.every)
        for place, hand in enumerate(hands):
            hand.tell("replay", count=size.requests, place=place, of=size.processes, threads=size.threads)
        told = [hand.hear() for hand in hands]
        scene.sandbox.heal()
        calls = scene.sandbox.received - before
        rows = scene.ledger()
    failures = calls // size.every
    wanted = distinct(log, separate_tenants=False)
    right = sum(each.get("right", 0) for each in told)
    return [
        counted(f"provider calls, {wanted:,} texts and {failures:,} failures", calls, wanted + failures),
        counted(f"of {size.requests:,} answers, equal to gold", right, size.requests),
        counted("flights and leases that are left", sum(each["held"] for each in told), 0),
        counted("rows in the ledger", len(rows) - size.processes, calls),
    ]
