"""Where texts to warm come from: lists, querysets, and what the ledger tells was dear, expires, or was left behind.

Each is an iterator, so that a million texts need not be in memory. Files have a module of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from django.db.models import Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from llmcache import request
from llmcache.components import form_of
from llmcache.engine import process
from llmcache.exceptions import InvalidRequest, NotRewritten
from llmcache.kept_calls import taken_apart
from llmcache.models import MAX_NAME, CacheEntry, ProviderCall
from llmcache.money.facts import unix_of
from llmcache.plans import MAX_KIND
from llmcache.request import NOT_GIVEN
from llmcache.rewriting import look
from llmcache.warming.estimates import is_live
from llmcache.warming.texts import WarmingText, text_of
from llmcache.warming.wanted import Wanted, wanted_of

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet

    from llmcache.engine.runtime import Runtime

M = TypeVar("M", bound="Model")

_CHUNK: Final = 500
_MOST_DAYS: Final = 3_650
_UNKEPT: Final = ("version", "variant")
"""What is in a key, and of which the ledger has no more than a hash."""


def from_list(items: Iterable[Any]) -> Iterator[WarmingText]:
    """Return texts of strs, dicts with the names of ``WarmingText``, or these."""
    return map(text_of, items)


def from_queryset(queryset: QuerySet[M], field: str | Callable[[M], Any]) -> Iterator[WarmingText]:
    """Return a text for each row: what is in a field of this name, or what a function makes of the row.

    Rows are read in chunks. Those whose text is empty or None are left out.
    """
    rows: Any = queryset
    if callable(field):
        found: Iterable[Any] = map(field, rows.iterator(chunk_size=_CHUNK))
    else:
        found = rows.values_list(field, flat=True).iterator(chunk_size=_CHUNK)
    return (text_of(each) for each in found if each is not None and each != "")


def from_misses(
    days: float = 7,
    kind: str | None = None,
    most: int | None = None,
    *,
    model: str | None = None,
    wanted: Wanted | None = None,
) -> Iterator[WarmingText]:
    """Return what the costliest misses of the last days had asked, of those whose request is still kept in the tiers.

    ``kind``: of this kind alone. ``most``: so many at most. ``model``: by which it was asked, ``MODEL`` by default.
    ``wanted``: how a run will ask; then what that finds answered is left out, and ``most`` counts what is to be asked.
    What was asked under a subject, a version or a variant is left out: these are known as hashes only. So is what was
    no single text.
    """
    now = process.current()
    since = timezone.now() - timedelta(days=_days("days", days))
    calls = ProviderCall.objects.using(now.settings.database).filter(
        started_at__gte=since, ahead="", to_store=True, cost_pico_usd__isnull=False, model=_model(now, model)
    )
    if kind is not None:
        calls = calls.filter(kind=request.word("kind", kind, most=MAX_KIND))
    dearest = calls.order_by("-cost_pico_usd", "pk").values_list("key", flat=True).iterator(chunk_size=_CHUNK)
    found = _kept(now, _once(dearest), anew=False)
    return islice(found if wanted is None else _unanswered(now, wanted, found), most)


def from_expiring(
    within: timedelta, kind: str | None = None, most: int | None = None, *, model: str | None = None
) -> Iterator[WarmingText]:
    """Return what entries answer that expire within a time, those first that have saved most; to be asked anew.

    ``kind``, ``most``, ``model``: as for ``from_misses``, and so is what is left out.
    """
    now = process.current()
    if not isinstance(within, timedelta) or within <= timedelta(0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest("within= must be a timedelta above zero.")
    moment = timezone.now()
    rows = CacheEntry.objects.using(now.settings.database).filter(
        namespace=now.namespace, model=_model(now, model), expires_at__gt=moment, expires_at__lte=moment + within
    )
    if kind is not None:
        rows = rows.filter(kind=request.word("kind", kind, most=MAX_KIND))
    dearest = rows.order_by("-saved_pico_usd", "pk").values_list("key", flat=True).iterator(chunk_size=_CHUNK)
    return islice(_kept(now, dearest, anew=True), most)


def from_changed(
    kind: str,
    most: int | None = None,
    *,
    model: str | None = None,
    system: str | None = None,
    wanted: Wanted | None = None,
) -> Iterator[WarmingText]:
    """Return what entries of a kind answer that a change has left behind, those first that have saved most.

    That is a change of the response type's schema, of ``VERSION`` or of the kind's. With ``system``, the prompt that
    they are asked with from now on, also of the prompt; without it each is asked with its own. What is answered already
    is left out, and what was invalidated: somebody has decided that. ``wanted``: how a run will ask, where it is with a
    tenant or tags. ``most``, ``model``: as for ``from_misses``, and so is what else is left out.

    Raises ``ConfigurationError`` where ``KINDS`` names no type for it.
    """
    now = process.current()
    if wanted is None:
        wanted = wanted_of(now, kind=kind, model=NOT_GIVEN if model is None else model, system=system)
    plan = now.plan(wanted.annotation, _model(now, model), system, kind, {})
    form = form_of(plan, plan.seal)
    moment = timezone.now()
    rows = CacheEntry.objects.using(now.settings.database).filter(
        Q(expires_at=None) | Q(expires_at__gt=moment), namespace=now.namespace, model=plan.model, kind=kind, void_by=""
    )
    dearest = rows.order_by("-saved_pico_usd", "pk").values_list("key", "schema", "components")
    keys = (
        key
        for key, schema, told in dearest.iterator(chunk_size=_CHUNK)
        if schema != plan.response.fingerprint or _is_of_another(told, form, with_system=system is not None)
    )
    found = _kept(now, keys, anew=False)
    if system is not None:
        found = (replace(text, system=system) for text in found)
    return islice(_unanswered(now, wanted, found), most)


def _is_of_another(told: Any, form: dict[str, str | None], *, with_system: bool) -> bool:
    # Hashes under two secrets cannot be compared, and who has changed the secret has changed nothing else by that.
    if not isinstance(told, dict) or told.get("by") != form["by"] or "project" not in told:
        return False
    return told["project"] != form["project"] or (with_system and told.get("system") != form["system"])


def _model(now: Runtime, model: str | None) -> str:
    return now.settings.model if model is None else request.word("model", model, most=MAX_NAME)


def _days(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MOST_DAYS:
        raise InvalidRequest(f"{name}= must be a number of days above zero, {_MOST_DAYS} at most.")
    return float(value)


def _once(keys: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for key in keys:
        if key not in seen:
            seen.add(key)
            yield key


def _unanswered(now: Runtime, wanted: Wanted, texts: Iterable[WarmingText]) -> Iterator[WarmingText]:
    """Return the texts that nothing answers by what a run wants, each once: what is there is not among the most."""
    seen: set[bytes] = set()
    for text in texts:
        try:
            call = wanted.call(now, wanted.named(now, text))
        except InvalidRequest:
            # Who asks for it says what is wrong, and with which.
            yield text
            continue
        now.log.confirm()
        if call.key not in seen and not is_live(now, call):
            yield text
        seen.add(call.key)


@sensitive_variables()
def _kept(now: Runtime, keys: Iterable[str], *, anew: bool) -> Iterator[WarmingText]:
    return (text for key in keys if (text := _kept_text(now, key, anew=anew)) is not None)


@sensitive_variables()
def _kept_text(now: Runtime, key: str, *, anew: bool) -> WarmingText | None:
    """Return the text of the request that is kept under a key; None where it is gone, or the key has more in it."""
    row = CacheEntry.objects.using(now.settings.database).filter(namespace=now.namespace, key=key).first()
    if row is None or row.subject_hash or len(row.tenant) >= MAX_NAME:
        return None
    told: Any = row.components
    if not isinstance(told, dict) or any(name in told for name in _UNKEPT):
        return None
    held = look(now, bytes.fromhex(key))
    if held is None or (anew and held.entry.written_at > unix_of(row.written_at) + 1):
        # Somebody has just asked anew.
        return None
    try:
        model = row.model.partition("/")[2]
        params, system, content = taken_apart(row, held.request, model, now.settings.max_text_bytes)
    except NotRewritten:
        return None
    if not isinstance(content, str):
        return None
    tags: Any = held.entry.facts().get("tags") or ()
    return WarmingText(content, system, row.tenant or None, tags=tuple(map(str, tags)), params=params, anew=anew)
