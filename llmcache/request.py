"""The arguments of one call, checked before anything is hashed or sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, Literal, cast, get_args

from django.utils.functional import Promise

from llmcache import keys
from llmcache.exceptions import InputTooLarge, InvalidRequest, InvalidText, UnsupportedType
from llmcache.providers.base import RESERVED_FIELDS, TRANSPORT_FIELDS

CacheUse = Literal["use", "refresh", "bypass", "only"]
"""``use``: answer from the cache, ask and store on a miss. ``refresh``: ask and store. ``bypass``: ask, touch no tier.
``only``: never ask."""

MAX_WORD: Final = 1_000
"""Characters of a tenant, subject, tag, version or variant."""
MAX_TAGS: Final = 1_000
MAX_TIMEOUT: Final = 1e6
"""Seconds: eleven days. What an operating system takes as a timeout ends not far above."""


class NotGiven:
    """Type of ``NOT_GIVEN``: what an argument is that was not passed, so that None can mean something."""

    def __reduce__(self) -> str:
        return "NOT_GIVEN"  # a copy would not be the one that is compared by identity

    def __repr__(self) -> str:
        return "NOT_GIVEN"

    def __bool__(self) -> Literal[False]:
        return False


NOT_GIVEN: Final = NotGiven()

OPTIONS: Final = (
    *("model", "system", "kind", "ttl", "stale_ttl", "tenant", "subject", "tags", "version", "variant", "cache"),
    *("timeout", "max_retries", "max_reasks", "unkeyed"),
)
"""The options of a call, in the order in which they travel."""

NONE_GIVEN: Final = (NOT_GIVEN,) * len(OPTIONS)


def encode_text(content: object, max_bytes: int) -> bytes:
    """Return a content's UTF-8 bytes.

    Raises ``UnsupportedType`` for what is no text, ``InvalidText`` for an empty one or one with a lone surrogate,
    ``InputTooLarge`` for one that is longer than ``max_bytes``.
    """
    text = plain_text(content)
    if not text:
        raise InvalidText("content= is empty: there is nothing to extract from.")
    try:
        # A text has at least as many bytes as characters: a huge one is refused before it is copied.
        data = text.encode() if len(text) <= max_bytes else b""
    except UnicodeEncodeError as error:
        where = error.start
        raise InvalidText(
            f"content= has a lone surrogate at character {where}, which UTF-8 cannot express. "
            "Decode the source with errors='replace', or mend it."
        ) from None
    if not data or len(data) > max_bytes:
        size = len(data) or f"more than {max_bytes}"
        raise InputTooLarge(
            f"content= has {size} bytes; LLMCACHE['MAX_TEXT_BYTES'] allows {max_bytes}. Split it or raise that."
        )
    return data


def plain_text(content: object) -> str:
    """Return exactly the text that a str, a str subclass or a lazy translation holds."""
    if isinstance(content, Promise):
        content = str(content)
    if isinstance(content, str):
        return str.__str__(content)
    hint = " Decode the bytes first: content.decode()." if isinstance(content, (bytes, bytearray)) else ""
    raise UnsupportedType(f"content= must be a str, not {type(content).__name__}.{hint}")


def lifetime(value: object) -> float | None:
    """Return ``ttl=`` in seconds, zero or more, or None for no expiry; ``InvalidRequest`` when it is none of these."""
    number = 1.0 if value is None else _seconds(value)
    if number is None:
        raise InvalidRequest(
            "ttl= must be a number of seconds or a timedelta, zero or more, or None for no expiry; "
            f"got {_shown(value)}."
        )
    return None if value is None else number


def stale_lifetime(value: object) -> float:
    """Return ``stale_ttl=`` in seconds, zero or more; ``InvalidRequest`` when it is no such thing."""
    number = _seconds(value)
    if number is None:
        raise InvalidRequest(
            f"stale_ttl= must be a number of seconds or a timedelta, zero or more; got {_shown(value)}."
        )
    return number


def duration(value: object) -> float:
    """Return ``timeout=`` in seconds, above zero; ``InvalidRequest`` when it is no such thing."""
    number = _seconds(value)
    if not number or number > MAX_TIMEOUT:
        raise InvalidRequest(
            f"timeout= must be a number of seconds or a timedelta, above zero and at most {MAX_TIMEOUT:g}; "
            f"got {_shown(value)}."
        )
    return number


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if type(value) not in (int, float):
        return None
    number = cast("float", value)
    # Far more than a life, far less than what overflows a date; not true of NaN and infinity either.
    return float(number) if 0 <= number < 1e11 else None


def _shown(value: object) -> str:
    if type(value) is int and abs(value) >= 2**63:
        return "an int of more than 63 bits"
    return repr(value) if type(value) in (int, float, bool, type(None)) else f"a {type(value).__name__}"


def count(name: str, value: object) -> int:
    """Return a whole number from 0 to 100; ``InvalidRequest`` naming the argument otherwise."""
    if type(value) is not int or not 0 <= value <= 100:
        raise InvalidRequest(f"{name}= must be a whole number from 0 to 100; got {_shown(value)}.")
    return value


def word(name: str, value: object, *, most: int = MAX_WORD) -> str:
    """Return a name as exactly a str; ``InvalidRequest`` when it is none, empty, too long or not UTF-8."""
    # Not isinstance: Django's lazy objects answer to it for what they stand for.
    if not issubclass(type(value), str):
        raise InvalidRequest(f"{name}= must be a str; got {_shown(value)}. Write str(value) where you mean its text.")
    value = str.__str__(cast("str", value))
    if not value or len(value) > most:
        raise InvalidRequest(f"{name}= must have 1 to {most} characters; it has {len(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name}= has a lone surrogate, which UTF-8 cannot express.") from None
    return value


def system_text(value: object) -> str:
    """Return a system prompt as exactly a str; ``InvalidRequest`` when it is none or cannot be encoded."""
    if isinstance(value, Promise):
        value = str(value)
    if not isinstance(value, str):
        raise InvalidRequest(f"system= must be a str or None; got {_shown(value)}.")
    value = str.__str__(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("system= has a lone surrogate, which UTF-8 cannot express.") from None
    return value


def tag_names(value: object) -> tuple[str, ...]:
    """Return tags as a sorted tuple without doubles; ``InvalidRequest`` when they are no collection of str."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidRequest("tags= must be a list, tuple or set of str.")
    items = cast("set[Any]", value)
    if len(items) > MAX_TAGS:
        raise InvalidRequest(f"tags= has {len(items)} tags; at most {MAX_TAGS} are allowed.")
    return tuple(sorted({word("tags", item) for item in items}))


def scope(tenant: object, subject: object, tags: tuple[str, ...], version: object, variant: object) -> bytes:
    """Return what of these goes into the key; None means that none was named."""
    return keys.scope(
        None if tenant is None else word("tenant", tenant),
        None if subject is None else word("subject", subject),
        tags,
        None if version is None else word("version", version),
        keys.Sample(_variant(variant.of), variant.number) if isinstance(variant, keys.Sample) else _variant(variant),
    )


def _variant(value: object) -> str | int | None:
    if isinstance(value, bool) or (value is not None and not isinstance(value, (str, int))):
        raise InvalidRequest(f"variant= must be a str, an int or None; got {_shown(value)}.")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InvalidRequest("variant= must be an int of at most 63 bits.")
    return word("variant", value) if isinstance(value, str) else value


def cache_use(value: object) -> CacheUse:
    """Return a word for ``cache=``; ``InvalidRequest`` that lists the words otherwise."""
    if value in get_args(CacheUse):
        return cast("CacheUse", value)
    raise InvalidRequest(f"cache= must be one of {', '.join(map(repr, get_args(CacheUse)))}; got {_shown(value)}.")


def split_params(params: Mapping[str, Any], unkeyed: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters that are in the key, and those that are only sent.

    Raises ``InvalidRequest`` for a name that llmcache sets itself or that is almost one of ours, and when ``unkeyed``
    names what was not passed.
    """
    names = frozenset[str]() if unkeyed is None else _unkeyed_names(unkeyed)
    for name in params:
        _refuse_name(name)
    missing = sorted(names - set(params))
    if missing:
        raise InvalidRequest(f"unkeyed= names {missing[0]!r}, which is not among the call's parameters.")
    for name, value in params.items():
        if not name.isascii() or not name.isprintable():
            raise InvalidRequest("The name of a parameter has characters that are not printable ASCII.")
        if isinstance(value, (dict, list, tuple)) and not _has_str_keys(value):
            raise InvalidRequest(f"The parameter {name}= is no JSON: the keys of its dicts must be str.")
    outside = TRANSPORT_FIELDS | names
    kept = {name: value for name, value in params.items() if name not in outside}
    sent = {name: value for name, value in params.items() if name in outside}
    for name, value in sent.items():
        try:
            keys.canonical_json(value)
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequest(f"The parameter {name}= is no JSON.") from None
    return kept, sent


def _has_str_keys(value: Any, depth: int = 0) -> bool:
    """Return whether all dicts in a value have keys of str: JSON would write others as if they were."""
    if depth > 100:
        return True  # too deep to be sent: the encoder says so
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)
        return all(isinstance(key, str) for key in items) and _has_str_keys(list(items.values()), depth + 1)
    if isinstance(value, (list, tuple)):
        return all(_has_str_keys(item, depth + 1) for item in cast("list[Any]", value))
    return True


def _unkeyed_names(value: object) -> frozenset[str]:
    if isinstance(value, (list, tuple, set, frozenset)):
        items = cast("set[Any]", value)
        if all(isinstance(item, str) for item in items):
            return frozenset(items)
    raise InvalidRequest("unkeyed= must be a list, tuple or set of parameter names.")


@lru_cache(maxsize=1_024)
def _refuse_name(name: str) -> None:
    if name in ("n", "samples"):
        raise InvalidRequest(
            f"{name}= cannot be passed: a call has one answer. llmcache.extract_samples(…, samples=5) asks for several."
        )
    if name in RESERVED_FIELDS:
        raise InvalidRequest(
            f"{name}= cannot be passed: llmcache sets it, or its answer could not be cached as one value."
        )
    refuse_almost(name, ("content", "response_model", *OPTIONS))


def refuse_almost(name: str, known: tuple[str, ...]) -> None:
    """Raise ``InvalidRequest`` for the name of a parameter that is almost one of ours."""
    for own in known:
        if _distance(name, own) <= (1 if len(own) <= 4 else 2):
            raise InvalidRequest(
                f"Unknown parameter {name}=; did you mean {own}=? What llmcache does not know goes to the provider."
            )


def _distance(left: str, right: str) -> int:
    """Count the letters to put in, take out, exchange, or swap with a neighbour, to make one name of the other."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
