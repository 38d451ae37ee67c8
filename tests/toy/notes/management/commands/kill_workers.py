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
_LONGEST_LIFE = 0.05


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
        for number in range(options["kills"]):
            reader, writer = os.pipe()
            worker = os.fork()
            if worker == 0:
                os.close(reader)
                _work(number, writer)
            os.close(writer)
            for _ in range(THREADS):
                assert os.read(reader, 1), "a worker ended by itself"
            os.close(reader)
            threading.Event().wait(chance.uniform(0.0, _LONGEST_LIFE))
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
        self.stdout.write(str(options["kills"]))


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
