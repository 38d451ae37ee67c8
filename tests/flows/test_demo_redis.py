"""The demo's own Redis: it comes and goes with who uses it, keeps the answers, and is nobody's condition."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.newcomer import ROOT, environment, manage
from tests.flows.test_demo import cells, number
from tests.flows.test_serve import serving
from tests.waiting import until

LINE = "1 1/4 cups cooked and pureed fresh butternut squash, or 1 10-ounce package frozen squash, defrosted"


def demo(var: Path, **more: str) -> subprocess.CompletedProcess[str]:
    done = manage(var, "demo", "--requests", "40", **more)
    assert done.returncode == 0, done.stderr
    return done


def processes(folder: Path) -> dict[int, str]:
    """What runs for a folder of the demo's: the server and its keeper, by their ids."""
    found: dict[int, str] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # A server shows its own title, with its socket.
        if any(str(folder / "redis") in os.fsdecode(word) for word in words):
            found[int(place.name)] = "keeper" if b"redis_keeper" in b" ".join(words) else "server"
    return found


def running_demo(var: Path) -> subprocess.Popen[str]:
    """A demo that takes long, once its first answers are kept."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "demo", "--requests", "120", "--latency-ms", "200"],
        cwd=ROOT,
        env=environment(var),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert any(" of 120\n" in line for line in process.stdout)
    return process


def test_a_run_leaves_its_answers_and_no_process(var: Path) -> None:
    done = demo(var)
    assert "entries in memory over redis" in done.stdout
    assert processes(var) == {}
    assert {path.name for path in (var / "redis").iterdir()} == {"entries.rdb", "log", "starting", "users"}
    # Nobody else reads answers there.
    assert (var / "redis").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number_of_signal", [signal.SIGKILL, signal.SIGTERM], ids=lambda each: each.name)
def test_a_killed_run_leaves_no_process_and_the_next_finds_what_was_paid(
    var: Path, number_of_signal: signal.Signals
) -> None:
    with running_demo(var) as process:
        assert sorted(processes(var).values()) == ["keeper", "server"]
        os.killpg(process.pid, number_of_signal)
        process.communicate(timeout=60)
    until(lambda: processes(var) == {})
    assert not (var / "redis" / "socket").exists()
    done = demo(var)
    assert number(cells(done.stdout)["hits: redis"][0]) > 0


def test_a_killed_keeper_takes_the_server_with_it(var: Path) -> None:
    with running_demo(var) as process:
        (keeper,) = (pid for pid, name in processes(var).items() if name == "keeper")
        os.kill(keeper, signal.SIGKILL)
        until(lambda: processes(var) == {})
        output, errors = process.communicate(timeout=60)
    # Redis is nobody's condition: calls go on, and are paid.
    assert process.returncode == 0, errors
    assert "All 120 values are equal" in output
    assert "'redis' cannot be" in errors


def test_commands_share_a_server_and_the_last_ends_it(var: Path) -> None:
    with serving(var, "--noreload") as (process, _, browser):
        assert sorted(processes(var).values()) == ["keeper", "server"]
        demo(var)
        assert sorted(processes(var).values()) == ["keeper", "server"]
        page = browser.ask(LINE, "extract")
        assert "The answer was in Redis. Nobody was asked." in page.text
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
        until(lambda: processes(var) == {})
    assert demo(var).stdout.count("provider calls: 0\n") == 1


@pytest.fixture
def deep(tmp_path: Path, migrated: bytes) -> Path:
    """A folder whose path is too long for a socket in it."""
    folder = tmp_path / ("deep" * 30) / "var"
    folder.mkdir(parents=True)
    (folder / "db.sqlite3").write_bytes(migrated)
    return folder


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files whose path is short."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


def test_a_path_too_long_for_a_socket_has_another(deep: Path, temporary: Path) -> None:
    first, second = [demo(deep, TMPDIR=str(temporary)) for _ in range(2)]
    assert "entries in memory over redis" in first.stdout
    assert "provider calls: 0\n" in second.stdout
    assert processes(deep) == {}
    assert list(temporary.iterdir()) == []


def test_where_it_cannot_start_entries_lie_on_disk(var: Path) -> None:
    (var / "redis").touch()
    first, second = demo(var), demo(var)
    for done in (first, second):
        assert done.stdout.count("Entries lie on disk and not in Redis: ") == 1
        assert "entries in memory over disk" in done.stdout
    assert "provider calls: 0\n" in second.stdout
    assert number(cells(second.stdout)["hits: disk"][0]) > 0


def test_a_damaged_file_of_answers_is_said(var: Path) -> None:
    (var / "redis").mkdir()
    (var / "redis" / "entries.rdb").write_bytes(b"REDIS0009 no more")
    done = demo(var)
    assert re.search(r"Entries lie on disk and not in Redis: it did not start, and \S+/redis/log", done.stdout)
    assert (var / "redis" / "entries.rdb").exists()
    assert not (var / "redis" / "socket").exists()


def test_a_folder_that_is_not_this_users_is_not_used(deep: Path, temporary: Path) -> None:
    """The temporary folder is open to everybody; a link stands for what a test may not make."""
    script = "from project.demo import tiers; print(tiers.socket_path(settings.VAR))"
    told = manage(deep, "shell", "-c", f"from django.conf import settings; {script}", TMPDIR=str(temporary))
    theirs = Path(told.stdout.splitlines()[-1]).parent
    assert theirs.parent == temporary
    theirs.symlink_to(deep)
    done = demo(deep, TMPDIR=str(temporary))
    assert f"Entries lie on disk and not in Redis: {theirs} is somebody else's." in done.stdout


def test_a_command_without_the_server_does_not_wait_for_it(var: Path) -> None:
    """As after a loss of power: the socket is there, and nobody listens."""
    (var / "redis").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(var / "redis" / "socket"))
    lines = (
        "import time, llmcache",
        "from llmcache.engine import process",
        "from project.demo.types import Ingredient",
        "began = time.monotonic()",
        "try: llmcache.extract('a line', Ingredient, cache='only')",
        "except llmcache.NotCached: print('not cached', process.current().tiers.names, time.monotonic() - began < 5)",
    )
    done = manage(var, "shell", "-c", "\n".join(lines))
    assert "not cached ('memory', 'redis') True" in done.stdout, done.stderr
    # And a run begins anew there.
    assert "entries in memory over redis" in demo(var).stdout
