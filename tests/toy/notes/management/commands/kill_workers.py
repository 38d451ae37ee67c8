"""Starts workers that extract with four threads, and kills each in the middle of it."""

import itertools
import os
import random
import signal
import threading
import traceback
from typing import Any

import openai  # noqa: F401 - loaded once, before the workers are forked: starting Python is most of a worker's time
from django.core.management.base import BaseCommand, CommandParser
from django.db import connections

import llmcache
from notes.types import Title

THREADS = 4
# Of a worker that has given its first answers; long enough for some to connect to PostgreSQL and import.
_LONGEST_LIFE = 0.12


class Command(BaseCommand):
    """A worker is a process forked before the first call, as a server's are; it dies soon after its first answers."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Take how many and which."""
        parser.add_argument("kills", type=int)
        parser.add_argument("seed", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        """Start and kill."""
        connections.close_all()
        chance = random.Random(options["seed"])
        # Two at a time, so that there are always several that claim the files of the dead.
        working = [_started(0), _started(1)]
        for number in range(2, options["kills"] + 2):
            worker, answers = working.pop(0)
            for _ in range(THREADS):
                assert os.read(answers, 1), "a worker ended by itself"
            os.close(answers)
            threading.Event().wait(chance.uniform(0.0, _LONGEST_LIFE))
            _kill(worker)
            working.append(_started(number))
        for worker, _ in working:
            _kill(worker)
        self.stdout.write(str(options["kills"]))


def _started(number: int) -> tuple[int, int]:
    """Fork a worker; returns its id and a pipe with a byte for each thread that has an answer."""
    reader, writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(reader)
        _work(number, writer)
    os.close(writer)
    return worker, reader


def _kill(worker: int) -> None:
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def _work(number: int, answers: int) -> None:
    def extract(thread: int) -> None:
        try:
            for count in itertools.count():
                llmcache.extract(f"worker {number} thread {thread} text {count}", Title, max_retries=0)
                if count == 0:
                    os.write(answers, b".")
        finally:
            traceback.print_exc()
            os._exit(1)

    threads = [threading.Thread(target=extract, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
