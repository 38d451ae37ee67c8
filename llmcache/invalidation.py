"""Invalidating by decision: answers that must not be served any more, whoever has them and whoever is asking for them.

Nothing is deleted. A row of the log says which answers are void; it is made in the caller's transaction, seen by the
caller at once, and taken back with it.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import markcoroutinefunction, sync_to_async

from llmcache import planned, request
from llmcache.engine import process
from llmcache.engine.log import Pending
from llmcache.engine.log_copy import Row
from llmcache.engine.predicates import EVERYTHING, Predicate
from llmcache.envelope import SEEN_ID_BYTES
from llmcache.exceptions import InvalidRequest
from llmcache.flushing import flush, require_no_loop
from llmcache.money.pricing import dollars
from llmcache.plans import MAX_KIND
from llmcache.request import NOT_GIVEN, NotGiven

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime
    from llmcache.models import Invalidation

MAX_REASON: Final = 500
MOST_LOOKED_AT: Final = 1_000_000
"""Rows of the ledger that a dry run reads: some seconds at most, also where there are ten million of them."""
_MAX_USER: Final = 200


@dataclass(frozen=True, slots=True)
class Invalidated:
    """What an invalidation is about, or was when it was made."""

    id: str | None
    """By which it is undone; None for a dry run."""
    entries: int | None = None
    """Of a dry run: entries that it would leave void, as far as the ledger knows, without those that have expired."""
    cost_usd: Decimal | None = None
    """Of a dry run: what making them has cost; None when that is not known of each of them."""
    more: bool = False
    """Of a dry run: whether there may be more of both, because only so many rows are looked at."""
    due_at: datetime | None = None
    """When it comes into force, of one that is planned; None for one that is in force."""


def invalidate(
    *,
    key: str | NotGiven = NOT_GIVEN,
    tenant: str | NotGiven = NOT_GIVEN,
    subject: str | NotGiven = NOT_GIVEN,
    response_model: Any = NOT_GIVEN,
    model: str | NotGiven = NOT_GIVEN,
    tag: str | NotGiven = NOT_GIVEN,
    kind: str | NotGiven = NOT_GIVEN,
    everything: bool = False,
    dry_run: bool = False,
    at: datetime | None = None,
    reason: str = "",
    user: str = "",
) -> Invalidated:
    """Make the answers that meet all these conditions void, those too that are under way.

    ``key``: in hex, as ``extract_with_info`` tells it. ``tenant``, ``subject``, ``model`` (``"provider/model"``),
    ``tag``, ``kind``: as they were passed to ``extract``. ``response_model``: the type, or its name. ``everything``:
    True instead of conditions. ``dry_run``: say what it would be about, and do nothing. ``at``: an aware datetime, from
    when on; until then it is planned, and whoever keeps house brings it into force (``llmcache.housekeeping``).
    ``reason`` and ``user`` are for the log.

    Within a transaction this context sees it at once, and everybody else once it is committed: this process then, other
    processes within two ``RECHECK``. Rolled back, it has never been. Answers that are asked for from then on are good.
    Raises ``InvalidRequest`` without conditions, ``ConfigurationError`` without a database, ``AsyncContext`` in an
    event loop, and the database's own errors.
    """
    require_no_loop("invalidate")
    now = process.current()
    given = {"tenant": tenant, "subject": subject, "response_model": response_model, "model": model}
    predicate = _predicate(now, {"key": key, **given, "tag": tag, "kind": kind}, everything)
    if dry_run:
        # Entries under a secret from before are found, and void, too.
        word = None if subject is NOT_GIVEN else request.word("subject", subject)
        subjects = [] if word is None else [seal.subject_hash(word) for seal in now.seals]
        entries, cost, more = concerned(now, predicate, subjects)
        return Invalidated(None, entries, dollars(cost), more)
    made_by = who(user)
    if at is not None and planned.is_to_come(at):
        row = planned.plan(now, predicate, at, reason_of(reason), made_by)
        return Invalidated(row.uid, due_at=at)
    return Invalidated(made(now, predicate, reason_of(reason), made_by).uid)


@markcoroutinefunction
def ainvalidate(**conditions: Any) -> Coroutine[Any, Any, Invalidated]:
    """Do as ``invalidate``, awaited. It is committed when it returns."""
    return sync_to_async(invalidate)(**conditions)


def undo(invalidation: str | Invalidated | Invalidation, *, user: str = "") -> bool:
    """Let the answers that an invalidation had made void be served again; return whether it was in force.

    ``invalidation``: its id, or what ``invalidate`` has returned. What was asked for anew meanwhile stays. One that is
    planned never comes into force then, and the answer is True too. In a transaction it holds as ``invalidate`` does.
    Raises ``InvalidRequest`` for one that is not there.
    """
    require_no_loop("undo")
    now = process.current()
    now.require_database()
    undone_by = who(user)
    uid = _id_of(invalidation)
    found = _by_id(now, uid)
    if found is None:
        to_come = planned.find(now, uid)
        if to_come is not None and planned.call_off(now, to_come, undone_by):
            return True
        # It may have come into force between the two looks.
        found = _by_id(now, uid)
        if found is None and to_come is not None:
            return False
    if found is None:
        raise InvalidRequest("There is no invalidation with this id: it was pruned, or belongs to another project.")
    return _undone(now, found, undone_by)


@markcoroutinefunction
def aundo(invalidation: str | Invalidated | Invalidation, *, user: str = "") -> Coroutine[Any, Any, bool]:
    """Do as ``undo``, awaited."""
    return sync_to_async(undo)(invalidation, user=user)


def _predicate(now: Runtime, given: dict[str, Any], everything: bool) -> Predicate:
    named = {name: value for name, value in given.items() if value is not NOT_GIVEN}
    if everything is not True and everything is not False:
        raise InvalidRequest("everything= must be True or False.")
    if everything and named:
        raise InvalidRequest(f"everything=True has no conditions; got {next(iter(named))}= beside it.")
    if not named:
        if everything:
            return EVERYTHING
        raise InvalidRequest(
            "invalidate() needs a condition: key=, tenant=, subject=, response_model=, model=, tag= or kind=. "
            "Say everything=True to invalidate all answers."
        )
    conditions = {name: _condition(now, name, value) for name, value in named.items()}
    return Predicate(response_type=conditions.pop("response_model", None), **conditions)


def _condition(now: Runtime, name: str, value: Any) -> str:
    from llmcache.response_types import type_name

    if value is None:
        raise InvalidRequest(f"{name}= must be a str; leave it out where it is no condition. None would be about all.")
    if name == "response_model" and not isinstance(value, str):
        value = type_name(value)
    word = request.word(name, value, most=MAX_KIND if name == "kind" else request.MAX_WORD)
    if name == "key":
        word = word.lower()
        if len(word) != 64 or set(word) - set("0123456789abcdef"):
            raise InvalidRequest("key= must be the 64 hex digits of a key, as extract_with_info() tells it.")
    if "\0" in word and name != "subject" and _refuses_nul(now):
        raise InvalidRequest(f"{name}= has a NUL, which the ledger's database takes in no column.")
    if name == "model" and "/" not in word:
        raise InvalidRequest(f"model= must be 'provider/model', as in 'openai/gpt-5-mini'; got {word!r}.")
    return now.seals[0].subject_hash(word) if name == "subject" else word


def _refuses_nul(now: Runtime) -> bool:
    from django.db import connections

    now.require_database()
    return bool(connections[now.settings.database].features.prohibits_null_characters_in_text_exception)


def reason_of(reason: object, name: str = "reason") -> str:
    """Return a reason as the log takes it. Raises ``InvalidRequest``, which names the argument."""
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise InvalidRequest(f"{name}= must be a str of at most {MAX_REASON} characters.")
    return _kept(name, reason)


def who(user: str) -> str:
    """Return a user's name as the log takes it; empty for none. Raises ``InvalidRequest``."""
    return _kept("user", request.word("user", user, most=_MAX_USER)) if user else ""


def _kept(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name}= has a lone surrogate, which UTF-8 cannot express.") from None
    if "\0" in text:
        raise InvalidRequest(f"{name}= has a NUL, which not every database takes.")
    return text


def concerned(now: Runtime, predicate: Predicate, subjects: Sequence[str]) -> tuple[int, int | None, bool]:
    """Return how many live entries the ledger has for a predicate, and what they cost in 10**-12 US dollars.

    ``subjects``: what stands for the predicate's subject, under each of the project's secrets. Looks at no more than
    ``MOST_LOOKED_AT`` rows: the newest of those that an index finds. The last value says whether there are others.
    """
    from django.db.models import Count, Q, Sum
    from django.utils import timezone

    from llmcache.models import MAX_NAME, CacheEntry

    now.require_database()
    flush()
    rows = CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace)
    for column in ("key", "tenant", "model", "kind"):
        value = getattr(predicate, column)
        if value is not None:
            rows = rows.filter(**{column: value[:MAX_NAME]})
    if predicate.tag is not None:
        rows = rows.filter(tag_rows__tag=predicate.tag[:MAX_NAME])
    # Other indexes go on by the time. By key there is one row, and rows of a tag lie by their number.
    rows = rows.order_by() if predicate.key or predicate.tag else rows.order_by("-written_at")
    # What no index finds, of the rows that are looked at.
    meant = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    if predicate.response_type is not None:
        meant &= Q(response_type=predicate.response_type[:MAX_NAME])
    if predicate.subject is not None:
        meant &= Q(subject_hash__in=subjects)
    found: dict[str, Any] = rows[: MOST_LOOKED_AT + 1].aggregate(
        rows=Count("pk"),
        entries=Count("pk", filter=meant),
        cost=Sum("cost_pico_usd", filter=meant),
        unknown=Count("pk", filter=meant & Q(cost_pico_usd=None)),
    )
    return found["entries"], None if found["unknown"] else found["cost"] or 0, found["rows"] > MOST_LOOKED_AT


def made(
    now: Runtime, predicate: Predicate, reason: str, made_by: str, *, corrects: bool = False, uid: bytes | None = None
) -> Invalidation:
    """Make a row of the log, as ``invalidate`` does; ``corrects``: a human's answer is to stand by it.

    ``uid``: the id that it was planned under.
    """
    from django.utils import timezone

    from llmcache.invalidation_rows import columns_of, note_that_one_was_made
    from llmcache.models import Invalidation
    from llmcache.pruning import prune_invalidations

    now.require_database()
    # What it supersedes is what is known here: the more, the shorter the lists that entries hold.
    now.log.confirm()
    uid, supersedes = uid or os.urandom(SEEN_ID_BYTES), now.log.heads(predicate)
    row = Invalidation(
        uid=uid.hex(),
        namespace=now.namespace,
        **columns_of(predicate),
        supersedes=[each.hex() for each in supersedes],
        made_at=timezone.now(),
        made_by=made_by,
        reason=reason,
        corrects=corrects,
    )
    note_that_one_was_made(now.namespace)
    row.save(using=now.settings.database, force_insert=True)
    prune_invalidations(now.settings.database, now.namespace, now.settings.retention["invalidations"])
    _change(now, [Row(row.pk, uid, predicate, True, supersedes, corrects)])
    return row


def _undone(now: Runtime, row: Invalidation, undone_by: str) -> bool:
    from django.utils import timezone

    from llmcache.invalidation_rows import note_that_one_was_made, row_of
    from llmcache.models import Invalidation

    rows = Invalidation.objects.using(now.settings.database).filter(pk=row.pk, active=True)
    note_that_one_was_made(now.namespace)
    if not rows.update(active=False, undone_at=timezone.now(), undone_by=undone_by, to_tell=True, told_to=""):
        return False
    _change(now, [row_of(row)._replace(active=False)])
    return True


def _id_of(invalidation: Any) -> str:
    uid: Any = getattr(invalidation, "uid", None) or getattr(invalidation, "id", invalidation)
    if type(uid) is not str:
        raise InvalidRequest("undo() takes an invalidation's id, or what invalidate() has returned; not a dry run.")
    return uid


def _by_id(now: Runtime, uid: str) -> Invalidation | None:
    from llmcache.models import Invalidation

    if not planned.is_an_id(uid):
        return None
    return Invalidation.objects.using(now.settings.database).filter(namespace=now.namespace, uid=uid).first()


def _change(now: Runtime, rows: Iterable[Row]) -> None:
    """Let this context see what it has changed; and everybody, once that is committed."""
    from django.db import connections, transaction

    using, changed = now.settings.database, tuple(rows)
    connection = connections[using]
    if not connection.in_atomic_block:
        now.log.commit(changed)
        return

    def commit() -> None:
        now.log.commit(changed, pending)

    def lasts() -> bool:
        # Django takes it out when the transaction, or the savepoint within it, is rolled back: with all that came
        # after it, so that what is left is where it was put.
        found = connection.run_on_commit
        # A slice, for who commits may be emptying it while another thread looks.
        here = found[place : place + 1]
        return bool(here and here[0][1] is commit) or any(entry[1] is commit for entry in found)

    place = len(connection.run_on_commit)
    pending = Pending(changed, lasts)
    transaction.on_commit(commit, using=using)
    now.log.add_pending(pending)
