"""From what tiers and ledger say of a call to what it comes to, in the order in which a call would find out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables
from pydantic import ValidationError

from llmcache import request
from llmcache.answering import checked
from llmcache.bypassing import is_bypassed
from llmcache.exceptions import ConfigurationError
from llmcache.explaining.explanations import BypassedBy, Explanation, Found, Verdict
from llmcache.explaining.ledger_sightings import LedgerSighting, look_into_ledger
from llmcache.explaining.sightings import Sighting, deciding, look
from llmcache.flushing import flush
from llmcache.request import NOT_GIVEN

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.engine.log_copy import View
    from llmcache.engine.runtime import Runtime

_FLUSH_SECONDS: Final = 2.0
_NOT_FLUSHED: Final = "What was stored a moment ago may not be known to the ledger yet."
_NO_LEDGER: Final = "The ledger cannot be read: what was stored before, and by whom it was made void, is not known."
_OF_FOUND: Final[dict[Found, Verdict]] = {
    "fresh": "hit",
    "stale": "stale",
    "too_old": "too_old",
    "expired": "expired",
    "invalidated": "invalidated",
    "future": "future",
    "damaged": "damaged",
    "unreachable": "unreachable",
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """All that was found out for one call."""

    now: Runtime
    call: Call
    view: View
    sighted: list[Sighting]
    best: Sighting | None
    ledger: LedgerSighting | None
    """None where it cannot be read."""


@sensitive_variables()
def explained(
    now: Runtime, content: Any, response_model: Any, options: tuple[Any, ...], params: dict[str, Any]
) -> Explanation:
    """Return what a call with these arguments would come to; options in the order in which they travel."""
    if now.tenancy is not None:
        options = now.tenancy.named(options)
    given = {name: value for name, value in zip(request.OPTIONS, options, strict=True) if value is not NOT_GIVEN}
    return _told(now, checked(now, content, response_model, given, params, needs_completion=False))


@sensitive_variables()
def _told(now: Runtime, call: Call) -> Explanation:
    is_flushed = _flushed()
    is_confirmed = now.log.confirm()
    view = now.log.view(call.key, call.facts)
    sighted = look(now, call, view)
    best = deciding(sighted)
    ledger = look_into_ledger(now, call, best, view)
    seen = _Seen(now, call, view._replace(is_confirmed=is_confirmed), sighted, best, ledger)
    untold = (_NO_LEDGER,) if ledger is None else () if is_flushed else (_NOT_FLUSHED,)
    return replace(_facts(seen), untold=untold, **_verdict(seen))


def _flushed() -> bool:
    try:
        return flush(_FLUSH_SECONDS)
    except ConfigurationError:
        return False


def _facts(seen: _Seen) -> Explanation:
    """Return what is so whatever the verdict."""
    now, call, ledger, best = seen.now, seen.call, seen.ledger, seen.best
    states = now.tiers.states()
    place = None if best is None else best.place
    told = Explanation(
        key=call.key.hex(),
        verdict="unknown",
        kind=call.plan.kind,
        model=call.plan.model,
        response_type=call.plan.response.name,
        at=datetime.fromtimestamp(now.clock.wall(), UTC),
        tenant=call.tenant,
        tier=None if place is None else place.tier,
        age_seconds=None if place is None else place.age_seconds,
        ttl_left_seconds=None if place is None else place.ttl_left_seconds,
        max_age_seconds=call.ttl,
        places=tuple(each.place for each in seen.sighted),
        is_shared=all(state.shared == "network" for state in states),
    )
    if ledger is None:
        return told
    return replace(
        told,
        entry=ledger.entry,
        last_attempt=ledger.last_attempt,
        expired_at=_expired_at(seen),
        invalidation=ledger.invalidation,
    )


def _expired_at(seen: _Seen) -> datetime | None:
    """Return since when what was stored is past its time; None where it is not."""
    held = None if seen.best is None else seen.best.entry
    wall = seen.now.clock.wall()
    if held is not None:
        return datetime.fromtimestamp(held.fresh_until, UTC) if held.fresh_until <= wall else None
    entry = None if seen.ledger is None else seen.ledger.entry
    until = None if entry is None else entry.expires_at
    return until if until is not None and until.timestamp() <= wall else None


@sensitive_variables()
def _verdict(seen: _Seen) -> dict[str, Any]:
    """Return the verdict with what belongs to it alone."""
    call, view, best = seen.call, seen.view, seen.best
    if not call.stores:
        return {"verdict": "bypass", "bypassed_by": _bypassed_by(seen)}
    if view.correction is not None and (corrected := _corrected(seen)) is not None:
        return corrected
    if call.cache == "refresh":
        return {"verdict": "refresh"}
    if not view.is_confirmed:
        return {"verdict": "unconfirmed"}
    if best is None:
        return _of_ledger(seen)
    if best.place.found == "unreachable" and (seen.ledger is None or seen.ledger.entry is None):
        # That a tier cannot be read is no reason where there is nothing for it to have.
        return _of_ledger(seen)
    if best.place.found in ("fresh", "stale") and not _is_valid(call, best):
        return {"verdict": "invalid"}
    if best.place.found == "stale" and call.waits:
        return {"verdict": "expired"}
    return {"verdict": _OF_FOUND[best.place.found]}


def _bypassed_by(seen: _Seen) -> BypassedBy:
    if seen.call.cache != "bypass":
        return "ttl"
    if not seen.now.settings.enabled:
        return "enabled"
    return "block" if is_bypassed() else "cache"


@sensitive_variables()
def _corrected(seen: _Seen) -> dict[str, Any] | None:
    """Return what a human's answer makes of a call; None where it cannot be read."""
    ledger, best = seen.ledger, seen.best
    by = None if ledger is None else ledger.corrected_by
    if best is not None and best.place.found == "fresh" and _is_valid(seen.call, best):
        return {"verdict": "corrected", "corrected_by": by}
    if ledger is None or ledger.correction is None:
        return None
    fits = _validates(seen.call, ledger.correction)
    return {"verdict": "corrected" if fits else "invalid", "corrected_by": by, "tier": None}


def _is_valid(call: Call, sighting: Sighting) -> bool:
    return sighting.entry is not None and _validates(call, sighting.entry.answer)


@sensitive_variables()
def _validates(call: Call, answer: bytes) -> bool:
    try:
        call.plan.validate(answer)
    except ValidationError:
        return False
    return True


def _of_ledger(seen: _Seen) -> dict[str, Any]:
    """Return why no tier has anything, by what the ledger says."""
    ledger = seen.ledger
    if ledger is None:
        return {"verdict": "unknown"}
    if ledger.entry is not None:
        expired = _expired_at(seen) is not None
        gone: Verdict = "expired" if expired else "evicted" if ledger.invalidation is None else "invalidated"
        return {"verdict": gone}
    if ledger.last_attempt is not None:
        return {"verdict": "not_stored"}
    near = ledger.neighbours
    if near is None or near.nearest is None:
        return {"verdict": "never_asked"}
    return {
        "verdict": "differs",
        "nearest": ledger.nearest,
        "differences": near.nearest.differences,
        "uncompared": near.nearest.unknown,
        "same_text": near.is_same_content,
        "entries_of_kind": near.of_kind,
        "entries_of_kind_or_more": near.is_more,
    }
