"""What forks Python processes for tests: ``python tests/fork_server.py FD``, with the libraries imported already.

Nothing of this project is imported here, and no settings are read: a fork is a new process that has only skipped the
second that importing takes. It ends with the one who started it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("asyncio", "concurrent.futures.thread", "json", "logging.config", "multiprocessing", "runpy", "sqlite3", "uuid"),
    *("django", "django.core.management", "django.core.management.commands.migrate", "django.db.models"),
    *("django.db.backends.sqlite3.base", "django.http", "django.template", "django.test", "django.views.debug"),
    *("django.core.cache.backends.redis", "django.core.cache.backends.db", "django.core.cache.backends.locmem"),
    *("django.core.cache.backends.memcached", "django.forms", "django.utils.translation", "django.urls"),
    *("django.middleware.cache", "django.middleware.csrf", "django.shortcuts", "django.utils.cache"),
    *("pydantic", "pydantic.dataclasses", "genai_prices", "redis", "redis.asyncio", "psycopg"),
    *("httpx2", "httpcore2", "h11", "truststore", "anyio.abc", "anyio.streams.tls"),
    *("openai", "openai.types.chat", "openai.resources.chat.completions"),
)
_MOST_BYTES = 2**20


def main(control: socket.socket) -> None:
    """Fork whenever that is asked for; returns in the forks only, once they are to run."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    # Objects that are there before a fork are not looked through after it, so their pages stay shared.
    gc.collect()
    gc.freeze()
    # Ctrl-C is the business of who runs the tests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    told: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4_096)
            _reap(told)
        if control in ready:
            _, found, _, _ = socket.recv_fds(control, 1, 1)
            if not found:
                os._exit(0)
            line = socket.socket(fileno=found[0])
            order, files = _received(line)
            child = os.fork()
            if not child:
                signal.set_wakeup_fd(-1)
                for each in (signal.SIGCHLD, signal.SIGINT):
                    signal.signal(each, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for each in (control, line, *told.values()):
                    each.close()
                os.close(woken)
                os.close(wakes)
                _become(order, files)
                return
            for file in files:
                os.close(file)
            told[child] = line
            line.sendall(f"{child}\n".encode())


def _reap(told: dict[int, socket.socket]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        line = told.pop(pid)
        try:
            line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        except OSError:
            continue
        finally:
            line.close()


def _received(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return what is to be run, and its standard files."""
    data, files, _, _ = socket.recv_fds(line, _MOST_BYTES, 3)
    while not data.endswith(b"\n"):
        data += line.recv(_MOST_BYTES)
    return json.loads(data), list(files)


def _become(order: dict[str, Any], files: list[int]) -> None:
    """Become what a new interpreter would be, as far as anybody here looks."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        if file > 2:
            os.close(file)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    if order["new_session"]:
        os.setsid()
    tempfile.tempdir = None
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[0:1] = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as long as the process lives
    sys.stdout = open(1, "w", closefd=False, buffering=1 if os.isatty(1) else -1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    _ordered.arguments = order["arguments"]


class _Order:
    """What a fork is to run."""

    arguments: list[str]


_ordered = _Order()


def _run(arguments: list[str]) -> None:
    """Run what ``python ARGUMENTS`` would."""
    first, *rest = arguments
    if first == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.path.insert(0, str(Path(first).resolve().parent))
        sys.argv = arguments
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
    _run(_ordered.arguments)
