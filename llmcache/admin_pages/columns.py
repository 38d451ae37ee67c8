"""Cells of lists and facts of pages: what a row says, as people read it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from llmcache.dashboard import figures
from llmcache.models import CacheEntry, ProviderCall

UNKNOWN: Final = figures.UNKNOWN
_KEY: Final = 12
"""Characters of a key or fingerprint that tell it from others."""
NARROW_KEY: Final = 8
_BYTES: Final = 1_024
_TONES: Final = {
    CacheEntry.State.FRESH: "good",
    CacheEntry.State.STALE: "warning",
    CacheEntry.State.EXPIRED: "quiet",
    ProviderCall.Outcome.ANSWERED: "good",
    ProviderCall.Outcome.UNDER_WAY: "quiet",
    ProviderCall.Outcome.IN_DOUBT: "warning",
    ProviderCall.Outcome.REJECTED: "warning",
    ProviderCall.Outcome.FAILED: "bad",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a page tells of a row."""

    name: str
    value: str | SafeString
    note: str | SafeString = ""
    """Beside the value, in small."""


@dataclass(frozen=True, slots=True)
class Group:
    """Facts that are read together."""

    title: str
    facts: list[Fact]


def badge(text: str, tone: str) -> SafeString:
    """Return a word that stands out: ``good``, ``quiet``, ``warning`` or ``bad``."""
    return format_html('<span class="llmcache-badge llmcache-{}">{}</span>', tone, text)


def state_badge(entry: CacheEntry, *, void: bool = False) -> SafeString:
    """Return what an entry is good for; ``void``: it was invalidated."""
    state = entry.state
    if void and state != CacheEntry.State.EXPIRED:
        return badge(_("invalidated"), "warning")
    return badge(str(state.label), _TONES[state])


def outcome_badge(call: ProviderCall) -> SafeString:
    """Return what became of a call, in few words."""
    return badge(str(outcome_label(call.outcome)), _TONES.get(call.outcome, "quiet"))  # pyright: ignore[reportArgumentType]


def outcome_label(outcome: str) -> str:
    """Return an outcome in few words; a value that nobody knows as it is."""
    short = {
        ProviderCall.Outcome.REJECTED.value: _("rejected"),
        ProviderCall.Outcome.IN_DOUBT.value: _("in doubt"),
    }
    if outcome in short:
        return short[outcome]
    return str(ProviderCall.Outcome(outcome).label) if outcome in ProviderCall.Outcome.values else outcome


def two_lines(first: str | SafeString, second: str | SafeString) -> SafeString:
    """Return two things in one cell, the second in small."""
    return format_html('{}<div class="llmcache-note">{}</div>', first, second)


def whole(text: str) -> SafeString:
    """Return text that stays on one line, where a minus sign could be left alone at a line's end."""
    return format_html('<span class="llmcache-whole">{}</span>', text)


def code(text: str) -> SafeString:
    """Return text in letters of one width."""
    return format_html('<code class="llmcache-code">{}</code>', text)


def short(key: str, length: int = _KEY) -> SafeString:
    """Return the beginning of a key or fingerprint."""
    return format_html('<code class="llmcache-code" title="{}">{}</code>', key, key[:length])


def path(text: str) -> SafeString:
    """Return a dotted path that is broken at its dots."""
    return format_html_join(mark_safe("<wbr>"), "{}", ((part,) for part in re.split(r"(?<=\.)", text)))


def link(address: str | None, text: str | SafeString) -> str | SafeString:
    """Return a link, or the text alone where there is no address."""
    return text if address is None else format_html('<a href="{}">{}</a>', address, text)


def chips(words: Iterable[tuple[str | None, str | SafeString]]) -> str | SafeString:
    """Return words with where they lead to, each in a box of its own."""
    made = format_html_join(" ", '<span class="llmcache-chip">{}</span>', ((link(to, word),) for to, word in words))
    return made or UNKNOWN


def known(text: Any) -> str:
    """Return a value as text, a dash for an empty one."""
    return UNKNOWN if text is None or text == "" else str(text)


def number(value: int | None) -> str:
    """Return a number of things, a dash for an unknown one."""
    return UNKNOWN if value is None else figures.count(value)


def exact_money(dollars: Decimal | None) -> str:
    """Return US dollars to the last digit that is not zero, at least to the cent."""
    if dollars is None:
        return UNKNOWN
    places = max(2, -int(dollars.normalize().as_tuple().exponent)) if dollars else 2
    return f"{figures.MINUS if dollars < 0 else ''}${abs(dollars):,.{places}f}"


def token_facts(row: CacheEntry | ProviderCall) -> list[Fact]:
    """Return what was consumed, by class."""
    return [
        Fact(_("input tokens"), number(row.input_tokens)),
        Fact(_("cache read tokens"), number(row.cache_read_tokens), _("the provider's own prompt cache")),
        Fact(_("cache write tokens"), number(row.cache_write_tokens)),
        Fact(_("output tokens"), number(row.output_tokens)),
    ]


def milliseconds(value: int | None) -> str:
    """Return a span of time, a dash for an unknown one."""
    if value is None:
        return UNKNOWN
    return _("%(number)s ms") % {"number": figures.count(value)} if value < 1_000 else figures.duration(value / 1_000)


def size(length: int) -> str:
    """Return a size in bytes as ``1.4 KB``."""
    if length < _BYTES:
        return _("%(number)s B") % {"number": length}
    if length < _BYTES**2:
        return _("%(number)s KB") % {"number": f"{length / _BYTES:,.1f}"}
    return _("%(number)s MB") % {"number": f"{length / _BYTES**2:,.1f}"}


def moment(at: datetime | None) -> str:
    """Return a time to the second, in the zone of the page."""
    if at is None:
        return UNKNOWN
    local = timezone.localtime(at) if timezone.is_aware(at) else at
    return date_format(local, "j M Y, H:i:s")


def narrow_moment(at: datetime) -> str:
    """Return a time to the second, without its year where that is this one."""
    local, today = (timezone.localtime(at), timezone.localdate()) if timezone.is_aware(at) else (at, timezone.now())
    return date_format(local, "j M, H:i:s" if local.year == today.year else "j M Y, H:i:s")


def span(length: timedelta) -> str:
    """Return a span of time in its two largest units."""
    return figures.duration(length.total_seconds())


def ago(at: datetime | None) -> str:
    """Return how long ago something was, ``never`` for None."""
    if at is None:
        return _("never")
    return _("%(span)s ago") % {"span": span(max(timezone.now() - at, timedelta(0)))}


def ttl_left(entry: CacheEntry) -> str:
    """Return how long an entry can still be served: ``6 d 4 h``, ``never`` ends, or since when it cannot."""
    if entry.expires_at is None:
        return _("never expires")
    left = entry.expires_at - timezone.now()
    if left > timedelta(0):
        return span(left)
    return _("expired %(span)s ago") % {"span": span(-left)}


def saved_usd(entry: CacheEntry) -> Decimal | None:
    """Return what an entry's hits have avoided; None where they avoided only what is not known."""
    if entry.hits and not entry.saved_pico_usd and entry.cost_pico_usd is None:
        return None
    return entry.saved_usd
