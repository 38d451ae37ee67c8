"""What is told of a request that is answered from the cache, or is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from llmcache.schema_history.changes import Change

Verdict = Literal[
    "hit",
    "stale",
    "corrected",
    "bypass",
    "refresh",
    "unconfirmed",
    "invalid",
    "invalidated",
    "expired",
    "too_old",
    "future",
    "damaged",
    "unreachable",
    "evicted",
    "not_stored",
    "differs",
    "never_asked",
    "unknown",
]
"""What a call would come to now. Answered: ``hit``; ``stale``: with what is past its time; ``corrected``: with what a
human has put in its place. Asked, whatever is there: ``bypass``, ``refresh``.

Else a miss. ``unconfirmed``: nobody can tell whether entries were invalidated. There is an entry, and it does not pass
the type's validation (``invalid``), was ``invalidated``, has ``expired``, is older than this caller's ``ttl``
(``too_old``), is from a time that has not come yet (``future``) or not whole (``damaged``). There was one, and a tier
cannot be read (``unreachable``), or it was ``evicted``. It was asked, and ``not_stored``. Another one was stored, and
this one ``differs``. It was ``never_asked``. ``unknown``: no tier has it, and the ledger cannot be read.
"""

Found = Literal["fresh", "stale", "too_old", "expired", "invalidated", "future", "damaged", "absent", "unreachable"]
How = Literal["other", "only_ours", "only_theirs"]
"""Both have one, and not the same; only this request has one; only the other does."""
BypassedBy = Literal["cache", "block", "enabled", "ttl"]

COMPONENTS: Final = (
    *("content", "response_type", "kind", "model", "schema", "system", "param", "provider", "tenant", "subject"),
    *("tags", "version", "variant", "project"),
)
"""What a key is made of, in the order in which it is told. ``project``: ``VERSION``, and the kind's in ``KINDS``."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One component in which two requests differ."""

    component: str
    """One of ``COMPONENTS``."""
    how: How = "other"
    name: str = ""
    """Of a parameter; empty for those together that have no hash of their own."""
    ours: str | None = None
    """Of this request, where that is no text: a kind, model, type, tenant, fingerprint, or tags."""
    theirs: str | None = None
    changes: tuple[Change, ...] = field(default=(), hash=False)
    """Of a schema: from theirs to ours, place by place, as far as theirs is known."""


@dataclass(frozen=True, slots=True)
class TierPlace:
    """What one tier holds for a request."""

    tier: str
    found: Found
    """What a call of this very reader could do with it."""
    age_seconds: float | None = None
    ttl_left_seconds: float | None = None
    """None when it does not expire, or there is no entry."""


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What the ledger knows of an entry."""

    key: str
    kind: str
    model: str
    response_type: str
    tenant: str
    """Empty without one."""
    written_at: datetime
    expires_at: datetime | None
    """None when it does not expire."""
    hits: int
    source: str


@dataclass(frozen=True, slots=True)
class VoidedBy:
    """The newest invalidation that makes an entry void."""

    id: str
    """By which ``llmcache.undo`` takes it back."""
    made_at: datetime
    made_by: str
    reason: str
    comes_back: bool
    """Whether the answer would be served again if this one were undone now."""


@dataclass(frozen=True, slots=True)
class LastAttempt:
    """The newest attempt that the ledger has for a request."""

    started_at: datetime
    outcome: str
    """One of ``ProviderCall.Outcome``."""
    error: str
    to_store: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a request is answered from the cache, or is not; ``print`` it to read it. It holds no text of a user."""

    key: str
    """The request's key, in hex."""
    verdict: Verdict
    kind: str
    model: str
    response_type: str
    at: datetime
    """When this was found out."""
    tenant: str | None = None
    tier: str | None = None
    """The tier that answers, or that has what cannot be used."""
    age_seconds: float | None = None
    """How old what lies there is."""
    ttl_left_seconds: float | None = None
    """How long it can still be given to this caller; None when it does not expire."""
    max_age_seconds: float | None = None
    """How old an answer may be for this caller; None for any age."""
    places: tuple[TierPlace, ...] = ()
    """What each tier holds, fastest first."""
    is_shared: bool = True
    """Whether all tiers are seen by every process; else others may have what these do not."""
    entry: EntryFacts | None = None
    """The ledger's row of this very request."""
    expired_at: datetime | None = None
    invalidation: VoidedBy | None = None
    corrected_by: str | None = None
    last_attempt: LastAttempt | None = None
    nearest: EntryFacts | None = None
    """The entry that differs least, where there is none of this request."""
    differences: tuple[Difference, ...] = ()
    """What this request differs in from it."""
    uncompared: tuple[str, ...] = ()
    """Components of it that cannot be compared: they were not recorded, or with a secret that is gone."""
    same_text: bool = False
    """Whether the nearest entry has the same text."""
    entries_of_kind: int = 0
    """Entries of the same kind with other texts, of those that were looked at."""
    entries_of_kind_or_more: bool = False
    """Whether there may be more of them."""
    bypassed_by: BypassedBy | None = None
    """``cache=``, also that of ``KINDS``; the block of ``llmcache.bypass()``; ``ENABLED``; a ``ttl`` of 0."""
    untold: tuple[str, ...] = ()
    """What could not be found out, in sentences."""

    def __str__(self) -> str:
        from llmcache.explaining.words import in_words

        return in_words(self)
