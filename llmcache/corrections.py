"""Corrections: a human's better answer for one request, served in place of the provider's until it is withdrawn.

A correction stands by a row of the invalidation log: undone there, it is withdrawn, and rolled back, it has never been.
The admin has a page for each of these functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables
from pydantic import ValidationError

from llmcache import invalidation
from llmcache.engine import process
from llmcache.engine.corrected import HUMAN, PINNED
from llmcache.engine.log_copy import Judge
from llmcache.engine.predicates import Predicate
from llmcache.exceptions import ConfigurationError, InvalidRequest, ValidationFailed
from llmcache.flushing import flush, require_no_loop
from llmcache.response_types import ResponseType, error_facts, response_type

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime
    from llmcache.models import CacheEntry, Correction

QUARANTINE: Final = "quarantine"
"""The reason of an invalidation by which one answer is held back."""


@sensitive_variables()
def correct(key: str, answer: str, *, user: str = "", note: str = "") -> Correction:
    """Serve a human's answer to all who ask for this request from now on, and return its row.

    ``key``: of an entry that the ledger knows, in hex. ``answer``: JSON as the provider would have written it, with the
    type's aliases, and ``{"value": …}`` around what is no object; it is served through the same validation. ``user``
    and ``note`` are for the list. Who asks sees it as they see an invalidation.

    Raises ``InvalidRequest`` for what is no such key or answer, and where ``KINDS`` does not register the very type of
    the entry; ``ValidationFailed`` for an answer that does not pass; ``ConfigurationError`` without a database;
    ``AsyncContext`` in an event loop; and the database's own errors.
    """
    require_no_loop("corrections.correct")
    now = process.current()
    entry = _entry(now, key)
    form = registered_form(now, entry)
    try:
        check(form, answer, now.settings.max_value_bytes)
    except ValidationError as error:
        raise ValidationFailed(
            f"The answer does not pass the validation of {form.name}; see .errors.",
            errors=error_facts(error, form.schema.schema),
            kind=entry.kind,
            key=entry.key,
        ) from None
    return _made(now, entry, answer, user, note, is_pin=False)


@sensitive_variables()
def pin(key: str, *, user: str = "", note: str = "") -> Correction:
    """Serve an entry's own answer whatever its age, through refreshes and evictions, until it is withdrawn.

    Raises ``InvalidRequest`` where no tier holds a valid answer; else as ``correct``.
    """
    require_no_loop("corrections.pin")
    now = process.current()
    entry = _entry(now, key)
    return _made(now, entry, _answer_of(now, entry), user, note, is_pin=True)


def withdraw(correction: Correction, *, user: str = "") -> bool:
    """Let the provider's answers be served again; return whether the correction stood.

    What it has made void and still lies somewhere is served; else the next call asks the provider.
    """
    from llmcache.models import Invalidation

    require_no_loop("corrections.withdraw")
    now = process.current()
    now.require_database()
    # Not through the correction: what is loaded with a row is looked for where the project's routers say.
    rows = Invalidation.objects.using(now.settings.database).filter(pk=correction.invalidation_id)  # pyright: ignore
    uid = rows.values_list("uid", flat=True).first()
    if uid is None:
        raise InvalidRequest("There is no such correction: it was pruned, or belongs to another project.")
    return invalidation.undo(uid, user=user)


def quarantine(key: str, *, user: str = "") -> str | None:
    """Hold an entry's answer back: who asks from now on gets a new one. Return the invalidation's id."""
    return invalidation.invalidate(key=key, reason=QUARANTINE, user=user).id


def restore(key: str, *, user: str = "") -> bool:
    """Undo all that holds an entry's answer back; return whether anything did. What was asked for anew stays."""
    from llmcache.models import Invalidation

    now = process.current()
    now.require_database()
    rows = Invalidation.objects.using(now.settings.database).filter(namespace=now.namespace, active=True)
    held = list(rows.filter(key=_hex(key), reason=QUARANTINE, corrects=False).order_by("pk"))
    undone = [invalidation.undo(each, user=user) for each in held]
    return any(undone)


def registered_form(now: Runtime, entry: CacheEntry | Correction) -> ResponseType:
    """Return the response type by which an entry's answers are validated: the one that ``KINDS`` registers.

    Raises ``InvalidRequest``, which says what to do, where there is none or where it has changed.
    """
    form = registered(now, entry)
    if has_changed(form, entry):
        raise InvalidRequest(
            f"The response type has changed since this entry was made: LLMCACHE['KINDS'][{entry.kind!r}]['type'] is "
            f"{form.name} with another schema now, and calls have other keys. Correct the new entry."
        )
    return form


def has_changed(form: ResponseType, entry: CacheEntry | Correction) -> bool:
    """Return whether a type is not the one that an entry was made for."""
    from llmcache.models import MAX_NAME
    from llmcache.money.facts import cut

    return (cut(form.name, MAX_NAME), form.fingerprint) != (entry.response_type, entry.schema)


def registered(now: Runtime, entry: CacheEntry | Correction) -> ResponseType:
    """Return the response type that ``KINDS`` registers for an entry's kind, whatever the entry was made for.

    Raises ``InvalidRequest`` where there is none that can be used.
    """
    from llmcache.kinds import registered_type

    try:
        annotation = registered_type(now.settings, entry.kind)
        form = None if annotation is None else response_type(annotation)
    except ConfigurationError as error:
        raise InvalidRequest(str(error)) from None
    if form is None:
        raise InvalidRequest(
            f"LLMCACHE['KINDS'][{entry.kind!r}] names no response type, so that no answer can be checked. Set its "
            f"'type' to the dotted path of {entry.response_type}."
        )
    return form


@sensitive_variables()
def check(form: ResponseType, answer: str, most_bytes: int) -> Any:
    """Return the value of an answer. Raises pydantic's ``ValidationError``, and ``InvalidRequest`` for what is no text.

    pydantic's error holds the answer: it is for the page of who has typed it.
    """
    try:
        data = answer.encode()
    except (UnicodeEncodeError, AttributeError):
        raise InvalidRequest("answer= must be a str that can be encoded as UTF-8.") from None
    if len(data) > most_bytes:
        raise InvalidRequest(f"answer= is longer than LLMCACHE['MAX_VALUE_BYTES'], which is {most_bytes}.")
    return form.validate(data)


def _hex(key: object) -> str:
    word = key.lower() if isinstance(key, str) else ""
    if len(word) != 64 or set(word) - set("0123456789abcdef"):
        raise InvalidRequest("key= must be the 64 hex digits of a key, as extract_with_info() tells it.")
    return word


def _entry(now: Runtime, key: str) -> CacheEntry:
    from llmcache.models import CacheEntry

    name = _hex(key)
    now.require_database()
    rows = CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace, key=name)
    found = rows.first()
    if found is None:
        # It may have been written a moment ago.
        flush()
        found = rows.first()
    if found is None:
        raise InvalidRequest("The ledger has no entry with this key in this project's name space.")
    return found


@sensitive_variables()
def _answer_of(now: Runtime, entry: CacheEntry) -> str:
    from llmcache.admin_pages.validity import Validity

    judge = Judge(Validity(now).view(entry))
    found = now.tiers.read(bytes.fromhex(entry.key), float("inf"), judge)
    if found is None:
        raise InvalidRequest("No tier holds a valid answer of this entry that could be pinned. Ask for it anew first.")
    try:
        return found.entry.answer.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("This entry's answer is no text that a database takes.") from None


@sensitive_variables()
def _made(now: Runtime, entry: CacheEntry, answer: str, user: str, note: str, *, is_pin: bool) -> Correction:
    from django.db import transaction

    from llmcache.models import CacheEntry, Correction
    from llmcache.pruning import prune_corrections

    made_by = invalidation.who(user)
    reason = invalidation.reason_of(note, "note") or (PINNED if is_pin else "corrected")
    with transaction.atomic(using=now.settings.database):
        row = invalidation.made(now, Predicate(key=entry.key), reason, made_by, corrects=True)
        made = Correction(
            # Not the row itself: the project's routers may say that both lie elsewhere, and not together.
            invalidation_id=row.pk,
            **{name: getattr(entry, name) for name in _OF_ENTRY},
            answer=answer,
            is_pin=is_pin,
            note=note,
            made_at=row.made_at,
            made_by=made_by,
        )
        made.save(using=now.settings.database, force_insert=True)
        Correction._meta.get_field("invalidation").set_cached_value(made, row)  # type: ignore[attr-defined]
        prune_corrections(now.settings.database, now.namespace, now.settings.retention["invalidations"])
        # What is served from now on; the journal tells more of it once it is served.
        CacheEntry.objects.using(now.settings.database).filter(pk=entry.pk).update(
            source=PINNED if is_pin else HUMAN, written_at=row.made_at, expires_at=None, stale_until=None
        )
    return made


_OF_ENTRY: Final = (
    *("namespace", "key", "kind", "response_type", "schema", "model", "tenant"),
    *("cost_pico_usd", "latency_ms"),
)
