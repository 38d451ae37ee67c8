"""What ``manage.py llmcache_warm`` is told, checked: where texts come from, what is asked, within which bounds."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache import conf
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.management.arguments import whole
from llmcache.management.output import failed, unusable
from llmcache.setting_values import UnusableError, model_name, nearest
from llmcache.warming import registry, sources
from llmcache.warming.files import Columns, OnBad, from_csv, from_json_lines
from llmcache.warming.lines import STANDARD_INPUT, opened
from llmcache.warming.texts import WarmingText
from llmcache.warming.wanted import Wanted, wanted_of
from llmcache.warming_models import MAX_CONCURRENCY

_MOST: Final = 2**31 - 1
_MOST_DAYS: Final = 3_650
_MOST_USD: Final = 999_999
_MOST_CHARACTERS: Final = 30
NO_EXPIRY: Final = float("inf")
"""What ``--ttl none`` is among arguments, where None means that nothing was said."""
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw]?)")

_LINES: Final = ("lines", "json_lines", "csv")
_TEXTS: Final = (*_LINES, "source", "misses", "expiring", "changed")
_SOURCES: Final = (*_TEXTS, "plan", "resume", "pause", "cancel", "list")
_MEANT_FOR: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("column", "system_column", "tenant_column", "subject_column", "tags_column"), ("csv",)),
    "delimiter": ("csv",),
    "on_error": _LINES,
    "most": ("misses", "expiring", "changed"),
    **dict.fromkeys(("kind", "model", "ttl", "per_minute"), _TEXTS),
    # What is asked again is asked as it was, but for the prompt that has changed.
    "system_file": (*_LINES, "source", "changed"),
    **dict.fromkeys(("tenant", "tag"), (*_LINES, "source")),
    **dict.fromkeys(("max_usd", "max_calls"), (*_TEXTS, "resume")),
    "concurrency": (*_TEXTS, "plan", "resume"),
    "dry_run": (*_TEXTS, "plan"),
}
"""Which options say something beside which source."""


def add_arguments(parser: CommandParser) -> None:
    """Add all arguments."""
    _add_sources(parser)
    columns = parser.add_argument_group("columns of a CSV, by their names in its first line, or all by numbers from 1")
    columns.add_argument("--column", metavar="NAME", help="the text")
    columns.add_argument("--system-column", metavar="NAME", help="the system prompt")
    columns.add_argument("--tenant-column", metavar="NAME")
    columns.add_argument("--subject-column", metavar="NAME")
    columns.add_argument("--tags-column", metavar="NAME", help="tags, separated by commas")
    columns.add_argument("--delimiter", type=_delimiter, metavar="CHARACTER", help="default: a comma; tab for a tab")
    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--kind", help="a kind whose response type LLMCACHE['KINDS'] names")
    asked.add_argument("--model", type=_model, metavar="PROVIDER/MODEL", help="default: LLMCACHE['MODEL']")
    asked.add_argument(
        "--system-file", metavar="PATH", help="the system prompt: the whole file, its last line's end too"
    )
    asked.add_argument("--tenant", help="of texts that have none of their own")
    asked.add_argument("--tag", action="append", help="for each text, beside its own; may be repeated")
    asked.add_argument("--ttl", type=_lifetime, metavar="SPAN", help="seconds, or as in 15m, 12h, 7d, 4w; or none")
    bounds = parser.add_argument_group("within which bounds")
    bounds.add_argument("--max-usd", type=_dollars, metavar="USD", help="what the run may cost")
    bounds.add_argument("--max-calls", type=whole(0, _MOST), metavar="N", help="calls it may make, retries included")
    bounds.add_argument("--per-minute", type=whole(1, _MOST), metavar="N", help="calls in a minute")
    bounds.add_argument("--concurrency", type=whole(1, MAX_CONCURRENCY), metavar="N", help="calls at the same time")
    parser.add_argument("--dry-run", action="store_true", default=None, help="only say what it would ask and cost")
    parser.add_argument(
        "--on-error",
        choices=("stop", "go-on"),
        help="where a line cannot be used: warm nothing (the default), or pass it over",
    )


def _add_sources(parser: CommandParser) -> None:
    group = parser.add_argument_group("what is warmed").add_mutually_exclusive_group(required=True)
    group.add_argument("lines", nargs="?", choices=[STANDARD_INPUT], help="JSON lines from standard input")
    group.add_argument("--json-lines", metavar="PATH", help='a text, or an object with "content", on each line')
    group.add_argument("--csv", metavar="PATH", help="with --column")
    group.add_argument("--source", metavar="NAME", help="a function that LLMCACHE['WARMING'] names")
    group.add_argument("--misses", type=whole(1, _MOST_DAYS), metavar="DAYS", help="the costliest misses of these days")
    group.add_argument(
        "--expiring", type=whole(1, 24 * _MOST_DAYS), metavar="HOURS", help="what expires within these hours"
    )
    group.add_argument(
        "--changed",
        action="store_true",
        default=None,
        help="what a new schema or version, or with --system-file a new prompt, has left behind",
    )
    group.add_argument("--plan", metavar="NAME", help="a plan of the admin, now")
    group.add_argument("--resume", metavar="RUN", help="go on with a run")
    group.add_argument("--pause", metavar="RUN", help="let nobody begin another item of a run")
    group.add_argument("--cancel", metavar="RUN", help="end a run, and delete its texts")
    group.add_argument("--list", action="store_true", default=None, help="the newest runs")
    parser.add_argument("--most", type=whole(1, _MOST), metavar="N", help="of what is asked again: how many")


def source_of(options: Mapping[str, Any]) -> str:
    """Return which source was named. ``CommandError`` where an option was given that says nothing beside it."""
    source = next(name for name in _SOURCES if options[name] is not None)
    for name, sources_of in _MEANT_FOR.items():
        if options[name] is not None and source not in sources_of:
            ways = ", ".join(_shown(each) for each in sources_of)
            raise unusable(f"{_shown(name)} says nothing beside {_shown(source)}; it is for {ways}.")
    return source


def _shown(name: str) -> str:
    return STANDARD_INPUT if name == "lines" else f"--{name.replace('_', '-')}"


# What is asked


def asked_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds for all texts of a run, as ``runs.prepare`` takes it."""
    settings = conf.current()
    registered = sorted(kind for kind, told in settings.kinds.items() if told.type is not None)
    if options["kind"] not in registered:
        named = f"No response type is registered for {options['kind']!r}" if options["kind"] else "--kind is missing"
        known = f"There are: {', '.join(registered)}." if registered else "It names none so far."
        near = nearest(options["kind"] or "", registered) or "."
        raise unusable(f"{named}{near} LLMCACHE['KINDS'] names the response types that may be asked for. {known}")
    asked = {"kind": options["kind"], "tags": options["tag"] or (), "system": _system(options["system_file"])}
    return asked | {name: options[name] for name in ("model", "tenant") if options[name] is not None} | _ttl(options)


def bounds_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bounds of a run, as ``runs.prepare`` takes them."""
    named = ("max_usd", "max_calls", "per_minute", "concurrency")
    return {name: options[name] for name in named if options[name] is not None}


def _ttl(options: Mapping[str, Any]) -> dict[str, Any]:
    told = options["ttl"]
    return {} if told is None else {"ttl": None if told == NO_EXPIRY else told}


def _system(path: str | None) -> str | None:
    if path is None:
        return None
    most = conf.current().max_text_bytes
    if path == STANDARD_INPUT:
        raise unusable("--system-file names a file: standard input is for texts.")
    with opened(path) as source:
        data = source.stream.read(most + 1)
    if len(data) > most:
        raise unusable(f"{path} has more than {most} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise unusable(f"{path} is not UTF-8.") from None


# Texts


@contextmanager
def texts_of(source: str, options: Mapping[str, Any], on_bad: OnBad) -> Iterator[Iterable[Any]]:
    """Open a source; ``on_bad`` is told of each line that cannot be used, and of what ends the reading."""
    if source not in _LINES:
        yield _from_project(source, options)
        return
    columns = _columns(options) if source == "csv" else None
    most = conf.current().max_text_bytes
    with opened(options[source]) as file:
        if columns is None:
            yield _read(from_json_lines(file, max_text_bytes=most, on_bad=on_bad))
        else:
            yield _read(from_csv(file, columns, max_text_bytes=most, on_bad=on_bad))


def _read(texts: Iterator[WarmingText]) -> Iterator[WarmingText]:
    try:
        yield from texts
    except InvalidRequest as error:
        # Of the file, and not of the arguments.
        raise failed(f"{error} Nothing was warmed.") from None


def _from_project(source: str, options: Mapping[str, Any]) -> Iterable[Any]:
    if source == "source":
        return registry.source_of(conf.current(), options["source"])()
    found = {name: options[name] for name in ("kind", "most", "model")}
    if source == "misses":
        return sources.from_misses(options["misses"], **found, wanted=_wanted(options))
    if source == "changed":
        return sources.from_changed(**found, system=_system(options["system_file"]), wanted=_wanted(options))
    return sources.from_expiring(timedelta(hours=options["expiring"]), **found)


def _wanted(options: Mapping[str, Any]) -> Wanted:
    return wanted_of(process.current(), **asked_of(options))


def _columns(options: Mapping[str, Any]) -> Columns:
    if options["column"] is None:
        raise unusable("--csv needs --column: the name of the column with the texts, or its number.")
    others = {name: options[f"{name}_column"] for name in ("system", "tenant", "subject", "tags")}
    return Columns(options["column"], **others, delimiter=options["delimiter"] or ",")


# Words


def _dollars(text: str) -> Decimal:
    try:
        amount = Decimal(text) if len(text) <= _MOST_CHARACTERS else Decimal("nan")
    except InvalidOperation:
        amount = Decimal("nan")
    if not amount.is_finite() or not 0 <= amount <= _MOST_USD:
        raise ArgumentTypeError(f"it takes US dollars from 0 to {_MOST_USD}, as in 2.50")
    return amount


def _model(text: str) -> str:
    try:
        return model_name(text)
    except UnusableError:
        raise ArgumentTypeError("it takes 'provider/model', as in openai/gpt-5-mini") from None


def _lifetime(text: str) -> float:
    found = _SPAN.fullmatch(text)
    if found is None and text != "none":
        raise ArgumentTypeError("it takes seconds, or a number with m, h, d or w, as in 7d; or none for no expiry")
    return NO_EXPIRY if found is None else float(int(found[1]) * _UNITS[found[2]])


def _delimiter(text: str) -> str:
    if text == "tab":
        return "\t"
    if len(text) != 1 or text in '"\r\n\0' or text.isalnum():
        raise ArgumentTypeError("it takes one character that is no letter, no digit and no quotation mark; or tab")
    return text
