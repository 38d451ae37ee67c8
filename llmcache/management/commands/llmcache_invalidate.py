"""``manage.py llmcache_invalidate``: answers that must not be served any more, and that decision taken back."""

from __future__ import annotations

import getpass
import sys
from datetime import datetime
from typing import Any, Final

from django.core.management.base import CommandParser
from django.views.decorators.debug import sensitive_variables

from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.invalidation import Invalidated, invalidate, undo
from llmcache.management.arguments import moment, whole
from llmcache.management.output import SpokenCommand, unusable
from llmcache.models import MAX_NAME, Invalidation, PlannedInvalidation

_CONDITIONS: Final = {
    "key": "in hex",
    "tenant": "as calls name it",
    "subject": "as calls name it; - reads it from standard input, for others can read a process's arguments",
    "response_model": "the response type's name",
    "model": "provider/model",
    "tag": "as calls name it",
    "kind": "as calls name it",
}
_COLUMNS: Final = ("key", "tenant", "response_type", "model", "tag", "kind")
_KEY: Final = 12


class Command(SpokenCommand):
    """Writes one row of the invalidation log, or takes one back."""

    help = (
        "Make the answers that meet all conditions void, those too that are under way; nothing is deleted, and --undo "
        "takes it back. Exit status: 0, also where no entry is concerned; 1 when the database is in the way, or the "
        "question was answered with no; 2 for arguments that cannot be used; 130 after Ctrl-C."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        for name, about in _CONDITIONS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", help=f"a condition: {about}")
        parser.add_argument("--everything", action="store_true", help="all answers, in place of conditions")
        parser.add_argument("--dry-run", action="store_true", help="say what it would be about, and do nothing")
        parser.add_argument(
            "--at", type=moment, help="from when on, by ISO 8601: until then it is planned, and house-keeping makes it"
        )
        parser.add_argument("--reason", default="", help="for the log; no text of a user")
        parser.add_argument("--user", default=_user(), help="for the log (default: who runs the command)")
        parser.add_argument("--yes", action="store_true", help="do not ask before --everything")
        parser.add_argument("--undo", metavar="ID", help="take an invalidation back, by its id")
        parser.add_argument("--list", action="store_true", help="show the newest invalidations")
        parser.add_argument(
            "--limit", type=whole(1, 10_000), default=20, help="how many --list shows, the newest ones (default: 20)"
        )

    @sensitive_variables()
    def work(self, **options: Any) -> None:
        """Invalidate, undo, or list."""
        conditions = {name: options[name] for name in _CONDITIONS if options[name] is not None}
        wanted = [bool(conditions) or options["everything"], options["undo"] is not None, options["list"]]
        if sum(wanted) > 1:
            raise unusable("Conditions, --undo and --list are three things: give one of them.")
        if options["list"]:
            self._list(options["limit"])
        elif options["undo"] is not None:
            self._undo(options["undo"], options["user"])
        else:
            self._invalidate(conditions, **options)

    @sensitive_variables()
    def _invalidate(self, conditions: dict[str, Any], **options: Any) -> None:
        if conditions.get("subject") == "-":
            conditions["subject"] = sys.stdin.readline().rstrip("\r\n")
        conditions["everything"] = options["everything"]
        if not any(conditions.values()):
            named = ", ".join(f"--{name.replace('_', '-')}" for name in _CONDITIONS)
            raise unusable(f"Give a condition: {named}. Say --everything to invalidate all answers.")
        concerned = invalidate(**conditions, dry_run=True)
        if options["dry_run"]:
            self._tell(concerned, concerned)
            return
        if options["everything"]:
            self.confirm(f"Invalidate everything: {_concerned(concerned)}?", yes=options["yes"])
        done = invalidate(**conditions, at=options["at"], reason=options["reason"], user=options["user"])
        self._tell(concerned, done)

    def _tell(self, concerned: Invalidated, done: Invalidated) -> None:
        if self.json:
            told = {"entries": concerned.entries, "cost_usd": concerned.cost_usd, "more": concerned.more}
            self.say_json({"id": done.id, **told, "due_at": done.due_at, "dry_run": done.id is None})
        elif done.id is None:
            self.say(f"It would be about {_concerned(concerned)}. Nothing was done.")
        else:
            what = "Invalidated" if done.due_at is None else f"Planned for {_moment(done.due_at)}"
            self.say(f"{what}: {_concerned(concerned)}.")
            self.say(f"To take it back: manage.py llmcache_invalidate --undo {done.id}")

    def _undo(self, uid: str, user: str) -> None:
        undone = undo(uid, user=user)
        if self.json:
            self.say_json({"id": uid, "undone": undone})
        else:
            self.say("It was taken back." if undone else "It was not in force any more.")

    def _list(self, most: int) -> None:
        now = process.current()
        now.require_database()
        of_this = {"namespace": now.namespace}
        planned = PlannedInvalidation.objects.using(now.settings.database).filter(is_open=True, **of_this)
        made = Invalidation.objects.using(now.settings.database).filter(**of_this)
        rows = [*planned.order_by("due_at")[:most], *made.order_by("-pk")[:most]]
        if self.json:
            self.say_json([_told(row) for row in rows])
        else:
            self.say_table(("id", "made at", "by", "in force", "about", "reason"), map(_cells, rows))


def _user() -> str:
    try:
        return getpass.getuser()[:MAX_NAME]
    except (OSError, KeyError, InvalidRequest):
        # A user without a name.
        return ""


def _concerned(told: Invalidated) -> str:
    more = " or more" if told.more else ""
    cost = "of unknown cost" if told.cost_usd is None else f"that cost {figures.money(told.cost_usd)}{more}"
    return f"{figures.count(told.entries or 0)}{more} entries, {cost}"


def _cells(row: Invalidation | PlannedInvalidation) -> tuple[str, ...]:
    return row.uid, _moment(row.made_at), row.made_by, _in_force(row), _about(row), row.reason


def _in_force(row: Invalidation | PlannedInvalidation) -> str:
    if isinstance(row, PlannedInvalidation):
        return f"from {_moment(row.due_at)}"
    return "yes" if row.active else "no"


def _about(row: Invalidation | PlannedInvalidation) -> str:
    named = {name: getattr(row, name) for name in _COLUMNS}
    named["key"] = row.key[:_KEY]
    told = [f"{name.replace('_', ' ')} {value}" for name, value in named.items() if value]
    # Of a subject only the hash is known.
    told += ["a subject"] if row.subject_hash else []
    return ", ".join(told) or "everything"


def _told(row: Invalidation | PlannedInvalidation) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": row.uid,
        **{name: getattr(row, name) or None for name in (*_COLUMNS, "subject_hash")},
        "made_at": row.made_at,
        "made_by": row.made_by,
        "reason": row.reason,
        "due_at": None,
        "in_force": False,
    }
    if isinstance(row, PlannedInvalidation):
        return {**told, "due_at": row.due_at}
    undone = {"undone_at": row.undone_at, "undone_by": row.undone_by}
    return {**told, "in_force": row.active, **undone, "by_a_correction": row.corrects}


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
