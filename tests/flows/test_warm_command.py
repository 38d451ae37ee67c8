"""``manage.py llmcache_warm``: from files and other sources to answers that are there, within bounds."""

import io
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pydantic import BaseModel

import llmcache
from llmcache.models import WarmingItem, WarmingPlan, WarmingRun
from llmcache.testing.sandbox import Sandbox, faults
from llmcache.warming import runs
from tests.conftest import MovedClock, llmcache_settings
from tests.flows.newcomer import ROOT, environment, real_api
from tests.flows.test_costs import SANDBOX_PRICES

pytestmark = pytest.mark.django_db


class Ticket(BaseModel):
    """A mail to the support."""

    title: str


TEXTS = ("The printer is on fire", "Where is my parcel?", "I cannot sign in")
SECRET = "my password is hunter2"


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers.update({text: {"title": text} for text in TEXTS})
    kinds = {"Ticket": {"type": Ticket}, "no type": {"ttl": 60}}
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS=kinds, MAX_RETRIES=0):
        yield sandbox


class Said:
    """What a command has said, and how it has ended."""

    def __init__(self, *arguments: object) -> None:
        out, err = StringIO(), StringIO()
        try:
            call_command("llmcache_warm", *map(str, arguments), stdout=out, stderr=err)
        except CommandError as error:
            self.status, self.error = error.returncode, str(error)
        else:
            self.status, self.error = 0, ""
        self.out, self.err = out.getvalue(), err.getvalue()
        assert "hunter2" not in self.out + self.err + self.error

    @property
    def data(self) -> Any:
        """The JSON that was printed."""
        return json.loads(self.out)


def warm(*arguments: object, kind: str = "Ticket") -> Said:
    return Said("--kind", kind, *arguments)


@pytest.fixture
def mails(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of JSON lines."""

    def write(*texts: object) -> Path:
        path = tmp_path / "mails.jsonl"
        path.write_text("".join(f"{json.dumps(text)}\n" for text in texts))
        return path

    return write


def hits(*texts: str, **options: Any) -> bool:
    """Return whether each text is answered without a call."""
    return all(llmcache.extract_with_info(text, Ticket, **options).outcome == "hit" for text in texts)


def nothing_was_done(sandbox: Sandbox) -> bool:
    return sandbox.received == 0 and not WarmingRun.objects.exists() and not WarmingItem.objects.exists()


# Texts


def test_a_file_is_warmed_once(sandbox: Sandbox, mails: Callable[..., Path]) -> None:
    llmcache.extract(TEXTS[0], Ticket)
    path = mails(*TEXTS, TEXTS[1], {"content": TEXTS[1]})
    said = warm("--json-lines", path)
    assert (said.status, sandbox.calls) == (0, 3)
    assert "3 items, 2 duplicates" in said.err
    assert "Done: 2 warmed, 1 live already, 0 failed, 0 left. 2 calls: $" in said.out
    assert hits(*TEXTS)
    assert llmcache.extract_with_info(TEXTS[2], Ticket).origin == "warming"
    # What is done with has no text any more.
    assert not WarmingItem.objects.exclude(text="").exists()
    again = warm("--json-lines", path, "--json")
    assert (again.status, sandbox.calls) == (0, 3)
    assert {name: again.data[name] for name in ("state", "items", "live", "warmed", "calls", "refused")} == {
        "state": "done", "items": 3, "live": 3, "warmed": 0, "calls": 0, "refused": 0,
    }  # fmt: skip


def test_a_dry_run_asks_nothing_and_writes_nothing(
    sandbox: Sandbox, mails: Callable[..., Path], tmp_path: Path
) -> None:
    llmcache.extract(TEXTS[0], Ticket)
    assert llmcache.flush()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.journal")}
    path = mails(*TEXTS, TEXTS[1])
    with CaptureQueriesContext(connection) as queries:
        said = warm("--json-lines", path, "--dry-run")
        told = warm("--json-lines", path, "--dry-run", "--json").data
    assert {query["sql"].split()[0] for query in queries.captured_queries} == {"SELECT"}
    assert (said.status, sandbox.calls, WarmingRun.objects.count()) == (0, 1, 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.journal")} == before
    lines = said.out.splitlines()
    assert lines[0] == "4 items: 1 duplicates, 1 live already, 2 to ask."
    assert lines[1].startswith("Estimated cost: $")
    assert "the mean of 1 earlier answer of Ticket" in lines[1]
    assert (told["items"], told["duplicates"], told["live"], told["to_ask"]) == (4, 1, 1, 2)
    assert float(told["usd"]) > 0


def test_what_holds_for_all_texts_is_in_their_requests(
    sandbox: Sandbox, mails: Callable[..., Path], tmp_path: Path
) -> None:
    system = tmp_path / "system.txt"
    system.write_text("Be brief\n")
    options = ("--system-file", system, "--tenant", "acme", "--tag", "a", "--tag", "b", "--ttl", "7d")
    own = {"content": TEXTS[1], "tenant": "own", "tags": ["c"], "system": "Be long", "params": {"seed": 7}}
    assert warm("--json-lines", mails(TEXTS[0], own), *options, "--model", "openai/gpt-5-mini").status == 0
    told = {"ttl": 7 * 86_400}
    assert hits(TEXTS[0], system="Be brief\n", tenant="acme", tags={"a", "b"}, **told)
    assert hits(TEXTS[1], system="Be long", tenant="own", tags={"a", "b", "c"}, seed=7, **told)
    assert sandbox.calls == 2
    assert warm("--json-lines", mails(TEXTS[2]), "--ttl", "none").status == 0
    assert hits(TEXTS[2], ttl=None)


def test_a_csv_and_standard_input(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mails.csv"
    path.write_text(f"id;body;who\n1;{TEXTS[0]};acme\n2;{TEXTS[1]};\n")
    said = warm("--csv", path, "--column", "body", "--tenant-column", "who", "--delimiter", ";")
    assert (said.status, said.error) == (0, "")
    assert hits(TEXTS[0], tenant="acme")
    assert hits(TEXTS[1])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(TEXTS[2]).encode())))
    assert warm("-").status == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{TEXTS[2]}\n".encode())))
    assert warm("--csv", "-", "--column", "1", "--json").data["live"] == 1
    assert sandbox.calls == 3


def test_an_empty_file_is_done_at_once(sandbox: Sandbox, mails: Callable[..., Path]) -> None:
    assert "0 items" in warm("--json-lines", mails(), "--dry-run").out
    said = warm("--json-lines", mails())
    assert (said.status, sandbox.received) == (0, 0)
    assert said.out.startswith("Done: 0 warmed, 0 live already")


def test_a_line_that_cannot_be_used_stops_it_or_is_passed_over(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "mails.jsonl"
    lines = [json.dumps(TEXTS[0])] * 10_000
    lines[6] = f'{{"content": "{SECRET}"'
    lines[9_998] = json.dumps(TEXTS[1])
    path.write_text("\n".join(lines))
    for more in ((), ("--on-error", "stop"), ("--dry-run",)):
        said = warm("--json-lines", path, *more)
        assert said.status == 1
        assert said.error.startswith(f"{path}:7: is no JSON")
        assert nothing_was_done(sandbox)
    said = warm("--json-lines", path, "--on-error", "go-on")
    assert (said.status, said.error) == (1, "1 lines could not be used, and were passed over.")
    assert f"{path}:7: is no JSON" in said.err
    assert "Done: 2 warmed" in said.out
    assert hits(*TEXTS[:2])
    assert sandbox.calls == 2


def test_only_so_many_bad_lines_are_told(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "mails.jsonl"
    path.write_text("{\n" * 1_000)
    said = warm("--json-lines", path, "--on-error", "go-on", "--dry-run", "--json")
    assert (said.status, said.data["refused"]) == (1, 1_000)
    assert "1,000 lines could not be used" in said.error
    assert len(said.err.splitlines()) == 21


def test_what_cannot_be_read_is_said_before_anything_is_done(sandbox: Sandbox, tmp_path: Path) -> None:
    for path, wrong in ((tmp_path / "none", "does not exist"), (tmp_path, "is a folder"), ("/dev/zero", "is no file")):
        for source in (("--json-lines", path), ("--csv", path, "--column", "a")):
            said = warm(*source)
            assert said.status == 2
            assert wrong in said.error
    (tmp_path / "mails.csv").write_text("a,b\n")
    said = warm("--csv", tmp_path / "mails.csv", "--column", "text")
    assert (said.status, "mails.csv:1: has no column 'text'" in said.error) == (1, True)
    assert nothing_was_done(sandbox)


# Sources


def open_tickets() -> Iterator[str]:
    """Return what a project wants to be warmed."""
    yield from TEXTS[:2]


def test_a_source_of_the_project(sandbox: Sandbox) -> None:
    with llmcache_settings(WARMING={"open tickets": open_tickets}):
        assert warm("--source", "open tickets").status == 0
        assert hits(*TEXTS[:2])
        said = warm("--source", "tests.flows.test_warm_command.open_tickets")
        assert said.status == 1
        assert "'open tickets'" in said.error
    assert sandbox.calls == 2


def test_types_and_sources_come_from_settings_alone(sandbox: Sandbox, mails: Callable[..., Path]) -> None:
    for kind in ("os.system", "this.s", "antigravity.fly", "no type", "ticket", "Ticket\0", "\x1b[2J"):
        said = warm("--json-lines", mails(TEXTS[0]), kind=kind)
        assert said.status == 2
        assert "There are: Ticket." in said.error
        assert "\x1b" not in said.error
    assert "did you mean 'Ticket'?" in warm("--json-lines", mails(TEXTS[0]), kind="Tickets").error
    assert Said("--json-lines", mails(TEXTS[0])).error.startswith("--kind is missing")
    assert warm("--source", "antigravity.fly").status != 0
    assert not {"antigravity", "this"} & sys.modules.keys()
    assert nothing_was_done(sandbox)


# Threads ask, which do not see what a test's transaction has invalidated.
@pytest.mark.django_db(transaction=True)
def test_the_costliest_misses_and_what_is_about_to_expire(sandbox: Sandbox) -> None:
    infos = [llmcache.extract_with_info(text, Ticket, ttl=3600) for text in TEXTS]
    assert llmcache.flush()
    costs = {text: info.cost_incurred_usd for text, info in zip(TEXTS, infos, strict=True)}
    dearest = max(costs, key=lambda text: costs[text] or 0)
    llmcache.invalidate(kind="Ticket")
    assert warm("--misses", "1", "--most", "1", "--ttl", "1h").status == 0
    assert sandbox.calls == 4
    assert hits(dearest, ttl=3600)
    said = warm("--expiring", "2", "--ttl", "1h", "--json")
    assert (said.status, said.data["failed"]) == (0, 0)
    assert sandbox.calls == 4 + said.data["warmed"]


def test_after_a_change_of_the_prompt(sandbox: Sandbox, tmp_path: Path) -> None:
    for text in TEXTS:
        llmcache.extract(text, Ticket, system="Read it.")
    assert llmcache.flush()
    path = tmp_path / "prompt.txt"
    path.write_text("Read it well.")
    assert "0 items" in warm("--changed", "--dry-run").out
    assert Said("--changed").status == 2
    said = warm("--changed", "--system-file", path)
    assert (said.status, sandbox.calls) == (0, 6)
    assert all(llmcache.extract(text, Ticket, system="Read it well.", cache="only") for text in TEXTS)


def test_a_plan_is_run_by_its_name(sandbox: Sandbox) -> None:
    WarmingPlan.objects.create(name="nightly", source="texts", texts="\n".join(TEXTS), kind="Ticket", max_calls=2)
    assert "3 items: 0 duplicates, 0 live already, 3 to ask." in Said("--plan", "nightly", "--dry-run").out
    assert nothing_was_done(sandbox)
    said = Said("--plan", "nightly", "--concurrency", "1")
    assert (said.status, sandbox.calls) == (3, 2)
    assert Said("--plan", "nightly").status == 0
    assert hits(*TEXTS)
    said = Said("--plan", "weekly")
    assert (said.status, said.error) == (2, "There is no plan 'weekly'. There are: nightly.")


class Terminal(StringIO):
    """Where somebody looks."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar(mails: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    call_command(
        "llmcache_warm", "--kind", "Ticket", "--json-lines", str(mails(*TEXTS)), stdout=StringIO(), stderr=terminal
    )
    assert "Warming" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


@pytest.mark.parametrize("years", [30, -60], ids=["after 2038", "before 1970"])
def test_a_clock_that_is_far_off(years: int, sandbox: Sandbox, clock: MovedClock, mails: Callable[..., Path]) -> None:
    clock.move(years * 365.25 * 86_400)
    with clock.kept():
        said = warm("--json-lines", mails(*TEXTS))
        assert (said.status, said.error, sandbox.calls) == (0, "", 3)
        assert hits(*TEXTS)


# Arguments


REFUSED: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "two sources": ("--misses", "3", "--source", "x"),
    "another than a dash": ("mails.jsonl",),
    "no column": ("--csv", "x"),
    "column of no csv": ("--json-lines", "x", "--column", "a"),
    "most of a file": ("--json-lines", "x", "--most", "3"),
    "budget of a plan": ("--plan", "x", "--max-calls", "3"),
    "budget of a pause": ("--pause", "x", "--max-calls", "3"),
    "tenant of misses": ("--misses", "3", "--tenant", "a"),
    "negative calls": ("--misses", "3", "--max-calls", "-1"),
    "huge calls": ("--misses", "3", "--max-calls", "2147483648"),
    "calls of many digits": ("--misses", "3", "--max-calls", "9" * 5_000),
    "no number": ("--misses", "3", "--max-calls", "1e3"),
    "digits of another script": ("--misses", "٣"),
    "negative dollars": ("--misses", "3", "--max-usd", "-0.01"),
    "huge dollars": ("--misses", "3", "--max-usd", "1e30"),
    "dollars of no number": ("--misses", "3", "--max-usd", "NaN"),
    "no calls a minute": ("--misses", "3", "--per-minute", "0"),
    "no concurrency": ("--misses", "3", "--concurrency", "0"),
    "huge concurrency": ("--misses", "3", "--concurrency", "257"),
    "no days": ("--misses", "0"),
    "days since before 1970": ("--misses", "100000"),
    "hours after 9999": ("--expiring", "99999999"),
    "no span": ("--misses", "3", "--ttl", "soon"),
    "empty tenant": ("--source", "x", "--tenant", ""),
    "surrogate": ("--source", "x", "--tag", "\udc80"),
    "model": ("--misses", "3", "--model", "no slash"),
    "delimiter": ("--csv", "x", "--column", "a", "--delimiter", '"'),
    "system": ("--source", "x", "--system-file", "/nowhere/system"),
    "system of standard input": ("--source", "x", "--system-file", "-"),
}


def test_arguments_that_cannot_be_used_are_refused(sandbox: Sandbox) -> None:
    with llmcache_settings(WARMING={"x": open_tickets}):
        for what, arguments in REFUSED.items():
            said = warm(*arguments)
            assert said.status != 0, what
            assert said.error, what
            assert len(said.error) < 500, what
    assert nothing_was_done(sandbox)


# Bounds and runs


def test_a_budget_ends_it_and_more_of_it_goes_on(sandbox: Sandbox, mails: Callable[..., Path]) -> None:
    said = warm("--json-lines", mails(*TEXTS), "--max-calls", "2", "--concurrency", "1", "--json")
    uid = said.data["uid"]
    assert (said.status, sandbox.calls) == (3, 2)
    assert f"--resume {uid} with a higher --max-usd or --max-calls" in said.error
    assert (said.data["state"], said.data["to_ask"]) == ("exhausted", 1)
    assert Said("--resume", uid, "--max-calls", "3").status == 0
    assert hits(*TEXTS)
    assert sandbox.calls == 3
    done = Said("--resume", uid)
    assert (done.status, done.error) == (1, f"The run {uid} is done: there is nothing to go on with.")


def test_what_fails_is_said(sandbox: Sandbox, mails: Callable[..., Path]) -> None:
    sandbox.fail(faults.refusal(), times=None, text=TEXTS[0])
    said = warm("--json-lines", mails(*TEXTS))
    assert said.status == 1
    assert said.error == "1 items have no answer, by the error: refused 1."
    assert "Done: 2 warmed, 0 live already, 1 failed, 0 left." in said.out
    sandbox.heal()
    sandbox.fail(faults.unauthorized(), times=None)
    said = warm("--json-lines", mails(TEXTS[0]))
    assert said.status == 1
    assert "authentication_failed" in said.error
    assert "--resume" in said.error


def test_runs_are_listed_paused_and_cancelled(sandbox: Sandbox) -> None:
    run = runs.prepare(TEXTS, kind="Ticket", max_calls=5)
    assert Said("--pause", run.uid).out.splitlines() == [
        f"The run {run.uid} is paused. 3 items are left.",
        f"To go on: python manage.py llmcache_warm --resume {run.uid}",
    ]
    assert Said("--pause", run.uid).status == 1
    heading, row = Said("--list").out.splitlines()
    assert (heading.split("\t")[0], row.split("\t")[0], row.split("\t")[3:6]) == ("run", run.uid, ["paused", "3", "3"])
    assert Said("--cancel", run.uid, "--json").data["dropped"] == 3
    assert Said("--cancel", run.uid).status == 1
    assert Said("--list", "--json").data[0]["state"] == "cancelled"
    for how in ("--pause", "--cancel", "--resume"):
        said = Said(how, "0" * 32)
        assert (said.status, "There is no run of warming" in said.error) == (2, True)
    assert sandbox.received == 0


class Broken(io.RawIOBase):
    """So many lines, and then Ctrl-C."""

    def __init__(self, lines: int) -> None:
        self._lines = iter(f'"text {number}"\n'.encode() for number in range(lines))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        line = next(self._lines, None)
        if line is None:
            raise KeyboardInterrupt
        buffer[: len(line)] = line
        return len(line)


def test_ctrl_c_while_texts_are_read_leaves_no_half_of_a_run(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Broken(450))))
    said = warm("-")
    assert said.status == 130
    assert nothing_was_done(sandbox)


# Processes


def start(var: Path, provider: Sandbox, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", "llmcache_warm", *map(str, arguments)],
        cwd=ROOT, env=environment(var, **real_api(provider)), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_ctrl_c_two_at_once_and_a_reader_that_has_gone(sandbox: Sandbox, var: Path, tmp_path: Path) -> None:
    """One begins and is stopped; two go on at the same time; each text is asked once."""
    path = tmp_path / "mails.jsonl"
    path.write_text("".join(f'"{number} onions"\n' for number in range(24)))
    sandbox.hold()
    first = start(var, sandbox, "--json-lines", path, "--kind", "Ingredient", "--concurrency", 4, "--json")
    sandbox.wait_until_received(4, timeout=60)
    first.send_signal(signal.SIGINT)
    sandbox.release()
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    uid, left = json.loads(out)["uid"], json.loads(out)["to_ask"]
    # What was under way has ended, and is paid for once.
    assert (sandbox.received, left) == (24 - left, left)
    assert 0 < left <= 20
    assert err.splitlines()[-1].endswith(
        f"Stopped, and {left} items are left. To go on: python manage.py llmcache_warm --resume {uid}"
    )
    # Two at one run, and a run of its own for the same texts; nobody reads what they say.
    both = [start(var, sandbox, "--resume", uid, "--concurrency", 2) for _ in range(2)]
    alone = start(var, sandbox, "--json-lines", path, "--kind", "Ingredient")
    gone = (both[0].stdout, alone.stdout, alone.stderr)
    both[0].stdout = alone.stdout = alone.stderr = None
    for pipe in gone:
        assert pipe is not None
        pipe.close()
    said = [process.communicate(timeout=60)[1] for process in (*both, alone)]
    assert [process.returncode for process in (*both, alone)] == [0, 0, 0], said
    assert sandbox.received == 24
    assert "Broken" not in said[0]
    with closing(sqlite3.connect(var / "db.sqlite3")) as database:
        assert database.execute("SELECT state, count(*) FROM llmcache_warmingrun GROUP BY state").fetchall() == [
            ("done", 2)
        ]
        assert database.execute("SELECT count(*) FROM llmcache_warmingitem WHERE text != ''").fetchone() == (0,)
