"""What a deploy changes: which answers a new form of a response type leaves behind, and what they cost to make anew.

The schema is in every key. Entries of an older form stay where they are and are found by nobody who asks with the new
one; they are served again where the older form is asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.db.models import BigIntegerField, Case, F, IntegerField, Q, When
from django.utils import timezone

from llmcache.kinds import registered_type
from llmcache.models import MAX_NAME, CacheEntry, SchemaVersion
from llmcache.money.facts import cut
from llmcache.money.pricing import PICO
from llmcache.response_types import ResponseType, response_type
from llmcache.schema_history.changes import Change, changes
from llmcache.schema_history.versions import loaded

if TYPE_CHECKING:
    from llmcache.conf import Settings

MOST: Final = 10_000
"""Entries of one form that a page looks at, the newest ones; further down a database reads for seconds."""
_MOST_NAMES: Final = 1_000
_AT_ONCE: Final = 50
"""Forms that are counted by one statement, each with a dozen values: an old SQLite takes 999 of them."""

Form = tuple[str, str]
"""A response type's name and a fingerprint."""


@dataclass(frozen=True, slots=True)
class Live:
    """The entries of one form that have not expired, whether or not they were invalidated."""

    entries: int = 0
    cost_pico_usd: int = 0
    """What they have cost, of those whose cost is known: about what making them anew takes."""
    unpriced: int = 0
    """How many of them have a cost that is not known."""
    more: bool = False
    """Whether there may be more: the form has more entries than were looked at."""

    @property
    def cost_usd(self) -> Decimal:
        """US dollars that they have cost, of those whose cost is known."""
        return Decimal(self.cost_pico_usd) / PICO


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A response type that got another form, and the entries of both."""

    version: SchemaVersion
    """The new form."""
    before: SchemaVersion
    """The one before it."""
    left: Live
    """Of the form before: no call with the new form finds them."""
    made: Live
    """Of the new form."""

    @property
    def still_asked(self) -> bool:
        """Whether the form before was asked for after the new one had come: another process has it, or it is back."""
        return self.before.last_seen_at > self.version.first_seen_at


@dataclass(frozen=True, slots=True)
class Registered:
    """A response type of ``KINDS`` as the code has it, beside what calls were made with last."""

    kinds: tuple[str, ...]
    response: ResponseType
    seen: SchemaVersion | None
    """The form that was asked for last; None where none ever was."""
    left: Live
    """Entries of that form, which a deploy of this code would leave behind; none where it is the same."""
    made: Live
    """Entries of the form that the code has."""
    changes: list[Change]

    @property
    def differs(self) -> bool:
        """Whether calls with this code would not find what was asked for last."""
        return self.seen is not None and self.seen.fingerprint != self.response.fingerprint


def schema_changes(
    using: str,
    *,
    since: datetime | None = None,
    named: str | None = None,
    limit: int | None = None,
    most: int | None = None,
) -> list[SchemaChange]:
    """Return the changes of response types, the newest first, by two statements.

    ``since``: only those that were first seen then or later. ``named``: only of this type. ``limit``: so many of them.
    ``most``: how many entries of each form are looked at, the newest ones; None: all of them.
    """
    rows = SchemaVersion.objects.using(using).exclude(previous=None).select_related("previous")
    if since is not None:
        rows = rows.filter(first_seen_at__gte=since)
    if named is not None:
        rows = rows.filter(response_type=named)
    found = [*rows.order_by("-first_seen_at", "-pk")[:limit]]
    live = live_entries(using, (form for row in found for form in (form_of(row), form_of(row.previous))), most=most)
    return [SchemaChange(row, row.previous, live[form_of(row.previous)], live[form_of(row)]) for row in found]  # pyright: ignore[reportArgumentType]


def registered_types(settings: Settings, *, named: str | None = None, most: int | None = None) -> list[Registered]:
    """Return the response types that ``KINDS`` registers, beside what was asked for last, by name.

    Raises ``ConfigurationError`` for one that cannot be imported, ``UnsupportedType`` for one that cannot be used.
    """
    kinds: dict[Form, list[str]] = {}
    types: dict[Form, ResponseType] = {}
    for kind in settings.kinds:
        annotation = registered_type(settings, kind)
        if annotation is not None:
            response = response_type(annotation)
            form = cut(response.name, MAX_NAME), response.fingerprint
            types[form] = response
            kinds.setdefault(form, []).append(kind)
    wanted = {form: response for form, response in sorted(types.items()) if named in (None, form[0])}
    seen = _last_seen(settings.database, {name for name, _ in wanted})
    forms = [*wanted, *(form_of(row) for row in seen.values())]
    live = live_entries(settings.database, forms, most=most)
    return [
        _registered(form, response, tuple(kinds[form]), seen.get(form[0]), live) for form, response in wanted.items()
    ]


def _registered(
    form: Form, response: ResponseType, kinds: tuple[str, ...], seen: SchemaVersion | None, live: dict[Form, Live]
) -> Registered:
    if seen is None or seen.fingerprint == response.fingerprint:
        return Registered(kinds, response, seen, Live(), live[form], [])
    differences = changes(loaded(seen.schema), response.schema.schema)
    return Registered(kinds, response, seen, live[form_of(seen)], live[form], differences)


def form_of(row: Any) -> Form:
    """Return a schema version's form."""
    return row.response_type, row.fingerprint


def names_like(using: str, settings: Settings, name: str) -> list[str]:
    """Return the names of all types that are known, those that are most like a name first; at most ten."""
    from difflib import SequenceMatcher

    # As many rows as there have been forms of types.
    rows = SchemaVersion.objects.using(using).order_by().values_list("response_type", flat=True)
    names = set(rows.distinct()[:_MOST_NAMES])
    names |= {response_type(each).name for kind in settings.kinds if (each := registered_type(settings, kind))}
    return sorted(names, key=lambda each: (-SequenceMatcher(None, name.lower(), each.lower()).ratio(), each))[:10]


def _last_seen(using: str, names: Iterable[str]) -> dict[str, SchemaVersion]:
    """Return of each name the form that was asked for last: after a deploy was taken back, the older one."""
    rows = SchemaVersion.objects.using(using).filter(response_type__in=names)
    return {row.response_type: row for row in rows.order_by("last_seen_at", "first_seen_at", "pk")}


def live_entries(using: str, forms: Iterable[Form], *, most: int | None = None) -> dict[Form, Live]:
    """Return the entries of each form that have not expired, by one statement for fifty forms.

    ``most``: of each form the newest so many are looked at; None: all of them.
    """
    found: dict[Form, Live] = {}
    for part in _parts(dict.fromkeys(forms)):
        statements, values = zip(*(_counting(using, place, form, most) for place, form in enumerate(part)), strict=True)
        with connections[using].cursor() as cursor:
            cursor.execute(" UNION ALL ".join(statements), [value for each in values for value in each])
            for place, rows, live, cost, unpriced in cursor.fetchall():
                more = most is not None and rows > most
                found[part[place]] = Live(int(live or 0), int(cost or 0), int(unpriced or 0), more)
    return found


def _parts(forms: Iterable[Form]) -> Iterator[list[Form]]:
    left = iter(forms)
    while part := [*islice(left, _AT_ONCE)]:
        yield part


def _counting(using: str, place: int, form: Form, most: int | None) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that counts one form. Django has none that joins counts of parts, each with its limit."""
    name, fingerprint = form
    live = Q(response_type=name) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
    rows = CacheEntry.objects.using(using).order_by()
    if most is None:
        rows = rows.filter(schema=fingerprint)
    else:
        # A range of one, in the order of the index of schema and time: its first rows are all that is read. Where they
        # are said to be equal, PostgreSQL may go by the time alone, through all that were written since.
        rows = rows.filter(schema__gte=fingerprint, schema__lte=fingerprint).order_by("schema", "-written_at")
    counted = rows.values(
        live=Case(When(live, then=1), default=0, output_field=IntegerField()),
        known=Case(When(live, then=F("cost_pico_usd")), default=0, output_field=BigIntegerField()),
        unpriced=Case(When(live & Q(cost_pico_usd=None), then=1), default=0, output_field=IntegerField()),
    )[: None if most is None else most + 1]
    inner, values = counted.query.get_compiler(using).as_sql()
    quoted = connections[using].ops.quote_name
    sums = ", ".join(f"SUM({quoted(column)})" for column in ("live", "known", "unpriced"))
    # Nothing of what anybody has said is in it: values go apart.
    return f"SELECT {place}, COUNT(*), {sums} FROM ({inner}) {quoted('counted')}", tuple(values)  # noqa: S608
