"""Extracts with four threads until standard input closes, then flushes; every answer is a line."""

import json
import sys
import threading
from typing import Any

from django.core.management.base import BaseCommand

import llmcache
from notes.types import Title

THREADS = 4


class Command(BaseCommand):
    """Prints ``answer`` or an error's name for each call, and at the end what ``flush()`` says, as JSON."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Extract, then flush."""
        over = threading.Event()
        saying = threading.Lock()

        def ask(thread: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                try:
                    llmcache.extract(f"thread {thread} text {number}", Title)
                    said = "answer"
                except Exception as error:  # noqa: BLE001 - whatever a caller would see
                    said = type(error).__name__
                with saying:
                    print(said, flush=True)

        threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        over.set()
        for thread in threads:
            thread.join()
        print(json.dumps({"flushed": llmcache.flush(timeout=30)}), flush=True)
