"""Warming by Celery workers that are killed on the way: each key is asked once, but for calls in doubt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from chaos.flights.scene import ROOT, Figure, Grounds, Hand, Scene, counted
from project.demo.data import TEXTS
from tests.waiting import until

_PATIENCE: Final = 600.0


@dataclass(frozen=True)
class Night:
    """How much is to be warmed, and how often that is broken off."""

    texts: int = 5_000
    live: int = 500
    """Of these, those whose answers are there before."""
    workers: int = 2
    kills: int = 2
    at_once: int = 16
    """Calls of one worker."""
    provider: float = 0.3


def killed_workers(grounds: Grounds, size: Night) -> list[Figure]:
    """Let workers warm texts of recipes, kill all of them now and then, and go on with the run."""
    kinds = {"Ingredient": {"type": "project.demo.types.Ingredient"}}
    with grounds.scene("redis", database="postgresql", KINDS=kinds) as scene:
        (hand,) = scene.hands(1)
        path = grounds.folder / f"{scene.name}.jsonl"
        path.write_text("".join(f"{json.dumps(text)}\n" for text in _texts(scene, size.texts)))
        first = hand.do("prepare_file", path=str(path), most=size.live, at_once=size.at_once)
        hand.do("warm", run=first, threads=size.at_once)
        scene.sandbox.latency = size.provider
        before, charged = scene.sandbox.received, scene.charged()
        run = hand.do("prepare_file", path=str(path), most=size.texts, at_once=size.at_once)
        asked = size.texts - size.live
        for kill in range(1, size.kills + 1):
            with _workers(scene, size.workers) as workers:
                hand.do("send", run=run, times=size.workers)
                reached = before + asked * kill // (size.kills + 1)
                scene.sandbox.wait_until_received(reached, timeout=_PATIENCE)
                for worker in workers:
                    os.killpg(worker.pid, signal.SIGKILL)
        with _workers(scene, size.workers):
            hand.do("send", run=run, times=size.workers)
            until(lambda: hand.do("state", run=run) != "running", _PATIENCE)
        return _figures(scene, hand, run, size, charged)


def _texts(scene: Scene, count: int) -> Iterator[str]:
    """Yield texts of recipes, and let the provider know what people have read in them."""
    with TEXTS.open(encoding="utf-8") as lines:
        for line in islice(lines, count):
            item = json.loads(line)
            scene.sandbox.answers[item["text"]] = item["gold"]
            yield item["text"]


@contextmanager
def _workers(scene: Scene, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start workers that fork, each in a group of its own; end them, where they have not been killed."""
    # Without warnings: a worker says of itself that it should not be root's.
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "chaos.celery_app", "worker", "--pool=prefork"]
    command += ["--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    made = [
        subprocess.Popen(
            [*command, f"--hostname=worker{number}@%h"],
            cwd=ROOT,
            env=scene.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for number in range(count)
    ]
    try:
        yield made
    finally:
        for worker in made:
            worker.terminate()
        for worker in made:
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


def _figures(scene: Scene, hand: Hand, run: str, size: Night, before: set[str]) -> list[Figure]:
    found = hand.do("told", run=run)
    # All that was noted is in the ledger, also by those that were killed.
    ends = scene.ledger()
    calls: list[tuple[str, str, str]] = [tuple(call) for call in hand.do("calls_of", run=run)]
    key_of = {call_id: key for key, _, call_id in calls}
    doubtful = {key for key, outcome, _ in calls if outcome == "in_doubt"}
    charged = scene.charged() - before
    asked = Counter(key_of[call_id] for call_id in charged & key_of.keys())
    again = {key: number - 1 for key, number in asked.items() if number > 1}
    most = size.workers * size.at_once * size.kills
    name = f"{size.texts:,} texts, {size.workers} workers killed {size.kills} times"
    return [
        counted(name, f"{found['state']}, {found['failed']} failed", "done, 0 failed"),
        counted("answers that are there", found["live"] + found["warmed"], size.texts),
        counted("keys asked for, of those that were not there", len(asked), size.texts - size.live),
        counted("provider calls", len(charged), size.texts - size.live + sum(again.values())),
        counted("keys asked again", len(again), f"≤ {most}", kept=len(again) <= most),
        counted("keys asked again that have no call in doubt", len(again.keys() - doubtful), 0),
        counted("calls in doubt, by the ledger", len(doubtful), f"≤ {most}", kept=len(doubtful) <= most),
        counted("calls of the provider's file that no row knows", len(charged - ends.keys()), 0),
    ]
