"""Virtual environments of the entrants, with the versions that ``constraints.txt`` pins, kept for the next run."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "var" / "peers"
CONSTRAINTS: Final = Path(__file__).parent / "constraints.txt"
_INSTALL_SECONDS: Final = 900


class NotInstalledError(Exception):
    """An environment could not be made; the text is what pip said first of what is wrong."""


def python_of(name: str, packages: tuple[str, ...], kept: Path, constraints: Path = CONSTRAINTS) -> Path:
    """Return the Python of an environment, made where it is not there yet. NotInstalledError when that fails."""
    pins = constraints.read_text()
    print_ = hashlib.sha256(f"{sys.version}\n{packages}\n{pins}".encode()).hexdigest()[:10]
    folder = kept / f"{name}-{print_}"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    # By the pip that is here, and compiled where it is imported: half the time.
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install")
    options = ("--quiet", "--no-input", "--prefer-binary", "--no-compile", "--constraint", str(constraints))
    try:
        _run(*pip, *options, *packages)
    except NotInstalledError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / "ready").touch()
    return python


class Pythons:
    """The interpreters of a run: each environment is made when it is first asked for, and tried once."""

    def __init__(self, kept: Path = KEPT) -> None:
        self._kept = kept
        self._made: dict[str, Path | NotInstalledError] = {}

    def of(self, name: str, packages: tuple[str, ...]) -> Path:
        """Return an environment's Python, that of this process for "". NotInstalledError whenever it was not made."""
        if not name:
            return Path(sys.executable)
        if name not in self._made:
            try:
                self._made[name] = python_of(name, packages, self._kept)
            except NotInstalledError as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, NotInstalledError):
            raise made
        return made


def _run(*command: str) -> None:
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"not installed within {_INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        said = [line for line in done.stdout.splitlines() if line.startswith("ERROR")] or done.stdout.splitlines()
        last = said[0].replace(f"{ROOT}/", "") if said else "pip said nothing"
        raise NotInstalledError(f"not installed: {last}"[:300])
