"""Python processes for tests, forked from one that has imported the libraries: each saves a second of work.

They are processes of their own in every respect that a test may look at: their environment, folder, standard files,
signals and end are what those of a new interpreter would be. What is about the interpreter itself (its options, what it
imports, its first moments) starts one in the usual way.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

_SERVER = Path(__file__).with_name("fork_server.py")
# What an interpreter reads of its environment when it begins.
_OWN = ("PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG")


class _Server:
    """The process that forks, for as long as this one lives."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen([sys.executable, _SERVER, str(number)], pass_fds=[number])
        atexit.register(self.close)

    def fork(self, order: dict[str, Any], files: list[int]) -> socket.socket:
        """Have a process started; returns the line over which its number and then its exit code come."""
        line, theirs = socket.socketpair()
        with theirs, self._lock:
            data = json.dumps(order).encode() + b"\n"
            socket.send_fds(self._ours, [b"f"], [theirs.fileno()])
            sent = socket.send_fds(line, [data], files)
            line.sendall(data[sent:])
        return line

    def close(self) -> None:
        """End it; what it has forked goes on."""
        if os.getpid() == self._pid:
            self._ours.close()
            self._process.wait()


_server: _Server | None = None
_making = threading.Lock()


def _serving() -> _Server:
    global _server
    with _making:
        if _server is None:
            _server = _Server()
        return _server


class Forked:
    """A process that runs what ``python *arguments`` would; to be used as one of ``subprocess``."""

    def __init__(
        self,
        arguments: list[str],
        *,
        env: Mapping[str, str],
        cwd: str | Path,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = True,
        start_new_session: bool = False,
    ) -> None:
        if unusable := [name for name in _OWN if name in env]:
            raise ValueError(f"an interpreter reads {unusable} when it begins: start one")
        self.args = [sys.executable, *arguments]
        self.returncode: int | None = None
        self._lock = threading.Lock()
        theirs: list[int] = []
        ours: list[IO[Any] | None] = []
        for number, (given, mode) in enumerate(((stdin, "w"), (stdout, "r"), (stderr, "r"))):
            their, our = _file(number, given, mode, text, theirs)
            theirs.append(their)
            ours.append(our)
        self.stdin, self.stdout, self.stderr = ours
        order = {
            "arguments": [str(each) for each in arguments],
            "env": dict(env),
            "cwd": str(cwd),
            "new_session": start_new_session,
        }
        self._line = _serving().fork(order, theirs)
        for each in theirs:
            os.close(each)
        self._told = self._line.makefile("r")
        self.pid = int(self._told.readline())

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self.wait()

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once there is one; ``subprocess.TimeoutExpired`` where that takes longer."""
        with self._lock:
            if self.returncode is None:
                if timeout is not None and not select.select([self._line], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                # No word at all: the one who forks was killed.
                self.returncode = int(self._told.readline() or -signal.SIGKILL)
                self._told.close()
                self._line.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: A002
        """Return all that it writes until its end; ``subprocess.TimeoutExpired`` where that takes longer."""
        until = None if timeout is None else time.monotonic() + timeout
        read: dict[str, Any] = {}

        def keep(name: str, file: IO[Any]) -> None:
            read[name] = file.read()

        threads = [
            threading.Thread(target=keep, args=(name, file), daemon=True)
            for name, file in (("stdout", self.stdout), ("stderr", self.stderr))
            if file is not None and not file.closed
        ]
        for thread in threads:
            thread.start()
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                if input:
                    self.stdin.write(input)
                self.stdin.close()
        for thread in threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0.0))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if until is None else max(until - time.monotonic(), 0.0))
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        return read.get("stdout"), read.get("stderr")


def _file(number: int, given: Any, mode: str, text: bool, earlier: list[int]) -> tuple[int, IO[Any] | None]:
    """Return a standard file of the process, which is to be closed here, and this end of it if it is a pipe."""
    if given == subprocess.PIPE:
        reads, writes = os.pipe()
        their, our = (reads, writes) if mode == "w" else (writes, reads)
        return their, os.fdopen(our, mode if text else f"{mode}b", encoding="utf-8" if text else None)
    if given == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR), None
    if given == subprocess.STDOUT:
        return os.dup(earlier[1]), None
    return os.dup(number if given is None else given if isinstance(given, int) else given.fileno()), None


def run(
    arguments: list[str],
    *,
    env: Mapping[str, str],
    cwd: str | Path,
    stdin: Any = subprocess.DEVNULL,
    timeout: float | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run what ``python *arguments`` would to its end, and return what it wrote.

    Options of the interpreter, and what it reads of its environment when it begins, have a new one started.
    """
    is_optioned = arguments[0].startswith("-") and arguments[0] not in ("-m", "-c")
    # pytest wants to be the first to import what it looks into.
    if is_optioned or arguments[:2] == ["-m", "pytest"] or any(name in env for name in _OWN):
        return subprocess.run(
            [sys.executable, *arguments], env=env, cwd=cwd, stdin=stdin, timeout=timeout, check=check,
            capture_output=True, text=True,
        )  # fmt: skip
    with Forked(arguments, env=env, cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.wait(), output, errors)
    if check:
        done.check_returncode()
    return done
