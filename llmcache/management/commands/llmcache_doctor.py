"""``manage.py llmcache_doctor``: what is configured, what answers and how fast, and what to do."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache.diagnosis import Finding, diagnose, outside
from llmcache.engine import process
from llmcache.exceptions import ConfigurationError
from llmcache.management.output import SpokenCommand, failed

_MARKS: Final = {"ok": "ok", "note": "note", "wrong": "WRONG"}
_WIDTH: Final = 110


class Command(SpokenCommand):
    """Looks at everything, pays for nothing, and leaves nothing behind."""

    help = (
        "Look at settings, tiers, leases, database, invalidation log, journal, providers and clock; say what answers, "
        "how fast, and what to do about what does not. Takes a few seconds at most, also when nothing answers. No "
        "provider is asked anything. Exit status: 0, also with notes; 1 when something is wrong; 2 for arguments that "
        "cannot be used."
    )
    # It says itself what they find.
    requires_system_checks = ()

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("--celery", action="store_true", help="look at Celery and its broker too")

    def work(self, *, celery: bool, **_: Any) -> None:
        """Say what was found."""
        try:
            found = diagnose(process.current(), celery=celery)
        except ConfigurationError as error:
            found = [*outside.settings()]
            if not any(each.state == "wrong" for each in found):
                found.append(Finding("settings", "wrong", str(error)))
        wrong = sum(each.state == "wrong" for each in found)
        if self.json:
            self.say_json({"wrong": wrong, "findings": [asdict(each) for each in found]})
        elif self.stdout.isatty():
            self._show(found)
        else:
            headings = ("state", "what", "ms", "found", "to do")
            self.say_table(headings, ((each.state, each.what, _ms(each), each.told, each.todo) for each in found))
        if wrong:
            raise failed(f"{wrong} things are wrong.")

    def _show(self, found: list[Finding]) -> None:
        """Print a finding on lines that fit a terminal, and below it what to do."""
        width = max(len(each.what) for each in found)
        for each in found:
            took = f" ({_ms(each)} ms)" if each.milliseconds is not None else ""
            before = f"{_MARKS[each.state]:<5}  {each.what:<{width}}  "
            for line in _wrapped(f"{each.told}{took}", before):
                self.say(line)
            for line in _wrapped(each.todo, " " * len(before) + "-> "):
                self.say(line)


def _ms(each: Finding) -> str:
    return "" if each.milliseconds is None else f"{each.milliseconds:g}"


def _wrapped(text: str, before: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=before, subsequent_indent=" " * len(before))
