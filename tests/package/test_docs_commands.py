"""The page about the commands: every command and option is there, and every line of it can be typed."""

import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import BaseCommand
from pydantic import BaseModel

import llmcache
from llmcache import diagnosis
from llmcache.engine import process
from llmcache.money.journal import Journal
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text()
OURS = sorted(name for name, app in get_commands().items() if app == "llmcache")
ELSEWHERE = ("llmcache_warm",)
"""Commands whose options are on a page of their own."""


def section(command: str) -> str:
    (found,) = re.findall(rf"^## {command}\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    return found


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_option_is_documented(name: str) -> None:
    own = section(name)
    assert f"[`{name}`](#{name})" in PAGE
    command = load_command_class("llmcache", name)
    parser = command.create_parser("manage.py", name)
    assert "Exit status: 0" in " ".join(str(command.help).split())
    if name in ELSEWHERE:
        return
    common = {"--json", "--dry-run", "--yes"}
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    djangos = BaseCommand().create_parser("manage.py", name)
    options -= {option for action in djangos._actions for option in action.option_strings}
    assert not {option for option in options - common if option not in own}


class Ticket(BaseModel):
    """A mail to the support."""

    title: str


@pytest.fixture
def place(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the page names."""
    (tmp_path / "mail.txt").write_text("The printer is on fire\n")
    (tmp_path / "subject.txt").write_text("Ada\n")
    monkeypatch.chdir(tmp_path)
    # On a busy machine everything may be slow.
    monkeypatch.setattr(diagnosis, "DEADLINE_SECONDS", 60.0)
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"inbox": {"type": Ticket}}):
        for number in range(3):
            llmcache.extract(f"Mail {number}", Ticket, kind="inbox", tags=["contracts"])
        assert llmcache.flush()
        for namespace in (process.current().namespace, "theirs"):
            Journal(tmp_path / "rescued", namespace).started(
                "3b8a1f6e-0f0e-4f4e-9a52-5c5b1f8f3a11", {"why": "not_found"}
            )
        yield tmp_path


def typed() -> list[str]:
    return re.findall(r"^python manage\.py (llmcache_.*)$", PAGE, flags=re.MULTILINE)


# The doctor asks by connections of its own, which see nothing of a transaction.
@pytest.mark.django_db(transaction=True)
def test_every_line_of_the_page_can_be_typed(place: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(typed()) > 20
    asked = sandbox.calls
    for line in typed():
        words = shlex.split(line)
        if "<" in words:
            at = words.index("<")
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((place / words[at + 1]).read_bytes())))
            words = words[:at]
        # No broker is there.
        words = [word for word in words if word != "--celery"]
        out = io.StringIO()
        call_command(*words, stdout=out, stderr=out)
        assert out.getvalue(), line
    assert sandbox.calls == asked
