"""System checks: what is wrong in the settings, said before the first call.

A missing key and a folder that cannot be written are warnings: an error would stop ``migrate`` and ``collectstatic``
on machines that never call a provider.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.encoding import force_bytes

from llmcache import conf, scheduling, setting_values
from llmcache.exceptions import ConfigurationError
from llmcache.kinds import require_all
from llmcache.tenancy import configured_tenancy
from llmcache.tiers.disk import DiskStore
from llmcache.tiers.disk_folder import writable
from llmcache.tiers.redis_alias import is_redis, reads_replicas, require_reachable
from llmcache.warming import registry

TAG = "llmcache"
LEAST_LEASE: Final = 3.0
"""Seconds, with three renewals in them; less is for tests."""


def register() -> None:
    """Register all checks under the tag ``llmcache``.

    That of tables runs with ``check --database`` only, that of the need for secrets with ``check --deploy``.
    """
    checks.register(check_llmcache, TAG)
    checks.register(check_tables, TAG, checks.Tags.database)
    checks.register(check_secrets, TAG, deploy=True)


def check_llmcache(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with the settings of llmcache."""
    if app_configs is not None and not any(app.name == "llmcache" for app in app_configs):
        return []
    raw = getattr(django_settings, "LLMCACHE", {})
    found = conf.problems(raw)
    if found:
        return [
            checks.Error(problem.message, hint=problem.hint, id=f"llmcache.E00{1 if problem.unknown else 2}")
            for problem in found
        ]
    settings = conf.read(raw)
    return [
        *_tiers(settings),
        *_provider(settings),
        *_ledger(settings),
        *_folders(settings),
        *_tenants(settings),
        *_kinds(settings),
        *_warming(settings),
        *_by_task(settings),
        *_secrets(settings),
        *_misspelt(),
    ]


def check_secrets(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Return a warning when keys are hashes that anybody can make."""
    if app_configs is not None and not any(app.name == "llmcache" for app in app_configs):
        return []
    raw = getattr(django_settings, "LLMCACHE", {})
    if conf.problems(raw) or conf.read(raw).key_secrets:
        return []
    return [
        checks.Warning(
            "LLMCACHE['KEY_SECRETS'] is empty: who can read a tier can tell by guessing which texts were asked, and "
            "who can write to one can put answers there.",
            hint="Set it to [('1', secret)], with a secret of its own from secrets.token_urlsafe(32).",
            id="llmcache.W011",
        )
    ]


def check_tables(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Return a warning when the ledger's tables are not migrated in one of these databases, or no plan there is run."""
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    raw = getattr(django_settings, "LLMCACHE", {})
    if conf.problems(raw) or (alias := conf.read(raw).database) not in (databases or ()):
        return []
    executor = MigrationExecutor(connections[alias])
    # `migrate` makes this check before it does what the warning asks for.
    if sys.argv[1:2] == ["migrate"]:
        return []
    targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "llmcache"]
    if not executor.migration_plan(targets):
        return [] if not scheduling.has_plans(alias) or scheduling.is_scheduled() else [_unscheduled("A warming plan")]
    return [
        checks.Warning(
            f"The ledger's tables are not up to date in the database {alias!r}: calls are answered, and what they cost "
            "waits in the journal.",
            hint=f"Run: manage.py migrate llmcache --database={alias}",
            id="llmcache.W006",
        )
    ]


def _ledger(settings: conf.Settings) -> list[checks.CheckMessage]:
    from django.db import connections

    known: dict[str, Any] = connections.settings
    if settings.database not in known:
        return [
            checks.Error(
                f"LLMCACHE['DATABASE'] names {settings.database!r}, which is not in DATABASES "
                f"(there are: {', '.join(sorted(known))}).",
                hint="Add it to DATABASES, or name another.",
                id="llmcache.E007",
            )
        ]
    if settings.ledger_sync and "sqlite" in str(known[settings.database].get("ENGINE")):
        return [
            checks.Warning(
                "LLMCACHE['LEDGER_SYNC'] has no effect on SQLite, where a caller in a transaction would wait for the "
                "ledger and the ledger for the caller.",
                hint="Leave it out, or use PostgreSQL or MySQL.",
                id="llmcache.W005",
            )
        ]
    return []


def _kinds(settings: conf.Settings) -> list[checks.CheckMessage]:
    try:
        require_all(settings)
    except ConfigurationError as error:
        return [checks.Error(str(error), id="llmcache.E010")]
    return []


def _warming(settings: conf.Settings) -> list[checks.CheckMessage]:
    try:
        registry.require_all(settings)
    except ConfigurationError as error:
        return [checks.Error(str(error), id="llmcache.E011")]
    return []


def _by_task(settings: conf.Settings) -> list[checks.CheckMessage]:
    if not scheduling.kinds_by_task(settings):
        return []
    found: list[checks.CheckMessage] = [
        checks.Warning(
            f"Stale answers are to be refreshed by tasks (REFRESH = 'celery'), and a thread does so instead: {why}",
            hint="docs/celery.md has the steps; or set REFRESH to 'thread'.",
            id="llmcache.W015",
        )
        for why in scheduling.why_no_task(settings)
    ]
    return found if scheduling.is_scheduled() else [*found, _unscheduled("REFRESH = 'celery'")]


def _unscheduled(what: str) -> checks.CheckMessage:
    return checks.Warning(
        f"{what} needs somebody who keeps house, and Celery's beat is not told to: {scheduling.TASK} is not scheduled.",
        hint="Set CELERY_BEAT_SCHEDULE = {**llmcache.tasks.beat_schedule()}; or have cron run manage.py "
        "llmcache_housekeep once a minute, and silence this.",
        id="llmcache.W014",
    )


def _tenants(settings: conf.Settings) -> list[checks.CheckMessage]:
    try:
        configured_tenancy(settings)
    except ConfigurationError as error:
        return [checks.Error(str(error), id="llmcache.E008")]
    return []


def _secrets(settings: conf.Settings) -> list[checks.CheckMessage]:
    djangos = _djangos_secrets() if settings.key_secrets else set[bytes | None]()
    return [
        checks.Error(
            f"LLMCACHE['KEY_SECRETS'] has Django's SECRET_KEY as its secret {each.id!r}: who learns one has the other.",
            hint="Make one of its own: secrets.token_urlsafe(32).",
            id="llmcache.E009",
        )
        for each in settings.key_secrets
        if each.secret in djangos
    ]


def _djangos_secrets() -> set[bytes | None]:
    """Return Django's secrets as they are, and as base64 would be read."""
    found: list[Any] = [*django_settings.SECRET_KEY_FALLBACKS]
    # Django raises where there is none, and many a command needs none.
    with contextlib.suppress(ImproperlyConfigured):
        found.append(django_settings.SECRET_KEY)
    texts = [each.decode("latin-1") if isinstance(each, bytes) else str(each) for each in found]
    return {*map(force_bytes, found), *map(setting_values.secret_bytes, texts)}


def _misspelt() -> list[checks.CheckMessage]:
    """Find a misspelt ``LLMCACHE``: Django would not notice, and every default would hold."""
    wrong = (
        [name for name in dir(django_settings) if name != "LLMCACHE" and sorted(name) == sorted("LLMCACHE")]
        if not hasattr(django_settings, "LLMCACHE")
        else []
    )
    return [
        checks.Warning(
            f"There is a setting {name}, and no LLMCACHE.", hint="Did you mean LLMCACHE?", id="llmcache.W004"
        )
        for name in wrong
    ]


def _tiers(settings: conf.Settings) -> list[checks.CheckMessage]:
    from llmcache.tiers.configured import aliases_in_use

    try:
        aliases = aliases_in_use(settings)
    except ConfigurationError as error:
        return [checks.Error(str(error), id="llmcache.E003")]
    found = [message for alias in aliases for message in _tier(alias)]
    found += [*_no_leases(settings, aliases), *_odd_lease(settings)]
    return found if settings.tiers is None else [*found, *_memory_alone(aliases)]


def _tier(alias: str) -> list[checks.CheckMessage]:
    """Find what makes an alias a poor tier."""
    from django.core.cache import caches
    from django.core.cache.backends.db import BaseDatabaseCache
    from django.core.cache.backends.dummy import DummyCache
    from django.core.cache.backends.filebased import FileBasedCache
    from django.core.cache.backends.locmem import LocMemCache

    try:
        backend: Any = caches[alias]
    except (OSError, sqlite3.Error):
        return [_unwritable(caches.settings[alias].get("LOCATION"), f"CACHES[{alias!r}]['LOCATION']")]
    store = getattr(backend, "store", None)
    if isinstance(store, DiskStore) and not writable(store.path):
        return [_unwritable(store.path, f"CACHES[{alias!r}]['LOCATION']")]
    if isinstance(backend, LocMemCache):
        return [
            checks.Warning(
                f"LLMCACHE['TIERS'] names {alias!r}, a LocMemCache: each process has its own, so each pays for its own "
                "answers, and a restart pays again.",
                hint="Put a llmcache.backends.MemoryCache first, and below it a cache that processes share.",
                id="llmcache.W007",
            )
        ]
    if isinstance(backend, DummyCache):
        return [
            checks.Warning(
                f"LLMCACHE['TIERS'] names {alias!r}, a DummyCache, which keeps nothing.",
                hint="Remove it from TIERS, or give the alias another BACKEND.",
                id="llmcache.W008",
            )
        ]
    if is_redis(backend.__class__):
        return _redis(alias)
    options: dict[str, Any] = caches.settings[alias].get("OPTIONS", {})
    if isinstance(backend, (BaseDatabaseCache, FileBasedCache)) and "MAX_ENTRIES" not in options:
        return [
            checks.Warning(
                f"CACHES[{alias!r}] keeps at most {backend._max_entries} values, of which llmcache needs two for each "
                "answer; then some are removed, whether they were paid for or not.",
                hint=f"Set CACHES[{alias!r}]['OPTIONS']['MAX_ENTRIES'] to what the store can hold.",
                id="llmcache.W010",
            )
        ]
    return []


def _redis(alias: str) -> list[checks.CheckMessage]:
    try:
        require_reachable(alias)
    except Exception as error:  # noqa: BLE001  # of whatever is wrong with its settings, and may show a password
        return [
            checks.Error(
                f"CACHES[{alias!r}] tells of no Redis that can be reached ({type(error).__name__}).",
                hint=f"Look at CACHES[{alias!r}]['LOCATION'] and ['OPTIONS'].",
                id="llmcache.E003",
            )
        ]
    if not reads_replicas(alias):
        return []
    return [
        checks.Warning(
            f"CACHES[{alias!r}] has several servers, and a backend or client of your own that reads from any of them: "
            "what was just written may not be there yet, and is paid for again.",
            hint="Name the primary alone, or use a backend and client of Django's or django-redis's own: of those, "
            "llmcache reads the primary.",
            id="llmcache.W012",
        )
    ]


def _no_leases(settings: conf.Settings, aliases: Sequence[str]) -> list[checks.CheckMessage]:
    """Find tiers that processes share, and in which none can say that it is asking the provider."""
    from django.core.cache.backends.dummy import DummyCache
    from django.core.cache.backends.locmem import LocMemCache
    from django.db import connections

    from llmcache.backends import DiskCache, MemoryCache
    from llmcache.tiers.configured import class_of

    backends = [class_of(alias, "") for alias in aliases]
    own = (MemoryCache, LocMemCache, DummyCache)
    shared = [backend for backend in backends if not issubclass(backend, own)]
    if not shared or any(issubclass(backend, DiskCache) or is_redis(backend) for backend in shared):
        return []
    databases: dict[str, Any] = connections.settings
    engine = str(databases.get(settings.database, {}).get("ENGINE"))
    if any(vendor in engine for vendor in ("postgresql", "postgis", "mysql")):
        return []
    return [
        checks.Warning(
            "Processes that ask for the same at the same moment all ask the provider: neither a tier nor the database "
            "of LLMCACHE['DATABASE'] can hold who is asking.",
            hint="Add a Redis or a llmcache.backends.DiskCache to LLMCACHE['TIERS'], or keep the ledger in PostgreSQL "
            "or MySQL.",
            id="llmcache.W013",
        )
    ]


def _odd_lease(settings: conf.Settings) -> list[checks.CheckMessage]:
    """Find a lease that ends too soon for who leads, or too late for who waits."""
    if LEAST_LEASE <= settings.lease <= max(settings.timeout, LEAST_LEASE):
        return []
    if settings.lease < LEAST_LEASE:
        what = (
            f"is below {LEAST_LEASE:g} s: a process that stands still for a moment is taken for dead, and another one "
            "asks the provider, too."
        )
    else:
        what = (
            f"is above LLMCACHE['TIMEOUT'], {settings.timeout:g} s: who waits for a process that has died gives up "
            "before it may ask in its place."
        )
    return [
        checks.Warning(
            f"LLMCACHE['LEASE'], {settings.lease:g} s, {what}",
            hint=f"Set it to {LEAST_LEASE:g} s at least, and at most to LLMCACHE['TIMEOUT'].",
            id="llmcache.W016",
        )
    ]


def _memory_alone(aliases: Sequence[str]) -> list[checks.CheckMessage]:
    from llmcache.backends import MemoryCache
    from llmcache.tiers.configured import class_of

    if not all(issubclass(class_of(alias, ""), MemoryCache) for alias in aliases):
        return []
    return [
        checks.Warning(
            "LLMCACHE['TIERS'] is memory alone: each process pays for its own answers, and a restart pays again.",
            hint="Add a cache that processes share, e.g. a llmcache.backends.DiskCache.",
            id="llmcache.W009",
        )
    ]


def _provider(settings: conf.Settings) -> list[checks.CheckMessage]:
    from llmcache.providers.configured import configured_provider

    alias = settings.model.partition("/")[0]
    if alias not in settings.providers:
        known = ", ".join(sorted(settings.providers))
        return [
            checks.Error(
                f"LLMCACHE['MODEL'] names the provider {alias!r}, which is not in LLMCACHE['PROVIDERS'] "
                f"(there are: {known}).",
                hint="Add it to PROVIDERS, or name another model.",
                id="llmcache.E004",
            )
        ]
    # A function that cannot be imported is found here, whoever asks it; what a server lacks may come with its machine.
    functions = {name for name, of in settings.providers.items() if of.call is not None or of.acall is not None}
    try:
        for name in sorted(functions - {alias}):
            configured_provider(name, settings.providers[name])
        provider = configured_provider(alias, settings.providers[alias])
    except ConfigurationError as error:
        return [checks.Error(str(error), id="llmcache.E006")]
    if settings.allow_provider_calls is False:
        return []
    try:
        provider.require_key()
    except ConfigurationError as error:
        return [checks.Warning(str(error), id="llmcache.W001")]
    return []


def _folders(settings: conf.Settings) -> list[checks.CheckMessage]:
    try:
        journal = settings.journal or conf.default_journal()
        disk = settings.disk_path or conf.default_disk() if _on_disk(settings) else None
    except ConfigurationError as error:
        return [checks.Error(str(error), id="llmcache.E005")]
    found: list[checks.CheckMessage] = []
    if not writable(journal):
        found.append(
            checks.Warning(
                f"The journal's folder {journal} cannot be written: provider calls are noted in memory only, and a "
                "process that dies takes what it spent with it.",
                hint="Set LLMCACHE['JOURNAL'] to a folder that this user can write.",
                id="llmcache.W002",
            )
        )
    if disk is not None and not writable(disk):
        found.append(_unwritable(disk, "LLMCACHE['DISK_PATH']"))
    return found


def _on_disk(settings: conf.Settings) -> bool:
    """Return whether entries lie in the folder that is used where no alias is."""
    from llmcache.tiers.configured import default_is_shared

    try:
        return settings.tiers is None and not default_is_shared(settings)
    except ConfigurationError:
        # Said of the tiers already.
        return False


def _unwritable(disk: Path | str, setting: str) -> checks.CheckMessage:
    return checks.Warning(
        f"The disk tier's folder {disk} cannot be written: new answers are not kept there, and a restart pays for "
        "them again.",
        hint=f"Set {setting} to a folder that this user can write.",
        id="llmcache.W003",
    )
