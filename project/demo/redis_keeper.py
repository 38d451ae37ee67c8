"""A process of its own that keeps the demo's Redis: started by its first user, it ends the server after the last one.

``python redis_keeper.py PROGRAM FOLDER SOCKET``. A user holds a shared lock on ``FOLDER/users`` for as long as it uses
the server. The lock of a user that is killed is gone too: nothing is left behind. Writes a line once the server
answers, and ends before that where it does not. Imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

START_SECONDS: Final = 20.0
END_SECONDS: Final = 20.0
"""How long the server may take to save what it has."""
_PR_SET_PDEATHSIG: Final = 1


def answers(place: Path) -> bool:
    """Return whether a Redis answers at a socket, and has read what it had saved."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        connection.connect(str(place))
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False


def _command(program: str, folder: Path, place: Path) -> list[str]:
    options = {
        # Nobody reaches it over a network.
        "port": "0",
        "unixsocket": str(place),
        "unixsocketperm": "700",
        "dir": str(folder),
        "logfile": str(folder / "log"),
        # Saved at the end, and after a minute with changes: a machine that loses power loses a minute's answers.
        "dbfilename": "entries.rdb",
        # In two words: as one, some versions take it for no saving at all.
        "save": ("60", "1"),
        "appendonly": "no",
        "stop-writes-on-bgsave-error": "no",
    }
    words = ((f"--{name}", *((value,) if isinstance(value, str) else value)) for name, value in options.items())
    return [program, *(word for each in words for word in each)]


def _end_with_keeper() -> None:
    """Let Linux end the server when this process is killed; elsewhere it goes on until its next user has been."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _started(server: subprocess.Popen[bytes], place: Path) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while not answers(place):
        if server.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _stop(server: subprocess.Popen[bytes], folder: Path, place: Path) -> None:
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        # It does not end while it cannot save.
        server.kill()
        server.wait()
    place.unlink(missing_ok=True)
    if place.parent != folder:
        with contextlib.suppress(OSError):
            place.parent.rmdir()


def _asked_to_end(*_: object) -> None:
    raise SystemExit


def main() -> int:
    """Start the server, say so, wait for the last user, and stop it."""
    program, folder, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    signal.signal(signal.SIGTERM, _asked_to_end)
    # The server makes its files and its socket for this user alone.
    os.umask(0o077)
    with (
        (folder / "users").open("rb") as users,
        subprocess.Popen(
            _command(program, folder, place),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # There are no threads here that could hold a lock.
            preexec_fn=_end_with_keeper,
        ) as server,
    ):
        try:
            if not _started(server, place):
                return 1
            print("ready", flush=True)
            # Held until the server has ended: who comes meanwhile waits, and starts another.
            fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            _stop(server, folder, place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
