"""Run the tests of each neighbour in its own environment: ``python -m tests.neighbours [NAME ...] [-- OPTIONS]``.

Environments lie in ``var/neighbours`` and are made anew when what they are made of changes. They are made, and their
tests run, beside each other. ``OPTIONS`` are pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.peers.environments import NotInstalledError, python_of
from tests.cache_servers import redis_program
from tests.provision import MissingError

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
KEPT: Final = ROOT / "var" / "neighbours"
OURS: Final = ("django", "genai-prices", "platformdirs", "django-redis", "redis", "hiredis")
TESTING: Final = ("pytest", "pytest-django", "pytest-randomly", "pytest-timeout")
NEIGHBOURS: Final = {
    "instructor": ("instructor",),
    "langchain": ("langchain-core", "langchain-openai"),
    "celery_beat": ("django-celery-beat", "celery", "pydantic", "openai"),
}
_NOT_THEIRS: Final = ("PYTHONPATH", "DJANGO_SETTINGS_MODULE", "PYTHONDONTWRITEBYTECODE")
_TEST_SECONDS: Final = 300


def constraints_of(name: str) -> Path:
    """Return the file that pins what an environment is made of."""
    return HERE / f"constraints-{name}.txt"


def run(redis: str, options: list[str], name: str) -> tuple[bool, str]:
    """Make a neighbour's environment and run its tests; return whether they pass, and what is to be said of it.

    ``redis``: the program of the server.
    """
    began = time.monotonic()
    try:
        python = python_of(name, (*NEIGHBOURS[name], *OURS, *TESTING), KEPT, constraints_of(name))
    except NotInstalledError as error:
        return False, (
            f"{name}: no environment could be made: {error}\nCheck that pip reaches its index, and that it has the "
            f"versions of {constraints_of(name).relative_to(ROOT)}; then run make test-neighbours again."
        )
    made = time.monotonic()
    environment = {
        **{each: value for each, value in os.environ.items() if each not in _NOT_THEIRS},
        "LLMCACHE_TEST_REDIS": redis,
        # Not compiled when it was installed: once, here, is enough, also for the processes that tests start.
        "PYTHONPYCACHEPREFIX": str(KEPT / "pycache" / name),
    }
    command = [str(python), "-m", "pytest", "-c", str(HERE / "pytest.ini"), str(HERE / name), *options]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return False, f"{name}: not done within {_TEST_SECONDS} s\n{late.stdout or ''}"
    took = f"environment {made - began:.0f} s, tests {time.monotonic() - made:.0f} s"
    return done.returncode == 0, f"{done.stdout.rstrip()}\n{name}: {took}"


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return the exit status."""
    names, options = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        names, options = arguments[:cut], arguments[cut + 1 :]
    if unknown := [name for name in names if name not in NEIGHBOURS]:
        print(f"There is no neighbour {unknown[0]!r} (there are: {', '.join(NEIGHBOURS)}).", file=sys.stderr)
        return 2
    try:
        # The server is in a wheel of the development environment, or the system's.
        redis = str(redis_program())
    except MissingError as missing:
        print(missing, file=sys.stderr)
        return 1
    failed = False
    with ThreadPoolExecutor() as pool:
        for passed, said in pool.map(partial(run, redis, options), names or NEIGHBOURS):
            print(said, flush=True)
            failed = failed or not passed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
