"""The settings of llmcache: one frozen, typed object read from ``LLMCACHE``.

Nothing else in the package reads ``django.conf.settings["LLMCACHE"]``. A key that is not known or a value that cannot
be used is reported by ``problems`` (which the system checks show) and never replaced by a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from django.conf import settings as django_settings

from llmcache.exceptions import ConfigurationError
from llmcache.kinds import REFRESH, KindSettings, kinds
from llmcache.money.pricing import DatedPrice
from llmcache.setting_values import (
    RETENTION,
    Allowance,
    KeySecret,
    ProviderSettings,
    UnusableError,
    allowance,
    database_alias,
    flag,
    folder,
    key_secrets,
    model_name,
    namespace,
    nearest,
    one_of,
    prices,
    providers,
    retention,
    seconds,
    share,
    short_text,
    tenant_source,
    tiers,
    time_zone,
    whole_number,
)
from llmcache.warming.registry import Source, sources


@dataclass(frozen=True, slots=True)
class Settings:
    """``LLMCACHE`` with every value checked and every default filled in."""

    enabled: bool
    providers: Mapping[str, ProviderSettings]
    model: str
    tiers: tuple[str, ...] | None
    memory_bytes: int
    disk_path: Path | None
    disk_bytes: int
    ttl: float | None
    stale_ttl: float
    jitter: float
    refresh: str
    kinds: Mapping[str, KindSettings]
    warming: Mapping[str, Source | str]
    timeout: float
    max_retries: int
    max_reasks: int
    namespace: str | None
    version: str
    database: str
    journal: Path | None
    journal_fsync: bool
    journal_max_bytes: int
    ledger_sync: bool
    on_ledger_full: str
    max_text_bytes: int
    max_file_bytes: int
    max_value_bytes: int
    prices: Mapping[str, tuple[DatedPrice, ...]]
    time_zone: str | None
    recheck: float
    recheck_grace: float
    lease: float
    retention: Mapping[str, float]
    keep_requests: str
    key_secrets: tuple[KeySecret, ...]
    tenant: Callable[[], object] | str | None
    tenant_required: bool
    allow_provider_calls: Allowance | None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in ``LLMCACHE``."""

    setting: str
    message: str
    hint: str
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One key of ``LLMCACHE``, as the settings reference lists it."""

    name: str
    default: Any
    read: Callable[[Any], Any]
    type: str
    """Type and unit, in words."""
    about: str
    """One sentence: what the setting decides."""


OPTIONS: tuple[Option, ...] = (
    Option(
        "ENABLED",
        True,
        flag,
        "bool",
        "Whether answers are looked up and kept; with False every call asks, as with cache='bypass'.",
    ),
    Option(
        "PROVIDERS",
        {},
        providers,
        "dict of alias to dict with 'api_key', 'base_url', 'identity', 'api', 'output', or with 'call', 'acall'",
        "The providers by alias; what 'openai' does not set is read from OPENAI_API_KEY and OPENAI_BASE_URL at use.",
    ),
    Option(
        "MODEL",
        "openai/gpt-5-mini",
        model_name,
        "str, 'provider/model'",
        "The model that is asked unless a call names one.",
    ),
    Option(
        "TIERS",
        None,
        tiers,
        "list of aliases of CACHES, fastest first, or None",
        "Where entries lie; None is memory over CACHES['default'] if that is shared, else over a folder on disk.",
    ),
    Option(
        "MEMORY_BYTES",
        64 * 2**20,
        whole_number(0),
        "int, bytes",
        "Budget of the memory tier that is used when TIERS is None.",
    ),
    Option(
        "DISK_PATH",
        None,
        folder,
        "absolute path of a folder, or None",
        "Folder of the disk tier when TIERS is None; None: the user's cache directory, or CACHES['default'] if shared.",
    ),
    Option(
        "DISK_BYTES",
        2**30,
        whole_number(0),
        "int, bytes",
        "Budget of the disk tier that is used when TIERS is None.",
    ),
    Option(
        "TTL",
        7 * 86_400.0,
        seconds(none=True),
        "seconds or timedelta, or None",
        "How old an answer may be; None means that answers do not expire.",
    ),
    Option(
        "STALE_TTL",
        0.0,
        seconds(none=False, zero=True),
        "seconds or timedelta",
        "How long after its TTL an answer may still be given, while it is asked for anew.",
    ),
    Option(
        "JITTER",
        0.1,
        share,
        "float, 0 to 1",
        "By how much of its TTL an entry may expire before it, so that those written together do not expire together.",
    ),
    Option(
        "REFRESH",
        "thread",
        one_of(*REFRESH),
        "'thread', 'call' or 'celery'",
        "Who asks anew for what is stale: a thread or a Celery task, while the old answer is given; or the call, which "
        "gives the old one when the provider fails.",
    ),
    Option(
        "KINDS",
        {},
        kinds,
        "dict of kind to dict with 'ttl', 'stale_ttl', 'refresh', 'cache', 'version', 'type'",
        "What holds for the answers of one kind in place of the settings above; and the kind's response type.",
    ),
    Option(
        "WARMING",
        {},
        sources,
        "dict of names to functions without arguments, or their dotted paths",
        "Where plans of warming get their texts from: each function returns an iterable of texts.",
    ),
    Option(
        "TIMEOUT",
        60.0,
        seconds(none=False, most=1e6),
        "seconds or timedelta",
        "The deadline of a whole call, retries included.",
    ),
    Option(
        "MAX_RETRIES",
        2,
        whole_number(0, 100),
        "int",
        "How often an attempt that failed on the way is made again: connection lost, 408, 409, 429 and 5xx.",
    ),
    Option(
        "MAX_REASKS",
        1,
        whole_number(0, 100),
        "int",
        "How often the model is asked again when its answer does not pass validation.",
    ),
    Option(
        "NAMESPACE",
        None,
        namespace,
        "str, or None",
        "What keeps two projects apart in one store; None is a hash of the settings package and the database.",
    ),
    Option("VERSION", "", short_text, "str", "Part of every key: another value makes every request a new one."),
    Option("DATABASE", "default", database_alias, "str, alias of DATABASES", "The database of the ledger's tables."),
    Option(
        "JOURNAL",
        None,
        folder,
        "absolute path of a folder, or None",
        "Folder of the journal of provider calls; None is the user's state directory.",
    ),
    Option(
        "JOURNAL_FSYNC",
        True,
        flag,
        "bool",
        "Whether a journal line is forced to the disk before the call goes on, so that it survives a loss of power.",
    ),
    Option(
        "JOURNAL_MAX_BYTES",
        64 * 2**20,
        whole_number(4_096),
        "int, bytes",
        "How much of one process's journal may wait for the database.",
    ),
    Option(
        "LEDGER_SYNC",
        False,
        flag,
        "bool",
        "Whether an attempt is in the database before it leaves, for machines that lose their disk; not on SQLite.",
    ),
    Option(
        "ON_LEDGER_FULL",
        "answer",
        one_of("answer", "refuse"),
        "'answer' or 'refuse'",
        "What becomes of a call that the journal cannot take: it is made, or it raises LedgerFull.",
    ),
    Option(
        "PRICES",
        {},
        prices,
        "dict of 'provider/model' to dict(s) with 'input', 'output', 'cache_read', 'cache_write', 'since'",
        "Prices that come before those of genai-prices: US dollars for a million tokens, from a date on.",
    ),
    Option(
        "TIME_ZONE",
        None,
        time_zone,
        "str, name of a time zone, or None",
        "The time zone whose days and months the dashboard counts; None is Django's TIME_ZONE.",
    ),
    Option(
        "RECHECK",
        1.0,
        seconds(none=False, zero=True, most=3_600.0),
        "seconds or timedelta",
        "How often a process asks whether entries were invalidated; 0 asks the database at every call.",
    ),
    Option(
        "RECHECK_GRACE",
        60.0,
        seconds(none=False, zero=True, most=1e6),
        "seconds or timedelta",
        "How long entries are served while nobody can tell whether they were invalidated.",
    ),
    Option(
        "LEASE",
        10.0,
        seconds(none=False, most=3_600.0),
        "seconds or timedelta",
        "How long processes wait for one that has died while it asked the provider for them.",
    ),
    Option(
        "RETENTION",
        RETENTION,
        retention,
        "dict with 'invalidations', 'calls', 'entries', 'hours', 'runs': seconds or timedelta, or None for ever",
        "How long rows are kept; an entry that is older than invalidations are kept is a miss.",
    ),
    Option(
        "KEEP_REQUESTS",
        "tier",
        one_of("tier", "no"),
        "'tier' or 'no'",
        "Whether a request, and so its text, is kept in the tiers beside its answer: for refreshes and the admin.",
    ),
    Option(
        "KEY_SECRETS",
        (),
        key_secrets,
        "list of pairs of an id (a-z and 0-9) and a secret (32 to 64 bytes in base64), the one that writes first",
        "Secrets that key the hashes of requests and sign entries; further ones only read, during a rotation.",
    ),
    Option(
        "TENANT",
        None,
        tenant_source,
        "function without arguments that returns str or None, or its dotted path, or None",
        "Who tells a call's tenant when the call does not; asked at the call, in its thread and context.",
    ),
    Option(
        "TENANT_REQUIRED",
        False,
        flag,
        "bool",
        "Whether a call without a tenant raises TenantMissing.",
    ),
    Option(
        "MAX_TEXT_BYTES",
        2**20,
        whole_number(1),
        "int, bytes of UTF-8",
        "The most bytes of text that are sent, of all parts of a content together.",
    ),
    Option(
        "MAX_FILE_BYTES",
        20 * 2**20,
        whole_number(1),
        "int, bytes",
        "The most bytes that the images and files of one call have together.",
    ),
    Option(
        "MAX_VALUE_BYTES", 16 * 2**20, whole_number(1), "int, bytes", "The longest reply that is read from a provider."
    ),
    Option(
        "ALLOW_PROVIDER_CALLS",
        None,
        allowance,
        "True, False, 'loopback', or None",
        "Which providers may be called; 'loopback': those on this machine. None is True, and 'loopback' in tests.",
    ),
)

_BY_NAME = {option.name: option for option in OPTIONS}


def problems(raw: Any) -> list[Problem]:
    """Return what is wrong in a value of ``LLMCACHE``; an empty list when it can be used."""
    return _read(raw)[1]


def read(raw: Any) -> Settings:
    """Return the settings that a value of ``LLMCACHE`` means.

    Raises ``ConfigurationError`` that names the first key that is unknown or cannot be used.
    """
    values, wrong = _read(raw)
    if wrong:
        # A page of Django's errors shows the variables of each frame: no secret may be among them.
        del raw, values
        first = wrong[0]
        raise ConfigurationError(f"{first.message} {first.hint}".strip())
    return Settings(**values)


def current() -> Settings:
    """Return the settings in force; ``ConfigurationError`` when they cannot be used."""
    return read(getattr(django_settings, "LLMCACHE", {}))


def default_disk() -> Path:
    """Return the folder of the disk tier when no setting names one."""
    return _of_user("user_cache_dir", "DISK_PATH")


def default_journal() -> Path:
    """Return the folder of the journal when no setting names one."""
    return _of_user("user_state_dir", "JOURNAL") / "journal"


def _of_user(kind: str, setting: str) -> Path:
    import platformdirs

    try:
        return Path(getattr(platformdirs, kind)("llmcache", appauthor=False))
    except RuntimeError:
        raise ConfigurationError(
            f"This user has no home folder to keep files in. Set LLMCACHE[{setting!r}] to an absolute path."
        ) from None


def _read(raw: Any) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(raw, Mapping):
        return {}, [Problem("LLMCACHE", "LLMCACHE must be a dict.", "Write LLMCACHE = {} for the defaults.")]
    given = cast("Mapping[Any, Any]", raw)
    wrong = [
        Problem(
            str(name),
            f"LLMCACHE has the unknown key {name!r}{nearest(str(name), list(_BY_NAME)) or '.'}",
            "The settings reference lists every key.",
            unknown=True,
        )
        for name in given
        if name not in _BY_NAME
    ]
    values: dict[str, Any] = {}
    for option in OPTIONS:
        try:
            values[option.name.lower()] = option.read(given.get(option.name, option.default))
        except UnusableError as error:
            joint = "" if str(error).startswith("[") else " "
            wrong.append(Problem(option.name, f"LLMCACHE[{option.name!r}]{joint}{error}.", f"It takes: {option.type}."))
    return values, wrong
