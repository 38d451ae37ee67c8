"""Entries that are brought in: each line is checked, and what this project would serve is kept as if it were its own.

What was exported elsewhere is not trusted. An entry gets its bytes anew, under this project's name space and secret.
Its key has to be one that this project makes: it is made again of the request beside it, or the line has the seal of
this project's secret; else it is taken only where the caller says that the file can be trusted.

An entry counts as made when it was made, and has seen nothing of this project's invalidation log. So every row in force
that is about it makes it void: now, when it is left out, and also where such a row is written while this goes on.

Nothing newer is overwritten: what the tiers hold is looked at just before. Where another process writes between that
look and the writing, the older answer stands again; it is one that was valid all the time.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import Any, Final, Literal

from django.views.decorators.debug import sensitive_variables

from llmcache.engine.lifetimes import FOREVER
from llmcache.engine.runtime import Runtime
from llmcache.envelope import UNKNOWN_COST, Entry
from llmcache.exceptions import ConfigurationError, InvalidRequest, NotRewritten
from llmcache.kept_calls import facts_of, remade
from llmcache.kinds import registered_type
from llmcache.money.facts import TOKENS
from llmcache.money.journal_files import JournalRecord
from llmcache.money.ledger import import_records
from llmcache.sharing.fields import UnusableLineError
from llmcache.sharing.lines import LOG_UNREADABLE, Given, given_of
from llmcache.tiers.spending import Spending

Outcome = Literal["imported", "known", "newer", "void", "expired"]
"""What became of an entry. ``known``: the tiers hold this very one; ``newer``: they hold one that was made later."""

_AT_ONCE: Final = 200
"""Entries whose rows are written together."""
_MOST_TAGS: Final = 50
_DRAIN_SECONDS: Final = 30.0
_CLOCKS_DIFFER: Final = 60.0
_NOT_MADE_HERE: Final = {
    "schema_changed": "is of another form of its response type than the one that KINDS registers for its kind.",
    "provider_gone": "is of a provider that is not in PROVIDERS, or has another address here.",
    "version_changed": "is of another VERSION than this project's, or its kind's.",
    "other_request": "has a request that does not make its key.",
}
"""Why this project would never ask for a key, by ``refusals.REASONS``."""


class UnwritableTierError(Exception):
    """A tier did not keep an entry. Its argument is the tier's name."""


class Incoming:
    """Entries on their way in, in their order. ``settle`` brings the last ones into the ledger."""

    def __init__(self, now: Runtime, *, trust: bool, dry_run: bool) -> None:
        self._now = now
        self._trust = trust
        self._dry_run = dry_run
        self._records: list[JournalRecord] = []
        self._faults = self._faults_now()
        self._longest = now.settings.retention["invalidations"] - 3_600.0
        if not now.tiers.below:
            raise ConfigurationError(
                "LLMCACHE['TIERS'] is memory alone, which ends with this command: nothing would be kept. "
                "Add a cache that processes share."
            )

    @sensitive_variables()
    def take(self, line: dict[str, Any]) -> Outcome:
        """Keep the entry of a line, and return what became of it.

        Raises ``UnusableLineError`` for a line that is refused, ``UnwritableTierError``, ``ConfigurationError`` where
        nobody can tell what was invalidated, and the database's errors.
        """
        given = given_of(line, self._now)
        self._require_own_key(given)
        entry = given.entry
        if self._is_over(entry):
            return "expired"
        if not self._now.log.confirm():
            raise ConfigurationError(LOG_UNREADABLE)
        if not self._now.log.view(entry.key, facts_of(given.row, entry)).admits(entry.seen):
            return "void"
        there = self._written_at(entry.key)
        if there is not None and there > entry.written_at:
            return "newer"
        is_known = there == entry.written_at
        if not self._dry_run:
            if not is_known:
                self._write(given)
            # Also of one that is known: who has brought it in may have been broken off before its row was there.
            self._records.append(self._record(given))
            if len(self._records) >= _AT_ONCE:
                self.settle()
        return "known" if is_known else "imported"

    def settle(self) -> None:
        """Bring the rows of what was kept into the ledger, in one transaction.

        Raises the database's errors, and ``UnwritableTierError`` where a tier that is written by a thread did not keep
        what it was given: then there are no rows, and the next run finds out what is there.
        """
        records, self._records = self._records, []
        if records:
            self._now.tiers.drain(_DRAIN_SECONDS)
            self._require_kept(self._faults)
            import_records(records, using=self._now.settings.database, namespace=self._now.namespace)

    def _written_at(self, key: bytes) -> float | None:
        """Return when the newest entry that the tiers hold of a key was written; None where they hold none."""
        with Spending():
            return max((place.entry.written_at for place in self._now.tiers.places(key) if place.entry), default=None)

    def _is_over(self, entry: Entry) -> bool:
        wall = self._now.clock.wall()
        if entry.written_at > wall + _CLOCKS_DIFFER:
            raise UnusableLineError(
                "has an entry of a time that has not come yet. Compare the clocks of both machines."
            )
        return wall >= max(entry.fresh_until, entry.stale_until) or wall - entry.written_at >= self._longest

    # -- whose key it is

    @sensitive_variables()
    def _require_own_key(self, given: Given) -> None:
        """Raise ``UnusableLineError`` for a key that this project does not make, or of which that cannot be told."""
        self._require_valid(given)
        is_own = given.sealed or self._trust
        try:
            call = remade(self._now, given.row, given.entry, given.request)
        except NotRewritten as error:
            if error.reason in _NOT_MADE_HERE:
                raise UnusableLineError(_NOT_MADE_HERE[error.reason]) from None
        else:
            is_own = is_own or call.key == given.entry.key
        if not is_own:
            raise UnusableLineError(
                "has a key that cannot be made again here: register its kind's type in KINDS and export with "
                "--requests, or have the same KEY_SECRETS in both projects, or pass --trust for a file that you trust."
            )

    @sensitive_variables()
    def _require_valid(self, given: Given) -> None:
        """Raise ``UnusableLineError`` for an answer that does not pass the validation of its kind's registered type."""
        with contextlib.suppress(ConfigurationError, InvalidRequest):
            annotation = registered_type(self._now.settings, given.row.kind)
            if annotation is None:
                return
            response = self._now.plans.response(annotation)
            if (response.name, response.fingerprint) != (given.row.response_type, given.row.schema):
                raise UnusableLineError(_NOT_MADE_HERE["schema_changed"])
            try:
                response.validate(given.entry.answer)
            except Exception:  # noqa: BLE001  # a type's own validators run here, and may raise anything
                raise UnusableLineError("has an answer that does not pass its type's validation.") from None

    # -- what is kept

    @sensitive_variables()
    def _write(self, given: Given) -> None:
        before = self._faults_now()
        # What this project does not keep of its own calls, it does not keep of others'.
        request = None if self._now.settings.keep_requests == "no" else given.request
        with Spending():
            self._now.tiers.write(given.entry, given.rest, request)
        self._require_kept(before)

    def _faults_now(self) -> list[int]:
        return [state.faults for state in self._now.tiers.states()]

    def _require_kept(self, before: list[int]) -> None:
        """Raise ``UnwritableTierError`` for the first tier that has had a fault since, or is left alone."""
        for state, faults in zip(self._now.tiers.states(), before, strict=True):
            if state.faults > faults or state.breaker == "open" or not state.writes:
                raise UnwritableTierError(state.name)

    def _record(self, given: Given) -> JournalRecord:
        """Return the line by which the ledger knows an entry; there is no provider call, and nothing was spent."""
        row, entry = given.row, given.entry
        meta = entry.facts()
        facts: dict[str, Any] = {
            "key": row.key,
            "kind": row.kind,
            "type": row.response_type,
            "schema": row.schema,
            "model": row.model,
            "answered": row.answered_model,
            "tenant": row.tenant,
            "subject": row.subject_hash,
            "tags": row.tags[:_MOST_TAGS],
            "content": row.content_hash,
            "parts": row.components,
            "written": entry.written_at,
            "expires": None if entry.fresh_until == FOREVER else entry.fresh_until,
            "stale": None if entry.stale_until in (entry.fresh_until, FOREVER) else entry.stale_until,
            "size": len(entry.answer) + len(entry.meta) + len(given.rest) + len(given.request or b""),
            "cost": None if entry.cost == UNKNOWN_COST else entry.cost,
            "latency_ms": entry.latency_ms,
            "attempts": meta.get("attempts"),
            "source": row.source,
            "simulated": row.simulated,
            **{name: getattr(row, name) for name in TOKENS},
        }
        return JournalRecord("stored", str(uuid.uuid4()), self._now.clock.wall(), facts)
