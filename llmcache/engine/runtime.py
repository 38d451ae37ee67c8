"""What the calls of one process share: tiers, flights, plans, providers and journal, made from the settings."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from django.db import DEFAULT_DB_ALIAS, connections

from llmcache import conf, keys
from llmcache.clock import Clock
from llmcache.correction_rows import CorrectionRows
from llmcache.engine import isolation
from llmcache.engine.counts import Counts
from llmcache.engine.flights import Flights
from llmcache.engine.leases import Leases
from llmcache.engine.log import Board, Log
from llmcache.engine.refreshes import Refreshes
from llmcache.engine.schemas import Schemas
from llmcache.exceptions import ConfigurationError
from llmcache.kinds import version_of
from llmcache.money.journal import Journal
from llmcache.money.ledger_sync import LedgerSync
from llmcache.money.pricing import PriceBook
from llmcache.money.writer import Writer
from llmcache.plans import Plan, Plans
from llmcache.prepared import PreparedCalls
from llmcache.providers.base import Provider
from llmcache.providers.configured import configured_provider
from llmcache.sealing import seals_of
from llmcache.tenancy import configured_tenancy
from llmcache.tiers.base import ByteTier
from llmcache.tiers.configured import configured_tiers
from llmcache.tiers.disk import DiskTier
from llmcache.tiers.disk_leases import DiskLeases
from llmcache.tiers.older_entries import OlderEntries
from llmcache.tiers.stack import TierStack

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.tiers.redis_tier import RedisTier

_STOP_SECONDS: Final = 2.0


class Runtime:
    """Everything that calls of one process share.

    ``test`` names the test whose calls it serves, see ``isolation``: nothing of it is seen by another, and what it
    writes lies in a temporary folder. ``like`` is the runtime of the test before, whose plans and connections serve
    on where the settings are the same.
    """

    def __init__(
        self,
        settings: conf.Settings,
        clock: Clock | None = None,
        *,
        test: str | None = None,
        like: Runtime | None = None,
    ) -> None:
        self.settings = settings
        self.tenancy = configured_tenancy(settings)
        self.clock = clock or Clock()
        self.test = test
        self.namespace = settings.namespace or _default_namespace()
        if test is not None:
            self.namespace = f"{self.namespace[: keys.MAX_NAMESPACE - len(test)]}{test}"
        self.seals = seals_of(settings.key_secrets)
        self.tiers = configured_tiers(settings, self.namespace, self.clock, seal=self.seals[0], test=test is not None)
        self.older_entries = (
            OlderEntries(self.tiers, self.seals[1:], self.namespace, self.clock) if self.seals[1:] else None
        )
        memory = self.tiers.memory
        self.memory = memory.store if memory else None
        self.memory_name = memory.name if memory else None
        self.leases, self.lease_tier = _leases(settings, self.tiers, self.clock, test)
        self.flights = Flights()
        self.refreshes = Refreshes(self.clock.monotonic, partial(_send_task, settings))
        self.journal = Journal(
            _journal_folder(settings, test),
            self.namespace,
            fsync=settings.journal_fsync and test is None,
            max_bytes=settings.journal_max_bytes,
            clock=self.clock.wall,
        )
        self._environment = os.environ.get("OPENAI_BASE_URL")
        if like is not None and like.settings == settings and like._environment == self._environment:
            self.plans, self.prepared, self.prices = like.plans, like.prepared, like.prices
            self._providers = like._providers
        else:
            self.plans = Plans(self.seals)
            self.prepared = PreparedCalls()
            self.prices = PriceBook(settings.prices)
            self._providers: dict[str, Provider] = {}
        self.log = _log(settings, self.namespace, self.tiers, self.clock, test)
        self.corrections = CorrectionRows(settings.database, self.namespace)
        self.writer = Writer(self)
        self.ledger_sync = _ledger_sync(settings, self.namespace) if settings.ledger_sync and test is None else None
        # A test's lines and counts are brought into the database by `flush` alone.
        first = self.writer.begin if test is None else None
        self.counts = Counts(first, clock=self.clock.wall)
        self.schemas = Schemas()
        self._closed = False
        self._lock = threading.Lock()
        # What the hit path compares, in the form in which it compares it.
        self.monotonic = self.clock.monotonic
        self.max_text_bytes = settings.max_text_bytes

    def provider(self, alias: str) -> Provider:
        """Return the provider of an alias. Raises ``ConfigurationError`` for one that is not in ``PROVIDERS``."""
        provider = self._providers.get(alias)
        if provider is None:
            known = self.settings.providers
            if alias not in known:
                raise ConfigurationError(
                    f"There is no provider {alias!r} in LLMCACHE['PROVIDERS'] (there are: {', '.join(sorted(known))}). "
                    "Add it there, or write the model as 'provider/model'."
                )
            with self._lock:
                provider = self._providers.setdefault(alias, configured_provider(alias, known[alias]))
            if self._closed:
                # Of a call that is still under way.
                provider.close()
        return provider

    def plan(self, annotation: Any, model: str, system: str | None, kind: str | None, params: dict[str, Any]) -> Plan:
        """Return the plan for these; ``model`` is ``provider/model``."""
        alias, slash, name = model.partition("/")
        if not slash or not name:
            raise ConfigurationError(
                f"model= must name a provider and a model, as in 'openai/gpt-5-mini'; got {model!r}."
            )
        provider = self.provider(alias)
        return self.plans.get(annotation, provider, name, system, kind, partial(version_of, self.settings), params)

    def require_database(self) -> None:
        """Raise ``ConfigurationError`` where there is no such database as the ledger's."""
        _require_database(self.settings.database)

    @property
    def lines_lost(self) -> int:
        """How many lines of journals this process had to drop, or could not read."""
        return self.journal.lost + self.writer.lines_unread

    def close(self) -> None:
        """Close files and connections; entries stay where they are."""
        self.refreshes.close()
        if self.leases is not None:
            self.leases.close()
        self.log.close()
        self.writer.stop(_STOP_SECONDS)
        self.journal.close()
        self.tiers.close()
        self._closed = True
        for provider in self._providers.values():
            provider.close()

    def forget(self, successor: Runtime) -> None:
        """End a test's runtime: its lines and counts are dropped, and what its successor has taken over stays open."""
        self.refreshes.close()
        if self.leases is not None:
            self.leases.close()
        self.journal.close()
        self.tiers.close()
        if successor._providers is not self._providers:
            self._closed = True
            for provider in self._providers.values():
                provider.close()

    def reset_after_fork(self) -> None:
        """Make locks and flights anew in a child; journal and tiers see to themselves."""
        self._lock = threading.Lock()
        self.log.reset_after_fork()
        self.corrections.reset_after_fork()
        self.refreshes.reset_after_fork()
        if self.leases is not None:
            self.leases.reset_after_fork()
        self.writer.reset_after_fork()
        if self.ledger_sync is not None:
            self.ledger_sync.reset_after_fork()
        self.counts.reset_after_fork()
        self.flights.reset_after_fork()
        self.plans.reset_after_fork()
        self.prepared.reset_after_fork()
        for provider in self._providers.values():
            provider.reset_after_fork()


def _require_database(alias: str) -> None:
    if alias not in connections.settings:
        raise ConfigurationError(
            f"LLMCACHE['DATABASE'] names {alias!r}, which is not in DATABASES. Add it there, or name another."
        )


def _log(settings: conf.Settings, namespace: str, tiers: TierStack, clock: Clock, test: str | None) -> Log:
    # Here, for it brings the models, which are not there before the project's apps are.
    from llmcache.invalidation_rows import InvalidationRows, RowsOfTest

    rows = (InvalidationRows if test is None else RowsOfTest)(settings.database, namespace)
    return Log(
        rows,
        _board(tiers, namespace) if test is None else None,
        clock.monotonic,
        recheck=settings.recheck,
        grace=settings.recheck_grace,
        # A thread waits by the real clock.
        thread=test is None and not clock.simulated,
    )


def _leases(
    settings: conf.Settings, tiers: TierStack, clock: Clock, test: str | None
) -> tuple[Leases | None, ByteTier | None]:
    """Return where processes tell each other which of them asks, and the tier that this is."""
    redis = _redis(tiers)
    if redis is not None:
        from llmcache.tiers.redis_leases import RedisLeases

        return Leases(RedisLeases(redis), settings.lease, clock.monotonic), redis
    disk = next((tier for tier in tiers.below if isinstance(tier, DiskTier)), None)
    if disk is not None:
        return Leases(DiskLeases(disk), settings.lease, clock.monotonic), disk
    # Not in a test, whose database is gone before a connection that nobody has asked for.
    shared = [tier for tier in tiers.below if tier.state().shared in ("machine", "network")]
    if shared and test is None and settings.database in connections.settings:
        from llmcache.lease_rows import VENDORS, DatabaseLeases

        if connections[settings.database].vendor in VENDORS:
            rows = DatabaseLeases(settings.database, shared[-1])
            return Leases(rows, settings.lease, clock.monotonic), shared[-1]
    return None, None


def _board(tiers: TierStack, namespace: str) -> Board | None:
    redis = _redis(tiers)
    if redis is None:
        return None
    from llmcache.tiers.log_board import RedisBoard

    return RedisBoard(redis, namespace)


def _send_task(settings: conf.Settings, call: Call) -> None:
    # Here, for it brings Celery, which a project need not have.
    from llmcache.sending import send_refresh

    send_refresh(settings, call)


def _redis(tiers: TierStack) -> RedisTier | None:
    """Return the fastest of the tiers that is a Redis."""
    # Who has one has its module loaded; without redis-py it cannot be.
    module = sys.modules.get("llmcache.tiers.redis_tier")
    below: tuple[Any, ...] = tiers.below
    return next((tier for tier in below if module is not None and isinstance(tier, module.RedisTier)), None)


def _journal_folder(settings: conf.Settings, test: str | None) -> Path:
    if test is None or isolation.set_by_test("JOURNAL"):
        return settings.journal or conf.default_journal()
    return isolation.folder() / test / "journal"


def _ledger_sync(settings: conf.Settings, namespace: str) -> LedgerSync | None:
    _require_database(settings.database)
    # On SQLite a caller in a transaction would wait for the ledger, and the ledger for the caller's lock.
    if connections[settings.database].vendor == "sqlite":
        return None
    return LedgerSync(settings.database, namespace)


def _default_namespace() -> str:
    # The connection's own settings: a test run's database has another name than the project's.
    return keys.default_namespace(
        os.environ.get("DJANGO_SETTINGS_MODULE", ""), dict(connections[DEFAULT_DB_ALIAS].settings_dict)
    )
