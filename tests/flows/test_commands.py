"""The commands that tell and decide: what they print, what they change, and with which status they end."""

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pydantic import BaseModel

import llmcache
from llmcache.management import output
from llmcache.management.output import SpokenCommand, printable, stopped_by_signals
from llmcache.models import CacheEntry, Invalidation, ProviderCall
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES

pytestmark = pytest.mark.django_db

TEXTS = ("The printer is on fire", "Where is my parcel?", "I cannot sign in")


class Ticket(BaseModel):
    """A mail to the support."""

    title: str


class Terminal(io.StringIO):
    """Where somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers.update({text: {"title": f"About {number}"} for number, text in enumerate(TEXTS)})
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"inbox": {"type": Ticket}}):
        yield sandbox


@pytest.fixture
def asked(provider: Sandbox) -> Sandbox:
    """Three texts that were asked, and two hits."""
    for text in (*TEXTS, *TEXTS[:2]):
        llmcache.extract(text, Ticket, kind="inbox", tenant="acme", tags=["mail"], subject="Ada")
    assert llmcache.flush()
    return provider


def said(command: str, *arguments: object, out: io.StringIO | None = None) -> tuple[str, str]:
    """Run a command, and return what it has said of its result, and beside it."""
    told, beside = out or io.StringIO(), io.StringIO()
    call_command(f"llmcache_{command}", *map(str, arguments), stdout=told, stderr=beside)
    assert not any(text in told.getvalue() + beside.getvalue() for text in TEXTS)
    return told.getvalue(), beside.getvalue()


def data(command: str, *arguments: object) -> Any:
    return json.loads(said(command, "--json", *arguments)[0])


def ended(status: int, command: str, *arguments: object, out: io.StringIO | None = None) -> str:
    """Run a command that does not succeed; return what it has said of that, in one line."""
    with pytest.raises(CommandError) as error:
        said(command, *arguments, out=out)
    assert error.value.returncode == status
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def give_input(monkeypatch: pytest.MonkeyPatch, text: str, *, terminal: bool = False) -> None:
    given = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    monkeypatch.setattr(given, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdin", given)


# What calls came to


def test_stats_are_those_of_the_package(asked: Sandbox) -> None:
    stats = llmcache.stats()
    told = data("stats")
    assert (told["hits"], told["misses"], told["calls"]) == (stats.hits, stats.misses, stats.calls) == (2, 3, 3)
    assert (told["spent_usd"], told["saved_usd"]) == (f"{stats.spent_usd:f}", f"{stats.saved_usd:f}")
    by_kind = data("stats", "--by", "kind", "--since", "2h")
    assert (by_kind["by"], list(by_kind["parts"])) == ("kind", ["inbox"])
    assert by_kind["parts"]["inbox"]["hits"] == 2
    assert data("stats", "--by", "tenant", "--all")["parts"]["acme"]["saved_usd"] == told["saved_usd"]


def test_a_table_has_tabs_for_programs_and_columns_for_people(asked: Sandbox) -> None:
    lines = said("stats", "--by", "kind")[0].splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["kind", "hits"], ["inbox", "2"]]
    shown = said("stats", "--by", "kind", out=Terminal())[0].splitlines()
    assert "\t" not in "".join(shown)
    assert shown[0].index("stale") == shown[1].index("0")
    assert dict(line.split("\t") for line in said("stats")[0].splitlines())["hits"] == "2"


def test_a_span_that_is_none_is_a_wrong_argument() -> None:
    for span in ("7", "-1d", "9999999d", "999999w", "soon"):
        with pytest.raises(CommandError, match=r"span of time|before all time"):
            said("stats", f"--since={span}")
    with pytest.raises(CommandError, match="not allowed with"):
        said("stats", "--all", "--since=1d")


def test_prices_say_what_is_used_and_what_has_none(asked: Sandbox) -> None:
    llmcache.extract(TEXTS[0], Ticket, model="openai/house-7b")
    told = data("prices")
    priced, unpriced = told["models"]
    assert (priced["model"], priced["calls"], priced["unpriced"]) == ("openai/gpt-5-mini", 3, 0)
    assert (priced["answered_as"], priced["source"]) == ("gpt-5-mini-2026-01-01", "settings")
    prices = SANDBOX_PRICES["openai/gpt-5-mini"]
    assert priced["input_usd"] == f"{prices['input']:f}"
    assert priced["output_usd"] == f"{prices['output']:f}"
    assert (unpriced["model"], unpriced["unpriced"], unpriced["input_usd"]) == ("openai/house-7b", 1, None)
    assert told["without_a_price"] == ["openai/house-7b"]
    assert [each["model"] for each in data("prices", "--unpriced")["models"]] == ["openai/house-7b"]
    table, beside = said("prices", "--all")
    assert "openai/house-7b" in table
    assert "add them to LLMCACHE['PRICES']" in beside
    assert "1 models have no price" in ended(1, "prices", "--check")


# Why


def test_explaining_reads_the_text_from_a_file_or_from_standard_input(
    asked: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mail.txt"
    # As editors end a file.
    file.write_text(f"{TEXTS[0]}\n")
    options = ("--kind=inbox", "--tenant=acme", "--tag=mail", "--subject=Ada")
    assert said("explain", file, *options)[0].startswith("Hit: ")
    assert data("explain", file, *options)["verdict"] == "hit"
    assert data("explain", file, "--exact", *options)["verdict"] == "differs"
    give_input(monkeypatch, TEXTS[1])
    assert data("explain", "-", *options)["verdict"] == "hit"
    system, params = tmp_path / "system.txt", tmp_path / "params.json"
    system.write_text("Be brief")
    params.write_text('{"temperature": 0.5}')
    told = data("explain", file, f"--system={system}", f"--params={params}", *options)
    assert {each["component"] for each in told["differences"]} == {"system", "param"}
    assert asked.calls == 3


def test_explaining_what_cannot_be_read_is_a_wrong_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "utf-16").write_bytes(TEXTS[0].encode("utf-16"))
    (tmp_path / "list").write_text("[]")
    file = tmp_path / "file"
    file.write_text(TEXTS[0])
    for name in ("missing", "fifo", "utf-16", "."):
        assert str(tmp_path) in ended(2, "explain", tmp_path / name, "--kind=inbox")
    assert "cannot be opened" in ended(2, "explain", "a\0b", "--kind=inbox")
    assert "has a type" not in ended(2, "explain", file, "--kind=mail")
    assert "kinds that have one: inbox" in ended(2, "explain", file, "--kind=os.system")
    assert "no JSON object" in ended(2, "explain", file, "--kind=inbox", f"--params={tmp_path / 'list'}")
    assert "both come" in ended(2, "explain", "-", "--kind=inbox", "--system=-")
    with llmcache_settings(MAX_TEXT_BYTES=4, KINDS={"inbox": {"type": Ticket}}):
        assert "MAX_TEXT_BYTES" in ended(2, "explain", file, "--kind=inbox")


# Invalidating


def test_a_dry_run_of_an_invalidation_says_what_it_would_cost_and_does_nothing(asked: Sandbox) -> None:
    told = data("invalidate", "--tag=mail", "--dry-run")
    assert (told["entries"], told["cost_usd"]) == (3, f"{llmcache.stats().spent_usd:f}")
    assert "3 entries, that cost $" in said("invalidate", "--kind=inbox", "--dry-run")[0]
    assert data("invalidate", "--everything", "--dry-run")["entries"] == 3
    assert not Invalidation.objects.exists()
    # Whom nobody knows is no mistake.
    assert "Invalidated: 0 entries" in said("invalidate", "--subject=Nobody")[0]
    assert outcome() == "hit"


def outcome() -> str:
    options: dict[str, Any] = {"tenant": "acme", "tags": ["mail"], "subject": "Ada"}
    return llmcache.explain(TEXTS[0], Ticket, kind="inbox", **options).verdict


def test_an_invalidation_is_made_listed_and_taken_back(asked: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    give_input(monkeypatch, "Ada\n")
    made = said("invalidate", "--subject=-", "--reason=moved away", "--user=ann")[0]
    (uid,) = re.findall(r"--undo (\w{32})", made)
    assert outcome() == "invalidated"
    row = Invalidation.objects.get()
    assert (row.uid, row.made_by, row.reason, row.tenant) == (uid, "ann", "moved away", "")
    (listed,) = data("invalidate", "--list")
    assert (listed["id"], listed["in_force"], listed["reason"]) == (uid, True, "moved away")
    assert "a subject" in said("invalidate", "--list")[0]
    assert "Ada" not in said("invalidate", "--list")[0]
    assert data("invalidate", f"--undo={uid}") == {"id": uid, "undone": True}
    assert data("invalidate", f"--undo={uid}") == {"id": uid, "undone": False}
    assert outcome() == "hit"
    assert "no invalidation with this id" in ended(2, "invalidate", "--undo=nothing")


def test_an_invalidation_can_be_planned_and_called_off(asked: Sandbox) -> None:
    uid = data("invalidate", "--tag=mail", "--at=2030-01-01T03:00")["id"]
    assert outcome() == "hit"
    (listed,) = data("invalidate", "--list")
    assert (listed["id"], listed["tag"], listed["in_force"], listed["due_at"][:10]) == (
        uid,
        "mail",
        False,
        "2030-01-01",
    )
    assert "from 2030-01-01" in said("invalidate", "--list")[0]
    assert data("invalidate", f"--undo={uid}")["undone"] is True
    assert data("invalidate", "--list") == []
    assert "no time by ISO 8601" in ended(1, "invalidate", "--tag=mail", "--at=soon")
    assert "next ten years" in ended(2, "invalidate", "--tag=mail", "--at=9999-12-31T23:59")


def test_everything_is_invalidated_by_who_says_so_twice(asked: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Give a condition" in ended(2, "invalidate")
    assert "three things" in ended(2, "invalidate", "--list", "--tag=mail")
    assert "no whole number from 1" in ended(1, "invalidate", "--list", "--limit=-1")
    assert "pass --yes" in ended(2, "invalidate", "--everything")
    give_input(monkeypatch, "n\n", terminal=True)
    screen = Terminal()
    assert "Nothing was done" in ended(1, "invalidate", "--everything", out=screen)
    assert "Invalidate everything: 3 entries, that cost $" in screen.getvalue()
    assert not Invalidation.objects.exists()
    give_input(monkeypatch, "y\n", terminal=True)
    said("invalidate", "--everything", out=Terminal())
    said("invalidate", "--everything", "--yes")
    assert Invalidation.objects.count() == 2
    assert outcome() == "invalidated"


# Pruning


def test_pruning_deletes_what_retention_says_and_a_dry_run_nothing(asked: Sandbox) -> None:
    old = timezone.now() - timedelta(days=40)
    ProviderCall.objects.filter(pk=ProviderCall.objects.earliest("pk").pk).update(started_at=old)
    CacheEntry.objects.filter(pk=CacheEntry.objects.earliest("pk").pk).update(expires_at=old)
    assert set(data("prune", "--dry-run")["rows"].values()) == {0}
    with llmcache_settings(RETENTION={"calls": timedelta(days=30), "entries": timedelta(days=30)}):
        rows = data("prune", "--dry-run")["rows"]
        assert (rows["calls"], rows["entries"]) == (1, 1)
        assert (ProviderCall.objects.count(), CacheEntry.objects.count()) == (3, 3)
        assert "calls\t1" in said("prune")[0].splitlines()
        assert (ProviderCall.objects.count(), CacheEntry.objects.count()) == (2, 2)
        assert set(data("prune")["rows"].values()) == {0}


# How commands speak


class Speaking(SpokenCommand):
    """A command that does what a test wants."""

    def __init__(self, work: Any, **streams: Any) -> None:
        super().__init__(**streams)
        self._work = work

    def work(self, **options: Any) -> None:
        self._work(self)


def spoken(work: Any, stderr: io.StringIO) -> None:
    call_command(Speaking(work, stdout=io.StringIO(), stderr=stderr))


def some_progress(command: SpokenCommand) -> None:
    with command.progress("Texts", 2) as at:
        at(1, "3 hits")
        at(2)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a terminal that can draw a line anew, whatever this one is."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("able")
def test_progress_is_a_bar_on_a_terminal_and_now_and_then_a_line_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, log = Terminal(), io.StringIO()
    spoken(some_progress, screen)
    assert "Texts" in screen.getvalue()
    assert "2/2" in screen.getvalue()
    # One line, which is drawn again and again.
    assert screen.getvalue().count("\n") == 1
    spoken(some_progress, log)
    assert log.getvalue() == ""
    monkeypatch.setattr(output, "_EVERY_SECONDS", 0.0)
    spoken(some_progress, log)
    assert log.getvalue().splitlines() == ["Texts: 1 of 2, 3 hits", "Texts: 2 of 2"]
    # A terminal that cannot draw a line anew, or where rich is not installed, gets the same lines.
    for change in (
        lambda: monkeypatch.setenv("TERM", "dumb"),
        lambda: (monkeypatch.setenv("TERM", "xterm"), monkeypatch.setitem(sys.modules, "rich.console", None)),
    ):
        change()
        plain = Terminal()
        spoken(some_progress, plain)
        shown = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in plain.getvalue().splitlines()]
        assert shown == log.getvalue().splitlines()


@pytest.mark.usefixtures("able")
def test_what_is_noted_meanwhile_is_a_line_above_the_bar() -> None:
    def noting(command: SpokenCommand) -> None:
        with command.progress("Texts", 2) as at:
            at(1)
            command.note("[bold]texts.csv:7: is no JSON")

    screen = Terminal()
    spoken(noting, screen)
    assert "\x1b[2K[bold]texts.csv:7: is no JSON\n" in screen.getvalue()


def test_what_is_interrupted_ends_with_130() -> None:
    def interrupt(command: SpokenCommand) -> None:
        raise KeyboardInterrupt

    with pytest.raises(CommandError, match="Stopped") as error:
        spoken(interrupt, io.StringIO())
    assert error.value.returncode == 130


def test_one_ctrl_c_asks_for_an_end_and_a_second_one_breaks_off() -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_nothing_that_is_said_moves_a_cursor() -> None:
    ascii_only = SimpleNamespace(encoding="ascii")
    assert printable("Größe \x1b[2J\u202e\n", ascii_only) == "Gr\\xf6\\xdfe \\x1b[2J\\u202e\\n"
    assert printable("Größe", SimpleNamespace(encoding=None)) == "Größe"
