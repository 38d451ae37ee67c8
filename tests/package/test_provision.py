"""What the tests need of the system is found, installed where that may be, or asked for in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.provision import CHROMIUM, MissingError, Need, find, provide

ROOT = Path(__file__).resolve().parents[2]
NEED = Need("Thing", ("no-such-thing", "thing"), "thing-package", "LLMCACHE_TEST_THING")

# The package's program appears when it is installed; each call leaves a line.
APT = """#!/bin/sh
echo "$@" >>"$0.log"
case "$*" in
    *update*) exit 100 ;;
    *"install --yes --no-install-recommends thing-package") {then} ;;
esac
"""
WORKING = "#!/bin/sh\nexit 0\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the first of the path."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")
    return folder


def make(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_program_that_runs_is_found(programs: Path) -> None:
    make(programs / "no-such-thing", "#!/bin/sh\necho 'install a snap'; exit 1\n")
    made = make(programs / "thing", WORKING)
    assert find(NEED) == provide(NEED, may_install=False) == made


def test_a_variable_names_the_program(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(programs / "thing", WORKING)
    own = make(programs / "own", WORKING)
    monkeypatch.setenv(NEED.variable, str(own))
    assert find(NEED) == own
    monkeypatch.setenv(NEED.variable, str(programs / "gone"))
    # What somebody names is not replaced in silence, and not by an installation.
    make(programs / "apt-get", APT.format(then="exit 0"))
    with pytest.raises(MissingError, match=r"LLMCACHE_TEST_THING names '.*gone'.*unset it"):
        provide(NEED, may_install=True)
    assert not (programs / "apt-get.log").exists()


def test_who_may_not_install_is_told_what_to_run(programs: Path) -> None:
    make(programs / "apt-get", APT.format(then="exit 0"))
    with pytest.raises(MissingError, match=r"need Thing.*'apt-get install thing-package' as root.*LLMCACHE_"):
        provide(NEED, may_install=False)
    assert not (programs / "apt-get.log").exists()


def test_a_missing_program_is_installed(programs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(programs / "apt-get", APT.format(then=f"printf '#!/bin/sh' >{programs}/thing; chmod +x {programs}/thing"))
    assert provide(NEED, may_install=True) == programs / "thing"
    assert len((programs / "apt-get.log").read_text().splitlines()) == 2
    assert capfd.readouterr().err == "Installing thing-package for the tests …\n"


def test_an_installation_that_fails_is_tried_once_more_and_told_in_one_line(programs: Path) -> None:
    make(programs / "apt-get", APT.format(then="echo 'E: no network'; exit 100"))
    with pytest.raises(MissingError) as raised:
        provide(NEED, may_install=True)
    assert str(raised.value).endswith("apt-get has failed here: E: no network")
    assert "\n" not in str(raised.value)
    assert len((programs / "apt-get.log").read_text().splitlines()) == 4


def run(**variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "tests/provision.py"],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_is_silent_when_all_is_there_and_has_one_line_when_not(tmp_path: Path) -> None:
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run(**{CHROMIUM.variable: str(tmp_path / "gone")})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Traceback" not in done.stderr
