"""The demo's Celery app, and its worker, which ends with whoever has started it.

``python -m project.demo.celery_worker OPTION...``
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

from celery import Celery

BROKER: Final = "LLMCACHE_DEMO_BROKER"
"""The variable that names the broker."""
_PR_SET_PDEATHSIG: Final = 1

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
app = Celery("demo", broker=os.environ.get(BROKER))
app.conf.update(
    broker_connection_retry_on_startup=False,
    task_ignore_result=True,
    # One more message than it works at would wait in one worker while another has nothing to do.
    worker_prefetch_multiplier=1,
)
app.autodiscover_tasks()


def _end_with_starter() -> None:
    """Let Linux ask this process to end when the command is killed that has started it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    _end_with_starter()
    # By its name, so that there is one app and not that of `__main__` beside it.
    from project.demo.celery_worker import app as worker

    worker.worker_main(["worker", *sys.argv[1:]])
