"""``manage.py llmcache_schema``: what deploys have changed in response types, and what the next one would change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.exceptions import ConfigurationError, UnsupportedType
from llmcache.management.arguments import span
from llmcache.management.output import SpokenCommand
from llmcache.models import SchemaVersion
from llmcache.money.pricing import dollars
from llmcache.schema_history.changes import MAX_CHANGES, Change
from llmcache.schema_history.prompts import MOST_READ, KindOfEntries, prompts_by_kind
from llmcache.schema_history.reports import Live, Registered, SchemaChange, names_like, registered_types, schema_changes

DIFFERS: Final = 1
"""Exit status of --check where a deploy would leave answers behind."""
UNANSWERED: Final = 2
"""Exit status where nothing could be found out, as argparse has it."""
_SIGNS: Final = {"added": "+", "removed": "-"}


class Command(SpokenCommand):
    """Tells, and changes nothing."""

    help = (
        "Show which response types have changed, which answers that left behind, what it costs to make them anew, and "
        "what differs. Types that LLMCACHE['KINDS'] registers are compared as the code has them now: run it with "
        "--check before a deploy. Exit status: 0; with --check 1 when a registered type differs from what was asked "
        "for last; 2 when it cannot be found out."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("type", nargs="?", help="the name of one response type (default: all)")
        when = parser.add_mutually_exclusive_group()
        when.add_argument(
            "--since",
            type=span,
            default=span("7d"),
            metavar="SPAN",
            help="changes of this time up to now: a number with m, h, d or w (default: 7d)",
        )
        when.add_argument("--all", action="store_true", help="all changes that were ever seen")
        parser.add_argument(
            "--check",
            action="store_true",
            help="only compare the registered types with what was asked for last; exit status 1 when one differs",
        )

    def work(self, **options: Any) -> None:
        """Say what has changed and what would; exit status 1 with --check where a registered type differs."""
        since = None if options["all"] else timezone.now() - options["since"]
        try:
            found = _found(options["type"], since, check=options["check"])
        except (ConfigurationError, UnsupportedType) as error:
            raise CommandError(str(error), returncode=UNANSWERED) from None
        except (DatabaseError, InterfaceError, ImproperlyConfigured) as error:
            said = " ".join(str(error).split())
            raise CommandError(
                f"The database cannot be read ({type(error).__name__}: {said}). When tables are missing, run: "
                "manage.py migrate",
                returncode=UNANSWERED,
            ) from None
        for line in _as_json(found) if self.json else _as_lines(found):
            self.say(line)
        differing = [each.response.name for each in found.registered if each.differs]
        if options["check"] and differing:
            raise CommandError(
                f"{len(differing)} registered types differ from what was asked for last: {', '.join(differing)}.",
                returncode=DIFFERS,
            )


@dataclass(frozen=True)
class _Report:
    """What there is to tell; with --check, of registered types alone."""

    registered: list[Registered]
    check: bool
    since: datetime | None
    changes: list[SchemaChange]
    kinds: list[KindOfEntries]


def _found(named: str | None, since: datetime | None, *, check: bool) -> _Report:
    now = process.current()
    now.require_database()
    using = now.settings.database
    registered = registered_types(now.settings, named=named)
    known = bool(registered) or named is None or SchemaVersion.objects.using(using).filter(response_type=named).exists()
    if not known:
        names = names_like(using, now.settings, named or "")
        raise ConfigurationError(
            f"No response type {named!r} was ever asked for, and KINDS registers none. "
            + (f"There are: {', '.join(names)}." if names else "There are none at all.")
        )
    changes = [] if check else schema_changes(using, since=since, named=named)
    # Kinds are no types.
    kinds = [] if check or named is not None else prompts_by_kind(using)
    return _Report(registered, check, since, changes, kinds)


# Lines


def _as_lines(found: _Report) -> list[str]:
    if found.check:
        lines = [line for each in found.registered for line in _of_registered(each)]
        return lines or ["LLMCACHE['KINDS'] registers no response type, so there is nothing to compare."]
    lines = _of_changes(found)
    if found.registered:
        lines += ["", "Registered types, as the code has them now:"]
        lines += [line for each in found.registered for line in _of_registered(each)]
    several = [each for each in found.kinds if not each.is_of_one_form]
    if several:
        lines += ["", f"Kinds with several system prompts or versions, of the newest {MOST_READ} entries:"]
        lines += [_of_kind(each) for each in several]
    return lines


def _of_changes(found: _Report) -> list[str]:
    lines = [line for change in found.changes for line in (*_of_change(change), "")]
    when = "ever" if found.since is None else f"since {_moment(found.since)}"
    if not found.changes:
        return [f"No response type has changed {when}."]
    left = sum(change.left.entries for change in found.changes)
    cost = figures.money(dollars(sum(change.left.cost_pico_usd for change in found.changes)))
    return [*lines, f"{len(found.changes)} changes {when}: {left} entries are left behind, {cost} to make anew."]


def _of_kind(each: KindOfEntries) -> str:
    forms = f"{len(each.prompts)} system prompts, {len(each.versions)} versions"
    return f"{each.kind}: {each.entries} entries, {forms}; other than the newest entry's: {_told(each.others)}"


def _of_change(change: SchemaChange) -> list[str]:
    new, old = change.version, change.before
    lines = [
        f"{_step(new.response_type, old.fingerprint, new.fingerprint)}, first seen {_moment(new.first_seen_at)}",
        f"  left behind: {_told(change.left)} to make anew",
        f"  of the new form: {change.made.entries} entries",
    ]
    if change.still_asked:
        lines.append(f"  the older form was still asked for at {_moment(old.last_seen_at)}")
    return lines + _differences(_kept(new.changes))


def _of_registered(each: Registered) -> list[str]:
    name, form = each.response.name, each.response.fingerprint[:12]
    if each.seen is None:
        return [f"{name}: {form}, never asked for"]
    if not each.differs:
        return [f"{name}: {form}, as it was asked for last"]
    lines = [
        f"{_step(name, each.seen.fingerprint, form)}, not asked for yet",
        f"  would leave behind: {_told(each.left)} to make anew",
    ]
    if each.made.entries:
        lines.append(f"  of this form there are: {each.made.entries} entries")
    return lines + _differences(each.changes)


def _step(name: str, before: str, after: str) -> str:
    return f"{name}: {before[:12]} -> {after[:12]}"


def _told(live: Live) -> str:
    unknown = f" and {live.unpriced} of unknown cost" if live.unpriced else ""
    return f"{live.entries} entries, {figures.money(live.cost_usd)}{unknown}"


def _moment(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")


def _differences(changes: list[Change]) -> list[str]:
    lines: list[str] = []
    for each in changes:
        was, now = each["before"], each["after"]
        value = f"{was} -> {now}" if was is not None and now is not None else was if now is None else now
        order = "in another order: " if each["change"] == "reordered" else ""
        lines.append(f"  {_SIGNS.get(each['change'], '~')} {each['path'] or '(the whole)'}: {order}{value}")
    if len(changes) >= MAX_CHANGES:
        lines.append("  and more")
    return lines


def _kept(kept: Any) -> list[Change]:
    # JSON in a database can be written by others.
    places = ("path", "change", "before", "after")
    return [
        {name: each.get(name) for name in places}  # type: ignore[misc]
        for each in (kept if isinstance(kept, list) else [])
        if isinstance(each, dict)
    ]


# JSON


def _as_json(found: _Report) -> list[str]:
    told: dict[str, Any] = {"differs": any(each.differs for each in found.registered)}
    if not found.check:
        told["since"] = None if found.since is None else found.since.isoformat()
        told["changes"] = [
            {
                "type": change.version.response_type,
                "before": change.before.fingerprint,
                "after": change.version.fingerprint,
                "first_seen_at": change.version.first_seen_at.isoformat(),
                "older_form_still_asked": change.still_asked,
                "left_behind": _live(change.left),
                "of_new_form": _live(change.made),
                "changes": _kept(change.version.changes),
            }
            for change in found.changes
        ]
        told["kinds"] = [
            {
                "kind": each.kind,
                "entries": each.entries,
                "system_prompts": len(each.prompts),
                "versions": len(each.versions),
                "other_than_newest": _live(each.others),
            }
            for each in found.kinds
        ]
    told["registered"] = [
        {
            "type": each.response.name,
            "kinds": [*each.kinds],
            "last_seen": None if each.seen is None else each.seen.fingerprint,
            "now": each.response.fingerprint,
            "differs": each.differs,
            "would_leave_behind": _live(each.left),
            "of_this_form": _live(each.made),
            "changes": each.changes,
        }
        for each in found.registered
    ]
    return [json.dumps(told)]


def _live(live: Live) -> dict[str, Any]:
    return {"entries": live.entries, "cost_usd": str(live.cost_usd), "of_unknown_cost": live.unpriced}
