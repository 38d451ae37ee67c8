"""The form of exported entries: a line that tells whose they are, one for each, and one that says how many they were.

Each is an object in ASCII, so that no reader can take a character of it for the end of a line. What the ledger tells of
an entry stands beside what the tiers hold of it, which is under ``entry``. With ``KEY_SECRETS`` each line has a seal: a
MAC by the secret with which the keys are made, so that nobody else can make a line.
"""

from __future__ import annotations

import hmac
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from llmcache.components import checked_components, checked_hash
from llmcache.engine.corrected import HUMAN, PINNED
from llmcache.envelope import MOST_COST, UNKNOWN_COST, Entry
from llmcache.keys import KEY_FORMAT
from llmcache.models import MAX_KIND, MAX_NAME, CacheEntry
from llmcache.money.facts import TOKENS
from llmcache.request import MAX_WORD
from llmcache.sealing import Seal
from llmcache.sharing.fields import Fields, UnusableLineError

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

FORMAT: Final = 1
IMPORTED: Final = "import"
"""Where the ledger says that an entry comes from that was imported."""
LOG_UNREADABLE: Final = (
    "The invalidation log cannot be read, so that nobody can tell which entries are void. Look at the database of "
    "LLMCACHE['DATABASE'], and run this again."
)

_NAME: Final = "llmcache entries"
_LABEL: Final = b"llmcache line 1\n"
# What a call needs of an entry's facts, and the most characters of those that are texts.
_META: Final = {"model": MAX_NAME, "finish": MAX_NAME, "request_id": MAX_NAME}


def longest_line(now: Runtime) -> int:
    """Return the most bytes of a line: what JSON makes of the longest reply with its request, within reason."""
    return 4 * now.settings.max_value_bytes + 2**20


# -- written


def header_of(now: Runtime, *, answers: bool, requests: bool) -> dict[str, Any]:
    """Return the first line."""
    return {
        "what": _NAME,
        "format": FORMAT,
        "key_format": KEY_FORMAT,
        "secret": now.seals[0].id,
        "namespace": now.namespace,
        "answers": answers,
        "requests": requests,
        "written_at": timezone.now().isoformat(),
    }


def end_of(entries: int) -> dict[str, Any]:
    """Return the last line, by which a reader knows that none is missing."""
    return {"end": True, "entries": entries}


@sensitive_variables()
def line_of(row: CacheEntry, entry: Entry, rest: bytes, request: bytes | None, seal: Seal) -> dict[str, Any]:
    """Return the line of an entry with all that it holds."""
    held = {
        "answer": _text(entry.answer),
        "completion": _text(rest),
        "request": None if request is None else _text(request),
        "written": entry.written_at,
        "fresh_until": _until(entry.fresh_until),
        "stale_until": _until(entry.stale_until),
        "cost_pico_usd": None if entry.cost == UNKNOWN_COST else entry.cost,
        "latency_ms": entry.latency_ms,
        "facts": entry.facts(),
    }
    line = {**facts_of(row), "entry": held}
    return line if seal.id is None else {**line, "seal": _seal(line, seal)}


def encoded(line: Mapping[str, Any]) -> bytes:
    """Return a line's bytes, with its end."""
    return json.dumps(line).encode("ascii") + b"\n"


def facts_of(row: CacheEntry) -> dict[str, Any]:
    """Return what a line says of a row: money as text of US dollars, times as ISO 8601, null for what is not known."""
    return {
        "key": row.key,
        "namespace": row.namespace,
        "kind": row.kind,
        "response_type": row.response_type,
        "schema": row.schema,
        "model": row.model,
        "answered_model": row.answered_model,
        "tenant": row.tenant,
        "subject_hash": row.subject_hash,
        "tags": row.tags,
        "written_at": _time(row.written_at),
        "expires_at": _time(row.expires_at),
        "stale_until": _time(row.stale_until),
        "state": row.state.value,
        "size_bytes": row.size_bytes,
        "latency_ms": row.latency_ms,
        "attempts": row.attempts,
        "source": row.source,
        "call_id": None if row.call_id is None else str(row.call_id),
        "input_tokens": row.input_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "output_tokens": row.output_tokens,
        "cost_usd": _money(row.cost_usd),
        "hits": row.hits,
        "last_hit_at": _time(row.last_hit_at),
        "saved_usd": _money(row.saved_usd),
        "void_by": row.void_by,
        "simulated": row.simulated,
        "content_hash": row.content_hash,
        "components": row.components,
    }


def _time(at: datetime | None) -> str | None:
    if at is None:
        return None
    return (timezone.make_aware(at) if timezone.is_naive(at) else at).isoformat()


def _money(dollars: Decimal | None) -> str | None:
    return None if dollars is None else f"{dollars:f}"


def _text(data: bytes) -> str:
    # As entries are made: half of a pair of surrogates is kept as it came.
    return data.decode(errors="surrogatepass")


def _until(at: float) -> float | None:
    return None if math.isinf(at) else at


def _seal(line: Mapping[str, Any], seal: Seal) -> str:
    told = json.dumps(line, sort_keys=True, separators=(",", ":")).encode("ascii")
    return blake2b(_LABEL + told, key=seal.mac, digest_size=32).hexdigest()


# -- read


@dataclass(frozen=True, slots=True)
class Given:
    """What a line tells, each part of the type and size that it has to have; whether it is true is another matter."""

    row: CacheEntry
    """Not saved; its texts are whole, which those of a row in the database need not be."""
    entry: Entry
    """It has seen no row of the invalidation log: those of another project's are of no meaning here."""
    rest: bytes
    request: bytes | None
    sealed: bool
    """Whether it has the seal of this project's secret."""


def is_end(line: Mapping[str, Any]) -> bool:
    """Return whether a line is the last one."""
    return line.get("end") is True


def require_header(line: Mapping[str, Any], now: Runtime) -> None:
    """Raise ``UnusableLineError`` unless the first line is of a file whose keys this project would make too."""
    if line.get("what") != _NAME:
        raise UnusableLineError("does not begin a file that llmcache_export has written.")
    if line.get("format") != FORMAT or line.get("key_format") != KEY_FORMAT:
        raise UnusableLineError("is of another format than this version of llmcache reads. Export with this version.")
    if line.get("answers") is not True:
        raise UnusableLineError("begins a file without answers. Export with --answers.")
    secret, own = line.get("secret"), now.seals[0].id
    if secret != own:
        theirs = "without a secret" if secret is None else "with another secret"
        ours = "has none" if own is None else f"makes keys with {own!r}"
        raise UnusableLineError(
            f"begins a file whose keys are made {theirs}: this project ({ours} in KEY_SECRETS) never asks for them."
        )


@sensitive_variables()
def given_of(line: dict[str, Any], now: Runtime) -> Given:
    """Return what a line tells of an entry. Raises ``UnusableLineError`` for what no export has written."""
    try:
        sealed = _require_seal(line, now.seals[0])
        return _given(Fields(line), now.namespace, sealed)
    except RecursionError:
        raise UnusableLineError("is nested too deeply.") from None


def _require_seal(line: dict[str, Any], seal: Seal) -> bool:
    told = line.pop("seal", None)
    if seal.id is None:
        return False
    if type(told) is not str or not told.isascii() or not hmac.compare_digest(told, _seal(line, seal)):
        raise UnusableLineError("has no seal of this project's secret: it was changed, or made with another secret.")
    return True


@sensitive_variables()
def _given(line: Fields, namespace: str, sealed: bool) -> Given:
    held = line.fields("entry")
    entry = _entry(line, held)
    meta = entry.facts()
    row = CacheEntry(
        namespace=namespace,
        key=entry.key.hex(),
        kind=meta["kind"],
        response_type=meta["type"],
        schema=meta["schema"],
        model=meta["asked"],
        answered_model=meta.get("model", ""),
        # A longer one is cut in the ledger: whose entry it is cannot be told.
        tenant=line.text("tenant", MAX_NAME - 1, empty=True),
        subject_hash=line.hex("subject_hash", empty=True),
        tags=meta.get("tags", []),
        content_hash=checked_hash(line.told("content_hash")),
        components=checked_components(line.told("components")),
        source=IMPORTED,
        simulated=line.told("simulated") is True,
        **{name: line.number(name) for name in TOKENS},
    )
    request = None if held.told("request") is None else held.data("request")
    return Given(row, entry, held.data("completion"), request, sealed)


@sensitive_variables()
def _entry(line: Fields, held: Fields) -> Entry:
    written = held.time("written")
    fresh = math.inf if held.told("fresh_until") is None else held.time("fresh_until")
    stale = math.inf if held.told("stale_until") is None else held.time("stale_until")
    if not written <= fresh <= stale:
        raise UnusableLineError("has an entry that expires before it was written, or is stale before that.")
    cost = held.number("cost_pico_usd", MOST_COST)
    return Entry(
        key=bytes.fromhex(line.hex("key")),
        answer=held.data("answer"),
        written_at=written,
        fresh_until=fresh,
        stale_until=stale,
        cost=UNKNOWN_COST if cost is None else cost,
        latency_ms=held.number("latency_ms", 2**32 - 1) or 0,
        seen=b"",
        meta=json.dumps(_meta(held.fields("facts")), separators=(",", ":")).encode("ascii"),
    )


def _meta(facts: Fields) -> dict[str, Any]:
    """Return an entry's facts anew, of what a line says that they are."""
    if {facts.told("source"), facts.told("origin")} & {HUMAN, PINNED}:
        raise UnusableLineError("has a human's answer, which stands by a row of its own project's log.")
    meta: dict[str, Any] = {
        "asked": facts.text("asked", MAX_WORD),
        "kind": facts.text("kind", MAX_KIND),
        "type": facts.text("type", MAX_WORD),
        "schema": facts.hex("schema"),
        "attempts": facts.number("attempts", 1_000),
        "tags": facts.tags("tags"),
        "usage": facts.tokens("usage"),
        "source": IMPORTED,
    }
    meta |= {name: facts.text(name, most, empty=True) or None for name, most in _META.items()}
    return {name: fact for name, fact in meta.items() if fact is not None}
