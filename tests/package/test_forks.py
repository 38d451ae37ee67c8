"""Processes that tests fork in place of new interpreters are what those would be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forks
from tests.waiting import until

LOOK = """
import json, os, sys, tempfile
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ), "path": sys.path[:2],
    "temporary": tempfile.gettempdir(), "bytecode": sys.dont_write_bytecode, "name": __name__,
    "loaded": sorted(name for name in sys.modules if name.partition(".")[0] in ("llmcache", "project", "tests")),
    "interrupt": str(__import__("signal").getsignal(2)), "group": os.getpgid(0) == os.getpid(),
}))
"""


def environment(tmp_path: Path) -> dict[str, str]:
    paths = os.pathsep.join(str(tmp_path / name) for name in ("one", "two"))
    own = {"TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": paths}
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **own}


@pytest.mark.parametrize("how", ["-c", "-m", "script"])
def test_it_sees_what_a_new_interpreter_sees(how: str, tmp_path: Path) -> None:
    (tmp_path / "looks.py").write_text(LOOK)
    arguments = {"-c": ["-c", LOOK, "x"], "-m": ["-m", "looks", "x"], "script": ["looks.py", "x"]}[how]
    env = environment(tmp_path)
    own = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    done = forks.run(arguments, env=env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == own.stdout


def test_its_end_is_told_as_that_of_any_process(tmp_path: Path) -> None:
    env = environment(tmp_path)
    assert forks.run(["-c", "raise SystemExit(3)"], env=env, cwd=tmp_path).returncode == 3
    failed = forks.run(["-c", "import atexit; atexit.register(print, 'over'); 1 / 0"], env=env, cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "over\n")
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    threads = "import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), print('last'))).start()"
    assert forks.run(["-c", threads], env=env, cwd=tmp_path).stdout == "last\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signals_reach_it(number: signal.Signals, tmp_path: Path) -> None:
    wait = "import sys; print('here', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with forks.Forked(["-c", wait], env=environment(tmp_path), cwd=tmp_path, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(30) == -number


def test_it_ends_with_who_has_asked_for_it(tmp_path: Path) -> None:
    """Also one who is killed: what forks goes when nobody is left to ask."""
    asks = (
        "from tests import forks; import os; forks.run(['-c', ''], env={}, cwd='/'); print(forks._server._process.pid)"
    )
    root = str(Path(__file__).resolve().parents[2])
    kills = f"{asks}; import sys; sys.stdout.flush(); os.kill(os.getpid(), 9)"
    for code, status in ((asks, 0), (kills, -9)):
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        until(lambda server=int(done.stdout): not Path(f"/proc/{server}").exists() or _is_over(server))


def _is_over(pid: int) -> bool:
    """Whether nobody but an init process that does not reap is left to hear of it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
