"""The settings of llmcache: one frozen, typed object read from ``LLMCACHE``.

Nothing else in the package reads ``django.conf.settings["LLMCACHE"]``. A key that is not known or a value that cannot
be used is reported by ``problems`` (which the system checks show) and never replaced by a default.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from django.conf import settings as django_settings

from llmcache.exceptions import ConfigurationError
from llmcache.money.pricing import DatedPrice


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Where one provider alias is and how to enter; what is None is read from the environment at use."""

    api_key: str | None = None
    base_url: str | None = None
    identity: str | None = None
    """Name that stands in keys for the host and path of ``base_url``, so that a gateway can move."""

    def __repr__(self) -> str:
        return f"ProviderSettings(api_key={'***' if self.api_key else None}, base_url={self.base_url!r})"


@dataclass(frozen=True, slots=True)
class Settings:
    """``LLMCACHE`` with every value checked and every default filled in."""

    providers: Mapping[str, ProviderSettings]
    model: str
    tiers: tuple[str, ...] | None
    memory_bytes: int
    disk_path: Path | None
    ttl: float | None
    timeout: float
    max_retries: int
    max_reasks: int
    namespace: str | None
    version: str
    journal: Path | None
    journal_fsync: bool
    max_text_bytes: int
    max_value_bytes: int
    prices: Mapping[str, tuple[DatedPrice, ...]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in ``LLMCACHE``."""

    setting: str
    message: str
    hint: str
    unknown: bool = False


class _Unusable(ValueError):
    """What a reader below says of a value; becomes a Problem."""


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


def _whole(low: int, high: int = 2**63 - 1) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _Unusable(f"must be a whole number of at least {low}")
        return value

    return read


def _seconds(*, none: bool, most: float = 1e11) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if value is None and none:
            return None
        seconds: Any = value.total_seconds() if isinstance(value, timedelta) else value
        if type(seconds) not in (int, float) or not 0 <= seconds < most or (seconds == 0 and not none):
            raise _Unusable(
                "must be a number of seconds or a timedelta"
                + (", zero or more, or None for no expiry" if none else " above zero")
            )
        return float(seconds)

    return read


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _Unusable("must be True or False")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > 200 or not value.isprintable():
        raise _Unusable("must be a string of at most 200 printable characters")
    return value


def _namespace(value: Any) -> str | None:
    if value is not None and (type(value) is not str or not re.fullmatch(r"[0-9a-z]{1,64}", value)):
        raise _Unusable("must be 1 to 64 letters a-z and digits")
    return value


def _folder(value: Any) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise _Unusable("must be the path of a folder, as a string or a Path, or None")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise _Unusable("begins with '~', and this user has no home folder") from None
    if "\0" in str(path):
        raise _Unusable("has a NUL character")
    if not path.is_absolute():
        raise _Unusable("must be an absolute path: a relative one would mean another folder for each working directory")
    return path


def _model(value: Any) -> str:
    if type(value) is not str or not re.fullmatch(r"[^/\s]+/\S+", value):
        raise _Unusable("must be a string 'provider/model', e.g. 'openai/gpt-5-mini'")
    return value


def _tiers(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = cast("list[Any]", value)
    if not isinstance(value, (list, tuple)) or not names or not all(type(name) is str for name in names):
        raise _Unusable("must be a list of at least one alias of CACHES, fastest first, or None")
    if len(set(names)) != len(names):
        raise _Unusable("names the same alias twice")
    return tuple(names)


def _providers(value: Any) -> Mapping[str, ProviderSettings]:
    if not isinstance(value, Mapping):
        raise _Unusable("must be a dict of provider aliases, e.g. {'openai': {'api_key': '…'}}")
    known = [field.name for field in fields(ProviderSettings)]
    providers = {"openai": ProviderSettings()}
    for alias, options in cast("Mapping[Any, Any]", value).items():
        if type(alias) is not str or not re.fullmatch(r"[A-Za-z0-9_.-]{1,50}", alias):
            raise _Unusable("has an alias that is not 1 to 50 letters, digits, '_', '.' and '-'")
        if not isinstance(options, Mapping):
            raise _Unusable(f"[{alias!r}] must be a dict with any of {', '.join(known)}")
        given = cast("Mapping[Any, Any]", options)
        for name, item in given.items():
            if name not in known:
                raise _Unusable(f"[{alias!r}] has the unknown key {name!r}{_nearest(str(name), known)}")
            if item is not None and (type(item) is not str or not item):
                raise _Unusable(f"[{alias!r}][{name!r}] must be a string that is not empty, or None")
        base_url: str | None = given.get("base_url")
        wrong = None if base_url is None else address_problem(base_url)
        if wrong is not None:
            raise _Unusable(f"[{alias!r}]['base_url'] {wrong}")
        providers[alias] = ProviderSettings(**given)
    return providers


def address_problem(base_url: str) -> str | None:
    """Return why a base URL cannot be used, in words that follow its name; None when it can."""
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname, url.port
    except ValueError:
        return "is no URL that can be read"
    if url.scheme not in ("http", "https") or not host:
        return "must begin with http:// or https:// and a host"
    if not base_url.isprintable() or " " in base_url or ".." in host or any(len(part) > 63 for part in host.split(".")):
        return "has characters or a host that cannot be in a URL"
    if "@" in url.netloc:
        return "must not hold a user name or password, for it stands in logs; use 'api_key'"
    return None


def _prices(value: Any) -> Mapping[str, tuple[DatedPrice, ...]]:
    if not isinstance(value, Mapping):
        raise _Unusable("must be a dict of 'provider/model' to prices, e.g. {'openai/gpt-5': {'input': '1.25', …}}")
    prices: dict[str, tuple[DatedPrice, ...]] = {}
    for name, told in cast("Mapping[Any, Any]", value).items():
        if type(name) is not str or not re.fullmatch(r"[^/\s]+/\S+", name):
            raise _Unusable(f"has the key {name!r}, which is not 'provider/model'")
        several = cast("list[Any]", told if isinstance(told, (list, tuple)) else [told])
        prices[name] = tuple(_price(name, each) for each in several)
    return prices


def _price(name: str, told: Any) -> DatedPrice:
    if not isinstance(told, Mapping):
        raise _Unusable(f"[{name!r}] must be a dict, or a list of dicts, with 'input' and 'output'")
    given = dict(cast("Mapping[Any, Any]", told))
    since: Any = given.pop("since", date.min)
    if not isinstance(since, date):
        raise _Unusable(f"[{name!r}]['since'] must be a date or an aware datetime")
    moment = since if isinstance(since, datetime) else datetime(since.year, since.month, since.day, tzinfo=UTC)
    if moment.tzinfo is None:
        raise _Unusable(f"[{name!r}]['since'] must be an aware datetime: a naive one means another moment elsewhere")
    known = ["input", "cache_read", "cache_write", "output"]
    for key in given:
        if key not in known:
            raise _Unusable(f"[{name!r}] has the unknown key {key!r}{_nearest(str(key), [*known, 'since'])}")
    amounts = {key: _dollars(name, key, amount) for key, amount in given.items()}
    if "input" not in amounts or "output" not in amounts:
        raise _Unusable(f"[{name!r}] needs 'input' and 'output'; the others cost what input does when left out")
    read, written = (amounts.get(key, amounts["input"]) for key in ("cache_read", "cache_write"))
    return DatedPrice(moment, amounts["input"], read, amounts["output"], written)


def _dollars(name: str, key: str, amount: Any) -> Decimal:
    # A float is not what was written: 0.1 has 55 digits.
    number = Decimal("nan")
    if type(amount) in (str, int, Decimal):
        with contextlib.suppress(InvalidOperation):
            number = Decimal(amount)
    if not number.is_finite() or number < 0:
        raise _Unusable(f"[{name!r}][{key!r}] must be dollars for a million tokens, as a str, an int or a Decimal")
    return number


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1, cutoff=0.6)
    return f"; did you mean {next(item for item in known if item.lower() == near[0])!r}?" if near else ""


OPTIONS: tuple[Option, ...] = (
    Option(
        "PROVIDERS",
        {},
        _providers,
        "dict of alias to dict with 'api_key', 'base_url', 'identity'",
        "The providers by alias; what 'openai' does not set is read from OPENAI_API_KEY and OPENAI_BASE_URL at use.",
    ),
    Option(
        "MODEL",
        "openai/gpt-5-mini",
        _model,
        "str, 'provider/model'",
        "The model that is asked unless a call names one.",
    ),
    Option(
        "TIERS",
        None,
        _tiers,
        "list of aliases of CACHES, fastest first, or None",
        "Where entries lie; None is memory over a folder on disk.",
    ),
    Option(
        "MEMORY_BYTES",
        64 * 2**20,
        _whole(0),
        "int, bytes",
        "Budget of the memory tier that is used when TIERS is None.",
    ),
    Option(
        "DISK_PATH",
        None,
        _folder,
        "absolute path of a folder, or None",
        "Folder of the disk tier that is used when TIERS is None; None is the user's cache directory.",
    ),
    Option(
        "TTL",
        7 * 86_400.0,
        _seconds(none=True),
        "seconds or timedelta, or None",
        "How old an answer may be; None means that answers do not expire.",
    ),
    Option(
        "TIMEOUT",
        60.0,
        _seconds(none=False, most=1e6),
        "seconds or timedelta",
        "The deadline of a whole call, retries included.",
    ),
    Option(
        "MAX_RETRIES",
        2,
        _whole(0, 100),
        "int",
        "How often an attempt that failed on the way is made again: connection lost, 408, 409, 429 and 5xx.",
    ),
    Option(
        "MAX_REASKS",
        1,
        _whole(0, 100),
        "int",
        "How often the model is asked again when its answer does not pass validation.",
    ),
    Option(
        "NAMESPACE",
        None,
        _namespace,
        "str, or None",
        "What keeps two projects apart in one store; None is a hash of the settings package and the database.",
    ),
    Option("VERSION", "", _text, "str", "Part of every key: another value makes every request a new one."),
    Option(
        "JOURNAL",
        None,
        _folder,
        "absolute path of a folder, or None",
        "Folder of the journal of provider calls; None is the user's state directory.",
    ),
    Option(
        "JOURNAL_FSYNC",
        True,
        _flag,
        "bool",
        "Whether a journal line is forced to the disk before the call goes on, so that it survives a loss of power.",
    ),
    Option(
        "PRICES",
        {},
        _prices,
        "dict of 'provider/model' to dict(s) with 'input', 'output', 'cache_read', 'cache_write', 'since'",
        "Prices that come before those of genai-prices: US dollars for a million tokens, from a date on.",
    ),
    Option("MAX_TEXT_BYTES", 2**20, _whole(1), "int, bytes of UTF-8", "The longest content that is sent."),
    Option("MAX_VALUE_BYTES", 16 * 2**20, _whole(1), "int, bytes", "The longest reply that is read from a provider."),
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
            f"LLMCACHE has the unknown key {name!r}{_nearest(str(name), list(_BY_NAME)) or '.'}",
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
        except _Unusable as error:
            joint = "" if str(error).startswith("[") else " "
            wrong.append(Problem(option.name, f"LLMCACHE[{option.name!r}]{joint}{error}.", f"It takes: {option.type}."))
    return values, wrong
