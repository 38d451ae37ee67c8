"""Changing one entry by decision: it gets another TTL, or is asked for anew.

Other processes hold copies in memory. So each change writes a row of the invalidation log for the key, which makes the
copies void, and the entry as it lies in the tiers from then on has that row in its list. The row and the entry are of
one transaction: an entry gets its other TTL once that is committed, and never where it is rolled back. A new answer is
paid for, and kept as soon as it is there.

An answer that somebody else has written meanwhile is not overwritten by an older one: it is looked for just before.
Between that look and the writing lies a moment in which another process may write, and would not be seen. Then the
older answer stands again, as if it had been written last; it is one that was valid all the time.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from django.views.decorators.debug import sensitive_variables

from llmcache import request
from llmcache.engine import process
from llmcache.engine.log_copy import Row, View
from llmcache.engine.policy import resolve
from llmcache.engine.ports import run
from llmcache.engine.predicates import Predicate
from llmcache.envelope import MAX_SEEN, SEEN_ID_BYTES, Entry
from llmcache.exceptions import InvalidRequest, NotRewritten
from llmcache.flushing import flush, require_no_loop
from llmcache.invalidation_rows import CUT, EXTENDED, REFRESHED, columns_of, note_that_one_was_made
from llmcache.kept_calls import RowPort, call_of, facts_of
from llmcache.money.facts import stored_time, unix_of
from llmcache.money.pricing import dollars
from llmcache.refusals import refused
from llmcache.tiers.spending import Spending

if TYPE_CHECKING:
    from llmcache.engine.call import Answered, Call, Spent
    from llmcache.engine.runtime import Runtime
    from llmcache.models import CacheEntry
    from llmcache.providers.base import Reply

Renewed = Literal["asked", "fresh"]
"""What has become of an entry that was to be renewed: somebody has asked for it now, or it was fresh."""
_SAME_TIME: Final = 0.001
"""Seconds; a database cuts a time to millionths."""
_DIGEST: Final = b"\0" * SEEN_ID_BYTES
"""Begins a list that is a digest of itself: nothing can be added to it."""
_KEY_DIGITS: Final = 64

_writing = threading.Lock()
"""Two changes of one entry must not each write it without what the other has added to its list."""


@dataclass(frozen=True, slots=True)
class Retimed:
    """What an entry's time has become."""

    fresh_until: float | None
    """Seconds since the epoch; None when it does not expire."""
    was_capped: bool
    """Whether it was asked for longer than the invalidation log goes back, past which nothing is served."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What asking anew has come to."""

    cost_usd: Decimal | None
    """None when it is not known; 0 for who has joined another call that was asking already."""
    is_other: bool
    """Whether the answer is another one than before."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the tiers that this process reads hold of a key."""

    entry: Entry
    """The one that was written last."""
    rest: bytes = b""
    """The completion without its answer; empty when it is gone."""
    request: bytes | None = None
    """As it was kept; None when it is gone."""


def retime(key: str, ttl_seconds: float | None, *, user: str = "") -> Retimed:
    """Let an entry be fresh for so many seconds from now on, or for ever with None; more or less than it was.

    ``key``: in hex. How long past that it may be given as a stale one stays. Who asks bounds the age too: a call with
    ``ttl=60`` takes no answer that is older than a minute, whatever time it gets here. Nothing is served past
    ``RETENTION["invalidations"]``.

    In a transaction it holds once that is committed. Raises ``NotRewritten`` for an entry that cannot get another time,
    ``InvalidRequest``, ``ConfigurationError``, ``AsyncContext``, and the database's own errors.
    """
    require_no_loop("rewriting.retime")
    ttl, made_by = request.lifetime(ttl_seconds), _user(user)
    if ttl == 0:
        raise InvalidRequest("The TTL must be above zero. To end an answer now, call llmcache.invalidate(key=...).")
    now = process.current()
    row = _row_of(now, key)
    held, entry = _require_retimable(now, row, look(now, bytes.fromhex(row.key)))
    wall = now.clock.wall()
    longest = entry.written_at + now.settings.retention["invalidations"]
    asked = math.inf if ttl is None else wall + ttl
    fresh = asked if ttl is None else min(asked, longest)
    stale = 0.0 if math.isinf(entry.stale_until) else max(entry.stale_until - entry.fresh_until, 0.0)
    changed = replace(entry, fresh_until=fresh, stale_until=fresh + stale)
    reason = CUT if fresh < entry.fresh_until else EXTENDED
    told = _Told(os.urandom(SEEN_ID_BYTES), reason, made_by)
    _publish(now, row, Held(changed, held.rest, held.request), told, lambda: _note_times(now, row, changed))
    return Retimed(None if math.isinf(fresh) else fresh, fresh < asked)


@sensitive_variables()
def refresh(key: str, *, user: str = "") -> Refreshed:
    """Ask the provider anew for what an entry answers, and keep the new answer in its place.

    ``key``: in hex. The old answer is served until the new one is there, and stays where the provider fails. A call
    that is already asking for the same is joined. Subject, version and variant stay what they were.

    In a transaction other processes let go of the old answer once that is committed; rolled back, the new one is kept
    all the same, for it is paid for. Raises ``NotRewritten`` for an entry that cannot be asked for, what
    ``llmcache.extract`` raises, and what ``retime`` raises.
    """
    require_no_loop("rewriting.refresh")
    made_by = _user(user)
    now = process.current()
    row = _row_of(now, key)
    held = look(now, bytes.fromhex(row.key))
    before, call = _require_refreshable(now, row, held)
    uid = os.urandom(SEEN_ID_BYTES)
    port = _Port(now, row, uid)
    answered: Answered = run(resolve(call, port))
    entry = answered.entry
    # Where another process has asked, only the answer was waited for.
    rest = now.tiers.read_rest(entry) if answered.rest is None else answered.rest
    # What the kind's own function gives no time at all is not kept.
    if entry.fresh_until > entry.written_at:
        # It is paid for and kept. Where somebody has changed it meanwhile, or has made it void, others know of that.
        with contextlib.suppress(NotRewritten):
            _publish(now, row, Held(entry, rest or b"", port.kept_request(call)), _Told(uid, REFRESHED, made_by))
    return Refreshed(dollars(answered.spent.cost), entry.answer != before.answer)


@sensitive_variables()
def renew(key: str) -> Renewed:
    """Ask the provider anew for an entry that is past its time, and keep the new answer; nothing for one that is not.

    ``key``: in hex. Unlike ``refresh`` it needs no row of the log, for no process takes the old answer for a fresh one,
    and it asks only where a call would: two that come one after the other make one provider call. Raises what
    ``refresh`` does, and ``NotRewritten`` where there is no answer left that could be given as a stale one.
    """
    require_no_loop("rewriting.renew")
    now = process.current()
    row = _row_of(now, key)
    held, view = _require_held(now, row, look(now, bytes.fromhex(row.key)))
    if now.clock.wall() >= max(held.entry.fresh_until, held.entry.stale_until):
        raise refused("expired", row.key)
    if not view.admits(held.entry.seen):
        raise refused("invalidated", row.key)
    call = replace(call_of(now, row, held.entry, held.request), cache="use")
    return "fresh" if run(resolve(call, RowPort(now, row))).outcome == "hit" else "asked"


def possible(row: CacheEntry, held: Held | None) -> dict[str, str | None]:
    """Return for ``refresh`` and ``retime`` what is in the way, a word of ``refusals.REASONS``; None where nothing is.

    It asks no tier: ``held`` is what ``look`` has found.
    """
    now = process.current()
    wanted: dict[str, Callable[[Runtime, CacheEntry, Held | None], object]] = {
        "refresh": _require_refreshable,
        "retime": _require_retimable,
    }
    found: dict[str, str | None] = {}
    for action, require in wanted.items():
        try:
            require(now, row, held)
        except NotRewritten as error:
            found[action] = error.reason
        else:
            found[action] = None
    return found


@sensitive_variables()
def look(now: Runtime, key: bytes) -> Held | None:
    """Return what the tiers hold of a key; None for nothing. Reads every one of them, and nothing else."""
    with Spending():
        entries = [place.entry for place in now.tiers.places(key) if place.entry is not None]
        if not entries:
            return None
        # Of one writing the longer list: memory may have it as it was before it got another time.
        entry = max(entries, key=lambda each: (each.written_at, len(each.seen)))
        beside = now.tiers.read_beside(entry)
    return Held(entry) if beside is None else Held(entry, beside[0], None if beside[1] == b"{}" else beside[1])


# -- what is in the way


def _row_of(now: Runtime, key: object) -> CacheEntry:
    from llmcache.models import CacheEntry

    now.require_database()
    word = request.word("key", key).lower()
    if len(word) != _KEY_DIGITS or set(word) - set("0123456789abcdef"):
        raise InvalidRequest("key= must be the 64 hex digits of a key, as extract_with_info() tells it.")
    rows = CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace, key=word)
    row = rows.first()
    if row is None:
        # It may be this process's own, and not be there yet.
        flush()
        row = rows.first()
    if row is None:
        raise refused("unknown", word)
    return row


def _user(user: str) -> str:
    from llmcache.models import MAX_NAME

    return request.word("user", user, most=MAX_NAME) if user else ""


def _require_held(now: Runtime, row: CacheEntry, held: Held | None) -> tuple[Held, View]:
    if row.namespace != now.namespace:
        raise refused("other_namespace", row.key)
    if held is None:
        raise refused("absent", row.key)
    now.log.confirm()
    view = now.log.view(held.entry.key, facts_of(row, held.entry))
    if view.correction is not None:
        raise refused("corrected", row.key)
    return held, view


def _require_retimable(now: Runtime, row: CacheEntry, held: Held | None) -> tuple[Held, Entry]:
    held, view = _require_held(now, row, held)
    entry, wall = held.entry, now.clock.wall()
    until = min(max(entry.fresh_until, entry.stale_until), entry.written_at + now.settings.retention["invalidations"])
    if wall >= until:
        raise refused("expired", row.key)
    if not view.admits(entry.seen):
        raise refused("invalidated", row.key)
    _with(entry.seen, b"", view, row.key)
    return held, entry


@sensitive_variables()
def _require_refreshable(now: Runtime, row: CacheEntry, held: Held | None) -> tuple[Entry, Call]:
    held, view = _require_held(now, row, held)
    # Before it is paid for.
    _with(view.seen, b"", view, row.key)
    return held.entry, call_of(now, row, held.entry, held.request)


# -- the change itself


class _Port(RowPort):
    """A port whose entry has the row of the log in its list from the beginning.

    Where the process ends before that row is written, nothing is lost: an id that is of no row does no harm.
    """

    def __init__(self, runtime: Runtime, row: CacheEntry, uid: bytes) -> None:
        super().__init__(runtime, row)
        self._uid = uid

    def entry(self, call: Call, reply: Reply, spent: Spent, seconds: float, seen: bytes) -> Entry:
        return super().entry(call, reply, spent, seconds, seen + self._uid if _has_room(seen) else seen)


class _Told(NamedTuple):
    """What the log is to say of a change."""

    uid: bytes
    reason: str
    made_by: str


@sensitive_variables()
def _publish(
    now: Runtime, row: CacheEntry, changed: Held, told: _Told, note: Callable[[], object] | None = None
) -> None:
    """Write a row of the log for the key, and with it, once that is committed, the entry.

    Without ``note`` the entry itself is no other than it was: then it gets that row into its list at once, for an id
    that is of no row does no harm.
    """
    from django.db import transaction

    entry, using = changed.entry, now.settings.database
    with transaction.atomic(using=using):
        made = _invalidated(now, row.key, told)
        # After that row was made: what it supersedes is looked at here too. And before the tiers are: whoever else has
        # changed this entry has written it there before anybody knew of the row.
        view = now.log.view(entry.key, facts_of(row, entry))
        seen = _with_others(now, entry)
        if view.correction is not None or not view.admits(seen):
            raise refused("invalidated", row.key)
        if told.uid not in _ids(seen):
            seen = _with(seen, told.uid, view, row.key)
        listed = Held(replace(entry, seen=seen), changed.rest, changed.request)
        if note is None:
            _write(now, row, listed, made)
        else:
            note()

        def commit() -> None:
            # In this order: for who sees the row, the entry is there.
            _write(now, row, listed, made)
            note_that_one_was_made(now.namespace)
            now.log.commit((made,))

        transaction.on_commit(commit, using=using)


def _invalidated(now: Runtime, key: str, told: _Told) -> Row:
    """Write a row for a key, of which nobody is told yet: until it is committed, the entry is served as it was."""
    from django.utils import timezone

    from llmcache.models import Invalidation
    from llmcache.pruning import prune_invalidations

    now.log.confirm()
    predicate = Predicate(key)
    supersedes = now.log.heads(predicate)
    row = Invalidation(
        uid=told.uid.hex(),
        namespace=now.namespace,
        **columns_of(predicate),
        supersedes=[each.hex() for each in supersedes],
        made_at=timezone.now(),
        made_by=told.made_by,
        reason=told.reason,
        # It comes with the entry: there is none that it makes void.
        to_tell=False,
    )
    row.save(using=now.settings.database, force_insert=True)
    prune_invalidations(now.settings.database, now.namespace, now.settings.retention["invalidations"])
    return Row(row.pk, told.uid, predicate, True, supersedes)


def _with(seen: bytes, more: bytes, view: View, key: str) -> bytes:
    """Return a list with one id more; where it gets too long, without those that are about nothing in force."""
    ids = _ids(seen)
    if len(ids) >= MAX_SEEN:
        wanted = {each for row in view.rows for each in row.any_of}
        ids = [each for each in ids if each in wanted]
    if seen.startswith(_DIGEST) or len(ids) >= MAX_SEEN:
        raise refused("crowded", key)
    return b"".join((*ids, more))


def _has_room(seen: bytes) -> bool:
    return not seen.startswith(_DIGEST) and len(seen) < MAX_SEEN * SEEN_ID_BYTES


def _ids(seen: bytes) -> list[bytes]:
    return [seen[start : start + SEEN_ID_BYTES] for start in range(0, len(seen), SEEN_ID_BYTES)]


def _with_others(now: Runtime, entry: Entry) -> bytes:
    """Return an entry's list with what others have added to it since."""
    held = look(now, entry.key)
    there = None if held is None else held.entry
    if there is None or there.written_at != entry.written_at or _DIGEST in (there.seen[:16], entry.seen[:16]):
        return entry.seen
    return b"".join([*dict.fromkeys((*_ids(entry.seen), *_ids(there.seen)))][:MAX_SEEN])


@sensitive_variables()
def _write(now: Runtime, row: CacheEntry, changed: Held, made: Row) -> None:
    with _writing:
        held = look(now, changed.entry.key)
        if held is not None and held.entry.written_at > changed.entry.written_at:
            # What somebody has stored meanwhile stays, and gets the row into its list, or it would be void by it.
            view = (
                now.log.known().overlaid([made._replace(active=False)]).view(held.entry.key, facts_of(row, held.entry))
            )
            if not view.admits(held.entry.seen) or not _has_room(held.entry.seen):
                return
            changed = Held(replace(held.entry, seen=held.entry.seen + made.id), held.rest, held.request)
        entry = replace(changed.entry, seen=_with_others(now, changed.entry))
        if held is None or held.entry != entry:
            with Spending():
                now.tiers.write(entry, changed.rest, changed.request)


def _note_times(now: Runtime, row: CacheEntry, entry: Entry) -> None:
    """Let the ledger's row tell the entry's times, where it tells of this very writing."""
    from llmcache.models import CacheEntry

    if abs(unix_of(row.written_at) - entry.written_at) > _SAME_TIME:
        return
    same = CacheEntry.objects.using(now.settings.database).filter(pk=row.pk, written_at=row.written_at)
    same.update(
        expires_at=None if math.isinf(entry.fresh_until) else stored_time(entry.fresh_until),
        stale_until=None if entry.stale_until == entry.fresh_until else stored_time(entry.stale_until),
    )


def _reset_in_child() -> None:
    global _writing
    _writing = threading.Lock()


os.register_at_fork(after_in_child=_reset_in_child)
