"""What `make chaos` measures is measured rightly; and in small, over real processes, what needs no clock holds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from chaos import drawing
from chaos.arms import ARMS, BRIEF, Size
from chaos.staleness import SECOND, TEXTS, Commit, Read, concerned, staleness, tags_of, tenant_of

ROOT = Path(__file__).parents[2]
S = int(SECOND)


def commit(at: float, *texts: int) -> Commit:
    """Return an invalidation that takes a tenth of a second to be committed."""
    return Commit(int((at - 0.1) * S), int(at * S), frozenset(texts))


def read(at: float, asked: float, text: int = 1) -> Read:
    return Read(int(at * S), text, int(asked * S))


@pytest.mark.parametrize(
    ("reads", "commits", "stale", "worst"),
    [
        ([read(3, 1)], [], 0, []),
        ([read(3, 1)], [commit(2, 1)], 1, [1.0]),
        # Before it was committed, about another text, asked for since.
        ([read(1.95, 1)], [commit(2, 1)], 0, [0.0]),
        ([read(3, 1)], [commit(2, 2)], 0, [0.0]),
        ([read(3, 2.5)], [commit(2, 1)], 0, [0.0]),
        # The last read that did not know it, of whatever order they come in.
        ([read(3, 1), read(2.5, 1)], [commit(2, 1)], 2, [1.0]),
        # Several that it does not know: from the oldest on, and of each for itself.
        ([read(4, 1)], [commit(3, 1), commit(2, 1)], 1, [2.0, 1.0]),
        ([read(4, 2.5)], [commit(2, 1), commit(3, 1)], 1, [0.0, 1.0]),
    ],
)
def test_how_stale_a_read_is(reads: list[Read], commits: list[Commit], stale: int, worst: list[float]) -> None:
    found = staleness(reads, commits)
    assert (found.reads, found.stale, found.worst) == (len(reads), stale, worst)
    assert found.most == max(worst, default=0)


def test_which_texts_conditions_are_about() -> None:
    keys = [f"{text:064x}" for text in range(TEXTS)]
    everyone = frozenset(range(TEXTS))
    assert concerned({"everything": True}, keys) == concerned({"kind": "answers"}, keys) == everyone
    assert concerned({"tag": "text-3"}, keys) == concerned({"key": keys[3]}, keys) == {3}
    assert concerned({"tag": "text-3", "tenant": tenant_of(4)}, keys) == frozenset()
    assert concerned({"tag": tags_of(4)[1]}, keys) == {1, 4, 7, 10}
    assert concerned({"tenant": "acme"}, keys) == {0, 2, 4, 6, 8, 10}


def test_what_is_promised() -> None:
    size = Size()
    assert (size.readers, size.invalidations) == (8, 1_000)
    assert [arm.bound(size) for arm in ARMS.values()] == [2.2, 2.2, 0.0, 0.0, 2.2, 2.2, None]


def test_over_processes_strict_readers_are_never_stale_and_blind_ones_are(tmp_path: Path) -> None:
    """Orders alone: a read that begins after a commit is served nothing from before it, however long that takes."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "chaos",
            "--briefly",
            "--seed",
            "1",
            "--out",
            str(tmp_path),
            "strict",
            "blind",
            "projects",
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("LLMCACHE_", "DJANGO_"))},
        timeout=150,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    report = json.loads((tmp_path / "chaos.json").read_text())
    strict, blind, projects = report["strict"], report["blind"], report["projects"]
    assert (strict["stale"], strict["invalidations"]) == (0, BRIEF.invalidations)
    assert strict["reads"] > strict["served"] > 0
    assert blind["stale"] > 0
    assert (projects["lost"], projects["asked"]["miss"]) == (0, BRIEF.entries)
    assert projects["wiped"]["misses"] == BRIEF.wipes
    picture = ElementTree.parse(tmp_path / "chaos.svg")
    assert strict["title"] in "".join(picture.getroot().itertext())


def test_the_picture_has_a_line_for_each_part_with_a_promise() -> None:
    found = {"title": "a < b", "bound": 2.2, "worst": 1.5, "each": [0.0, 0.5, 1.5], "invalidations": 3}
    root = ElementTree.fromstring(drawing.drawn({"one": found, "control": {**found, "bound": None}, "projects": {}}))
    words = "".join(root.itertext())
    assert words.count("a < b") == 1
    assert "worst 1.50 s of 3" in words
    assert "promised: 2.2 s" in words
