"""Rows of entries brought up to date with the invalidation log: which invalidation has made each of them void.

For lists and figures alone: what is served is decided by the log. An invalidation is one row whatever it is about, and
rows of entries follow later, so many at a time, by whoever keeps house. A row of the log says whether entries are still
to be told of it, and up to which they are.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import transaction
from django.db.models import Q

from llmcache.engine.corrected import HUMAN, PINNED
from llmcache.engine.log_copy import LogCopy, View
from llmcache.engine.predicates import Facts
from llmcache.invalidation_rows import row_of, without_rewriting
from llmcache.models import MAX_NAME, CacheEntry, EntryTag, Invalidation

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

AT_A_TIME: Final = 500
"""Rows of entries that are read and changed together."""
CORRECTED: Final = (HUMAN, PINNED)
"""Where those entries come from that are good as long as their correction stands."""
_BY: Final = ("tenant", "model", "kind")
"""Columns that an index has beside the time of writing; the one with the fewest rows first."""
_BETWEEN: Final = "|"


class _Made(NamedTuple):
    """What is to be known of a row of the log."""

    number: int
    uid: str
    at: datetime | None
    """None where the time of writing does not matter."""


def facts_of(entry: CacheEntry) -> Facts:
    """Return what an invalidation can name of an entry, as far as its row tells: what is very long is cut there."""
    # JSON in a database can be written by others.
    tags: Any = entry.tags if isinstance(entry.tags, list) else []
    return Facts(
        entry.tenant or None,
        (entry.subject_hash,) if entry.subject_hash else (),
        entry.response_type,
        entry.model,
        tuple(each for each in tags if isinstance(each, str)),
        entry.kind,
    )


def tell_entries(now: Runtime, seconds: float) -> int:
    """Bring rows of entries up to date, the oldest change of the log first, until that is done or the time is over.

    Return how many rows of entries were changed. Any number of processes may do it at once.
    """
    using, until, changed = now.settings.database, time.monotonic() + seconds, 0
    rows = Invalidation.objects.using(using).filter(namespace=now.namespace, to_tell=True).order_by("pk")
    while row := rows.first():
        if not now.log.known().knows(row_of(row)):
            # Another process has made or undone it, maybe since the one before was told.
            now.log.read_now()
        while True:
            more, is_over = _tell_some(now, row)
            changed += more
            if is_over:
                break
            if time.monotonic() >= until:
                return changed
        if time.monotonic() >= until:
            return changed
    return changed


def _tell_some(now: Runtime, row: Invalidation) -> tuple[int, bool]:
    using = now.settings.database
    same = Invalidation.objects.using(using).filter(pk=row.pk, active=row.active)
    with transaction.atomic(using=using):
        # A correction that is withdrawn leaves its entry void, as an invalidation does that is made.
        makes_void = row.active or row.corrects
        found, told_to, is_over = _made_void(now, row) if makes_void else _told_before(now, row)
        changed = _mark(now, found)
        row.told_to = told_to
        if is_over:
            same.update(to_tell=False, told_to="")
        else:
            same.update(told_to=told_to)
    return changed, is_over


def _told_before(now: Runtime, row: Invalidation) -> tuple[list[CacheEntry], str, bool]:
    """Return some entries that still say that it has made them void, which was undone; and whether that is all."""
    # Said twice: the index has only those that are void, and SQLite takes no value to be one.
    entries = _entries(now).filter(void_by=row.uid).exclude(void_by="").order_by("void_by", "pk")
    found = list(entries[:AT_A_TIME])
    return found, "", len(found) < AT_A_TIME


def _made_void(now: Runtime, row: Invalidation) -> tuple[list[CacheEntry], str, bool]:
    """Return some entries that it may have made void, up to where these are, and whether there are no others."""
    entries = _entries(now)
    if row.key:
        return list(entries.filter(key=row.key)), "", True
    if row.tag:
        tagged = EntryTag.objects.using(now.settings.database).filter(tag=row.tag[:MAX_NAME])
        if row.told_to.isdecimal():
            tagged = tagged.filter(entry_id__gt=int(row.told_to))
        numbers = list(tagged.order_by("tag", "entry_id").values_list("entry_id", flat=True)[:AT_A_TIME])
        # By their numbers, and not by how many there still are: some may have been pruned since.
        return list(entries.filter(pk__in=numbers)), str(numbers[-1]) if numbers else "", len(numbers) < AT_A_TIME
    for column in _BY:
        if value := getattr(row, column):
            entries = entries.filter(**{column: value[:MAX_NAME]})
            break
    else:
        # By the time of writing alone, which is of all name spaces.
        entries = CacheEntry.objects.using(now.settings.database).all()
    found = list(_after(entries, row).order_by("-written_at", "-pk")[:AT_A_TIME])
    told_to = f"{found[-1].written_at.isoformat()}{_BETWEEN}{found[-1].pk}" if found else ""
    return found, told_to, len(found) < AT_A_TIME


def _after(entries: Any, row: Invalidation) -> Any:
    at, _between, number = row.told_to.partition(_BETWEEN)
    try:
        last, pk = datetime.fromisoformat(at), int(number)
    except ValueError:
        # Nothing was told yet.
        return entries.filter(written_at__lte=row.made_at)
    return entries.filter(Q(written_at__lt=last) | Q(written_at=last, pk__lt=pk), written_at__lte=last)


def _mark(now: Runtime, entries: Sequence[CacheEntry]) -> int:
    """Let rows say what has made them void, or that nothing has; return how many did not."""
    mine = [entry for entry in entries if entry.namespace == now.namespace]
    void = _void_by(now, mine)
    wanted: defaultdict[_Made | None, list[int]] = defaultdict(list)
    for entry in mine:
        made = void.get(entry.pk)
        if entry.void_by != ("" if made is None else made.uid):
            wanted[made].append(entry.pk)
    changed = 0
    for made, numbers in wanted.items():
        rows = _entries(now).filter(pk__in=numbers)
        if made is not None and made.at is not None:
            # Those that were written anew meanwhile are not those that were looked at.
            rows = rows.filter(written_at__lte=made.at)
        changed += rows.update(void_by="" if made is None else made.uid)
    return changed


def _void_by(now: Runtime, entries: Iterable[CacheEntry]) -> dict[int, _Made]:
    """Return the newest row of the log that makes each entry void, by when it was written; without the valid ones."""
    known = now.log.known()
    views = [(entry, _view(known, entry)) for entry in entries]
    log = Invalidation.objects.using(now.settings.database)
    uids = {row.id.hex() for _entry, view in views if view.correction is None for row in view.rows}
    rows = without_rewriting(log.filter(uid__in=sorted(uids))).values_list("pk", "uid", "made_at")
    made = {uid: _Made(number, uid, at) for number, uid, at in rows} if uids else {}
    withdrawn = _withdrawn(now, views)
    found: dict[int, _Made] = {}
    for entry, view in views:
        if view.correction is not None:
            # What a human has answered is served, whatever lies there.
            continue
        rows_of_log = [made[uid] for row in view.rows if (uid := row.id.hex()) in made]
        those = [each for each in rows_of_log if each.at is None or each.at >= entry.written_at]
        if entry.key in withdrawn and entry.source in CORRECTED:
            those.append(withdrawn[entry.key])
        if those:
            found[entry.pk] = max(those)
    return found


def _withdrawn(now: Runtime, views: Iterable[tuple[CacheEntry, View]]) -> dict[str, _Made]:
    """Return by key the newest row by which a human's answer stood that does so no more."""
    keys = [entry.key for entry, view in views if view.correction is None and entry.source in CORRECTED]
    if not keys:
        return {}
    rows = Invalidation.objects.using(now.settings.database).filter(namespace=now.namespace, key__in=keys)
    rows = rows.filter(corrects=True)
    # Its entry was written after it was made.
    return {key: _Made(number, uid, None) for key, number, uid in rows.order_by("pk").values_list("key", "pk", "uid")}


def _view(known: LogCopy, entry: CacheEntry) -> View:
    try:
        key = bytes.fromhex(entry.key)
    except ValueError:
        key = b""
    return known.view(key, facts_of(entry))


def _entries(now: Runtime) -> Any:
    return CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace)
