"""What each kind of setting takes: a reader returns the value in its own type or says why it cannot be used."""

from __future__ import annotations

import base64
import binascii
import contextlib
import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from llmcache.money.pricing import DatedPrice

Allowance = Literal[True, False, "loopback"]
"""Which providers may be called: all, none, those on loopback."""
Api = Literal["chat", "responses"]
"""``POST /chat/completions``, which nearly every server speaks, or OpenAI's ``POST /responses``."""
Output = Literal["json_schema", "tools", "json_object"]
"""What makes an answer JSON, in the API's own words: a schema that binds the text, a function that has to be called
with the answer as its arguments, or JSON of any shape, with the schema told to the model."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Where one provider alias is and how to enter; what is None is read from the environment at use."""

    api_key: str | None = None
    base_url: str | None = None
    identity: str | None = None
    """Name that stands in keys for the host and path of ``base_url``, so that a gateway can move."""
    api: Api = "chat"
    output: Output = "json_schema"
    call: Callable[..., Any] | str | None = None
    """A function of the project's that answers in the place of a server, or its dotted path."""
    acall: Callable[..., Any] | str | None = None
    """The same, awaited."""

    def __repr__(self) -> str:
        return f"ProviderSettings(api_key={'***' if self.api_key else None}, base_url={self.base_url!r})"


@dataclass(frozen=True, slots=True)
class KeySecret:
    """A secret of ``KEY_SECRETS`` with the id that stands in the names of entries."""

    id: str
    secret: bytes = field(repr=False)


_DAY = 86_400.0

RETENTION: Mapping[str, float] = {
    "invalidations": 400 * _DAY,
    "calls": math.inf,
    "entries": math.inf,
    "hours": math.inf,
    "runs": math.inf,
}
"""How long rows are kept, in seconds: for ever where nobody says otherwise, but for invalidations."""


class UnusableError(ValueError):
    """What a reader says of a value that cannot be used; becomes a Problem."""


def whole_number(low: int, high: int = 2**63 - 1) -> Callable[[Any], int]:
    """Return a reader of whole numbers within bounds, both included."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise UnusableError(f"must be a whole number of at least {low}")
        return value

    return read


def seconds(*, none: bool, zero: bool = False, most: float = 1e11) -> Callable[[Any], Any]:
    """Return a reader of seconds or timedeltas below ``most``; with ``none``, None and zero are taken too."""

    def read(value: Any) -> float | None:
        if value is None and none:
            return None
        number: Any = value.total_seconds() if isinstance(value, timedelta) else value
        if type(number) not in (int, float) or not 0 <= number < most or (number == 0 and not (none or zero)):
            bound = "" if most > 1e10 else f" and below {most:g}"
            raise UnusableError(
                "must be a number of seconds or a timedelta"
                + (
                    ", zero or more, or None for no expiry"
                    if none
                    else f", zero or more{bound}"
                    if zero
                    else " above zero"
                )
            )
        return float(number)

    return read


def share(value: Any) -> float:
    """Read a number from 0 to 1, both included."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise UnusableError("must be a number from 0 to 1")
    return float(value)


def retention(value: Any) -> Mapping[str, float]:
    """Read how long rows are kept, in seconds, by what they are; what is not named is kept as long as by default.

    None is for ever, of all but invalidations.
    """
    if not isinstance(value, Mapping):
        raise UnusableError("must be a dict, e.g. {'invalidations': timedelta(days=400)}")
    kept = dict(RETENTION)
    for name, time in cast("Mapping[Any, Any]", value).items():
        if name not in RETENTION:
            raise UnusableError(f"has the unknown key {name!r}{nearest(str(name), list(RETENTION))}")
        try:
            kept[name] = math.inf if time in (None, math.inf) and name != "invalidations" else seconds(none=False)(time)
        except UnusableError as error:
            raise UnusableError(f"[{name!r}] {error}") from None
        if kept[name] < _DAY:
            raise UnusableError(f"[{name!r}] must be a day at least")
    return kept


def flag(value: Any) -> bool:
    """Read True or False, and nothing that is merely true."""
    if type(value) is not bool:
        raise UnusableError("must be True or False")
    return value


def allowance(value: Any) -> Allowance | None:
    """Read which providers may be called: all, none, or those on loopback; None when the project does not say."""
    if value is not None and type(value) is not bool and value != "loopback":
        raise UnusableError("must be True, False or 'loopback', or None")
    return value


def one_of(*words: str) -> Callable[[Any], str]:
    """Return a reader of one of these words."""

    def read(value: Any) -> str:
        if value not in words:
            raise UnusableError(f"must be {' or '.join(map(repr, words))}")
        return value

    return read


def database_alias(value: Any) -> str:
    """Read an alias; whether ``DATABASES`` has it is not looked at."""
    if type(value) is not str or not value:
        raise UnusableError("must be an alias of DATABASES")
    return value


def time_zone(value: Any) -> str | None:
    """Read the name of a time zone that this machine knows, or None."""
    if value is None:
        return None
    # A folder of zones, a path out of it and a name of nothing each fail in a way of their own.
    with contextlib.suppress(KeyError, ValueError, OSError):
        if type(value) is str:
            return ZoneInfo(value).key
    raise UnusableError("must be the name of a time zone, such as 'Europe/Berlin'")


def short_text(value: Any) -> str:
    """Read a str of at most 200 printable characters."""
    if type(value) is not str or len(value) > 200 or not value.isprintable():
        raise UnusableError("must be a string of at most 200 printable characters")
    return value


def namespace(value: Any) -> str | None:
    """Read what may stand in the names of files and keys, or None."""
    if value is not None and (type(value) is not str or not re.fullmatch(r"[0-9a-z]{1,64}", value)):
        raise UnusableError("must be 1 to 64 letters a-z and digits")
    return value


def folder(value: Any) -> Path | None:
    """Read the absolute path of a folder, or None; it need not exist."""
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise UnusableError("must be the path of a folder, as a string or a Path, or None")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise UnusableError("begins with '~', and this user has no home folder") from None
    if "\0" in str(path):
        raise UnusableError("has a NUL character")
    if not path.is_absolute():
        raise UnusableError(
            "must be an absolute path: a relative one would mean another folder for each working directory"
        )
    return path


def tenant_source(value: Any) -> Callable[[], object] | str | None:
    """Read a function, or the dotted path of one, that tells the tenant; whether the path leads there is not looked at.

    A function is taken as it is: it takes no arguments.
    """
    if value is None:
        return None
    if type(value) is str and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value):
        return value
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise UnusableError("must be a function without arguments that is not async, or its dotted path, or None")
    return value


def key_secrets(value: Any) -> tuple[KeySecret, ...]:
    """Read secrets with their ids, in their order; what is wrong with one is said without showing it."""
    pairs = cast("list[Any]", value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(pair, (list, tuple)) for pair in pairs):
        raise UnusableError("must be a list of pairs of an id and a secret, the one that writes first")
    found: list[KeySecret] = []
    for place, pair in enumerate(pairs):
        if len(pair) != 2 or type(pair[0]) is not str or not re.fullmatch(r"[0-9a-z]{1,16}", pair[0]):
            raise UnusableError(f"[{place}] must be a pair of an id (1 to 16 letters a-z and digits) and a secret")
        secret = secret_bytes(pair[1])
        if secret is None or not 32 <= len(secret) <= 64:
            raise UnusableError(f"[{place}] must have 32 to 64 bytes as its secret, written in base64")
        if len(set(secret)) < 16:
            raise UnusableError(f"[{place}] has a secret that is not random: make one with secrets.token_urlsafe(32)")
        found.append(KeySecret(pair[0], secret))
    if len({each.id for each in found}) < len(found) or len({each.secret for each in found}) < len(found):
        raise UnusableError("has the same id or the same secret twice")
    return tuple(found)


def secret_bytes(value: Any) -> bytes | None:
    """Return what a str says in base64, of either alphabet, padded or not; None when it is none."""
    if type(value) is not str:
        return None
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def model_name(value: Any) -> str:
    """Read ``provider/model``."""
    if type(value) is not str or not re.fullmatch(r"[^/\s]+/\S+", value):
        raise UnusableError("must be a string 'provider/model', e.g. 'openai/gpt-5-mini'")
    return value


def tiers(value: Any) -> tuple[str, ...] | None:
    """Read aliases of ``CACHES``, each once, or None; whether they are there is not looked at."""
    if value is None:
        return None
    names = cast("list[Any]", value)
    if not isinstance(value, (list, tuple)) or not names or not all(type(name) is str for name in names):
        raise UnusableError("must be a list of at least one alias of CACHES, fastest first, or None")
    if len(set(names)) != len(names):
        raise UnusableError("names the same alias twice")
    return tuple(names)


def providers(value: Any) -> Mapping[str, ProviderSettings]:
    """Read the providers by alias; ``openai`` is always among them."""
    if not isinstance(value, Mapping):
        raise UnusableError("must be a dict of provider aliases, e.g. {'openai': {'api_key': '…'}}")
    known = [field.name for field in fields(ProviderSettings)]
    providers = {"openai": ProviderSettings()}
    for alias, options in cast("Mapping[Any, Any]", value).items():
        if type(alias) is not str or not re.fullmatch(r"[A-Za-z0-9_.-]{1,50}", alias):
            raise UnusableError("has an alias that is not 1 to 50 letters, digits, '_', '.' and '-'")
        if not isinstance(options, Mapping):
            raise UnusableError(f"[{alias!r}] must be a dict with any of {', '.join(known)}")
        given = cast("Mapping[Any, Any]", options)
        for name, item in given.items():
            if name not in known:
                raise UnusableError(f"[{alias!r}] has the unknown key {name!r}{nearest(str(name), known)}")
            _require_option(f"[{alias!r}][{name!r}]", name, item)
        _require_one_kind(f"[{alias!r}]", given)
        base_url: str | None = given.get("base_url")
        wrong = None if base_url is None else address_problem(base_url)
        if wrong is not None:
            raise UnusableError(f"[{alias!r}]['base_url'] {wrong}")
        providers[alias] = ProviderSettings(**given)
    return providers


_OPTION_WORDS: Mapping[str, tuple[str, ...]] = {"api": get_args(Api), "output": get_args(Output)}
_FUNCTIONS = ("call", "acall")


def _require_option(place: str, name: str, item: Any) -> None:
    if name in _OPTION_WORDS:
        words = _OPTION_WORDS[name]
        if item not in words:
            guess = nearest(item, list(words)) if type(item) is str else ""
            raise UnusableError(f"{place} must be {' or '.join(map(repr, words))}{guess}".removesuffix("."))
    elif name in _FUNCTIONS:
        is_path = type(item) is str and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", item)
        if item is not None and not is_path and (isinstance(item, str) or not callable(item)):
            raise UnusableError(f"{place} must be a function, or the dotted path of one")
    elif item is not None and (type(item) is not str or not item):
        raise UnusableError(f"{place} must be a string that is not empty, or None")


def _require_one_kind(place: str, given: Mapping[Any, Any]) -> None:
    """Raise for options of a server beside a function, which would do nothing."""
    if all(given.get(name) is None for name in _FUNCTIONS):
        return
    for name in ("api_key", *_OPTION_WORDS):
        if given.get(name) is not None:
            raise UnusableError(f"{place} has {name!r} beside a function, which is asked in its own way; remove one")


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


def prices(value: Any) -> Mapping[str, tuple[DatedPrice, ...]]:
    """Read prices by ``provider/model``, each from a moment on."""
    if not isinstance(value, Mapping):
        raise UnusableError("must be a dict of 'provider/model' to prices, e.g. {'openai/gpt-5': {'input': '1.25', …}}")
    prices: dict[str, tuple[DatedPrice, ...]] = {}
    for name, told in cast("Mapping[Any, Any]", value).items():
        if type(name) is not str or not re.fullmatch(r"[^/\s]+/\S+", name):
            raise UnusableError(f"has the key {name!r}, which is not 'provider/model'")
        several = cast("list[Any]", told if isinstance(told, (list, tuple)) else [told])
        prices[name] = tuple(_price(name, each) for each in several)
    return prices


def _price(name: str, told: Any) -> DatedPrice:
    if not isinstance(told, Mapping):
        raise UnusableError(f"[{name!r}] must be a dict, or a list of dicts, with 'input' and 'output'")
    given = dict(cast("Mapping[Any, Any]", told))
    since: Any = given.pop("since", date.min)
    if not isinstance(since, date):
        raise UnusableError(f"[{name!r}]['since'] must be a date or an aware datetime")
    moment = since if isinstance(since, datetime) else datetime(since.year, since.month, since.day, tzinfo=UTC)
    if moment.tzinfo is None:
        raise UnusableError(
            f"[{name!r}]['since'] must be an aware datetime: a naive one means another moment elsewhere"
        )
    known = ["input", "cache_read", "cache_write", "output"]
    for key in given:
        if key not in known:
            raise UnusableError(f"[{name!r}] has the unknown key {key!r}{nearest(str(key), [*known, 'since'])}")
    amounts = {key: _dollars(name, key, amount) for key, amount in given.items()}
    if "input" not in amounts or "output" not in amounts:
        raise UnusableError(f"[{name!r}] needs 'input' and 'output'; the others cost what input does when left out")
    read, written = (amounts.get(key, amounts["input"]) for key in ("cache_read", "cache_write"))
    return DatedPrice(moment, amounts["input"], read, amounts["output"], written)


def _dollars(name: str, key: str, amount: Any) -> Decimal:
    # A float is not what was written: 0.1 has 55 digits.
    number = Decimal("nan")
    if type(amount) in (str, int, Decimal):
        with contextlib.suppress(InvalidOperation):
            number = Decimal(amount)
    if not number.is_finite() or number < 0:
        raise UnusableError(f"[{name!r}][{key!r}] must be dollars for a million tokens, as a str, an int or a Decimal")
    return number


def nearest(name: str, known: list[str]) -> str:
    """Return a question that names the known name nearest to one, or nothing when none is near."""
    near = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1, cutoff=0.6)
    return f"; did you mean {next(item for item in known if item.lower() == near[0])!r}?" if near else ""
