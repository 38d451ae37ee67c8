"""Why a request was not answered from the cache, as a page tells it: in a sentence, and component by component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns, filters
from llmcache.admin_pages.columns import known
from llmcache.admin_pages.whereabouts import Whereabouts
from llmcache.engine.log_copy import View
from llmcache.explaining.explanations import COMPONENTS, Difference
from llmcache.explaining.nearest import Comparison, Side, side_of_row
from llmcache.models import CacheEntry, Invalidation, ProviderCall

_HASH: Final = 8
"""Hex digits of a hash that are shown."""
_NAMES: Final = {
    "content": gettext_lazy("text"),
    "response_type": gettext_lazy("response type"),
    "kind": gettext_lazy("kind"),
    "model": gettext_lazy("model"),
    "schema": gettext_lazy("schema"),
    "system": gettext_lazy("system prompt"),
    "provider": gettext_lazy("provider's address"),
    "tenant": gettext_lazy("tenant"),
    "subject": gettext_lazy("subject"),
    "tags": gettext_lazy("tags"),
    "version": gettext_lazy("version"),
    "variant": gettext_lazy("variant"),
    "project": gettext_lazy("VERSION in the settings"),
}
_OTHER, _UNKNOWN, _SAME = range(3)
_BADGES: Final[dict[int, Callable[[], SafeString]]] = {
    _OTHER: lambda: columns.badge(_("different"), "warning"),
    _UNKNOWN: lambda: columns.badge(_("not known"), "quiet"),
    _SAME: lambda: columns.badge(_("same"), "quiet"),
}
_ALWAYS: Final = ("content", "response_type", "kind", "model", "schema", "system", "tenant")
"""Told also where neither has one."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What came of it, and what to know beside that."""

    word: str
    tone: str
    text: str
    note: str | SafeString = ""


# Of an entry


def of_entry(entry: CacheEntry, places: list[Whereabouts], void: Invalidation | None, view: View) -> Sentence:
    """Return what a call for an entry's request comes to now."""
    usable = [place for place in places if place.entry is not None and view.admits(place.entry.seen)]
    if view.correction is not None:
        return Sentence(_("corrected"), "good", _("A human's answer stands in place of the provider's, and is given."))
    for state in ("fresh", "stale"):
        found = next((place.state.name for place in usable if place.found == state), None)
        if found is not None:
            return _served(state, found)
    if void is not None and not _is_over(entry):
        return Sentence(_("invalidated"), "warning", _("Its answer was invalidated: a call asks for a new one."))
    if _is_over(entry):
        return Sentence(
            _("expired"),
            "quiet",
            _("Its answer expired %(span)s: a call asks for a new one.") % {"span": columns.ago(entry.expires_at)},
        )
    return _lost(places)


def _is_over(entry: CacheEntry) -> bool:
    left = entry.ttl_left
    return left is not None and left <= timedelta(0)


def _served(state: str, tier: str) -> Sentence:
    if state == "fresh":
        told = _("The tier %(tier)s has its answer: a call with the same arguments gets it.") % {"tier": tier}
        return Sentence(_("hit"), "good", told, _("A call with a shorter ttl may find it too old."))
    told = _("The tier %(tier)s has its answer, past its time: it is given while it is asked for anew.")
    return Sentence(_("stale"), "warning", told % {"tier": tier}, _("To calls that have a stale_ttl."))


def _lost(places: list[Whereabouts]) -> Sentence:
    for place in places:
        if place.found in ("down", "late"):
            told = _("The tier %(tier)s cannot be read now, and no other has its answer.")
            return Sentence(_("tier cannot be read"), "bad", told % {"tier": place.state.name})
        if place.found == "damaged":
            told = _("What lies in the tier %(tier)s is not whole, or not this entry: a call takes it for a miss.")
            return Sentence(_("damaged"), "bad", told % {"tier": place.state.name})
    told = _("Its answer is still good, and no tier that this process reads has it any more.")
    note = "" if all(place.state.shared == "network" for place in places) else _("Another process may still have it.")
    return Sentence(_("evicted"), "warning", told, note)


# Of a provider call


def of_attempt(call: ProviderCall, before: ProviderCall | None, *, has_entry: bool) -> Sentence:
    """Return why a provider call was made; ``before``: the last call with the same key whose answer was to be kept."""
    label = filters.reason_label(call.reason)
    if call.reason != "not_found":
        return Sentence(label, "quiet", _("The provider was asked for this reason: %(reason)s.") % {"reason": label})
    if before is None:
        told = _("It was the first call with this key. What it differs in from the nearest entry is below.")
        note = "" if has_entry else _("Its own answer was not kept, so little is recorded to compare.")
        return Sentence(_("new key"), "warning", told, note)
    moment = columns.moment(before.started_at)
    if before.outcome != ProviderCall.Outcome.ANSWERED:
        told = _("It was asked before, %(moment)s, and that brought no answer: %(outcome)s.")
        return Sentence(
            _("not kept"), "warning", told % {"moment": moment, "outcome": columns.outcome_label(before.outcome)}
        )
    lasted = before.ttl_seconds
    if lasted is not None and (call.started_at - before.started_at).total_seconds() >= lasted:
        told = _("It was answered before, %(moment)s, and that answer had expired.")
        return Sentence(_("expired"), "quiet", told % {"moment": moment})
    told = _("It was answered before, %(moment)s, and no tier had that answer any more: it was evicted or flushed.")
    return Sentence(_("evicted"), "warning", told % {"moment": moment})


# Beside each other


def table(ours: Side, comparison: Comparison) -> list[dict[str, Any]]:
    """Return two requests beside each other, component by component; what neither has is mostly left out."""
    theirs = side_of_row(comparison.row)
    shared = [by for by in theirs.components if by in ours.components]
    mine, other = (dict(side.components[shared[0]]) if shared else {} for side in (ours, theirs))
    found = {(each.component, each.name): each for each in comparison.differences}
    rows: list[dict[str, Any]] = []
    for component, name in _components(mine, other):
        one, two = _shown(ours, mine, component, name), _shown(theirs, other, component, name)
        if component not in _ALWAYS and (component, name) not in found and one == two == columns.UNKNOWN:
            continue
        rows.append(
            {
                "name": _name(component, name),
                "ours": one,
                "theirs": two,
                "state": _state(component, found.get((component, name)), comparison, one != two),
            }
        )
    for row in rows:
        row["is_same"] = row["state"] == _SAME
    # What differs first, for that is what one has come for.
    return [{**row, "badge": _BADGES[row["state"]]()} for row in sorted(rows, key=lambda row: row["state"])]


def _components(mine: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for component in COMPONENTS:
        if component != "param":
            yield component, ""
            continue
        names = {str(name) for side in (mine, other) for name in _params(side)}
        yield from ((component, name) for name in sorted(names))
        if "others" in mine or "others" in other:
            yield component, ""


def _params(components: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = components.get("params")
    return found if isinstance(found, dict) else {}


def _shown(side: Side, components: Mapping[str, Any], component: str, name: str) -> str | SafeString:
    if component in ("kind", "model", "response_type", "tenant"):
        return known(getattr(side, component))
    if component == "tags":
        return columns.chips((None, tag) for tag in side.tags)
    if component == "param":
        return _hash(_params(components).get(name) if name else components.get("others"))
    if component == "schema":
        return columns.short(side.schema) if side.schema else columns.UNKNOWN
    hashed = {"content": side.contents, "subject": side.subjects}
    if component in hashed:
        return _hash(next(iter(hashed[component]), None))
    return _hash(components.get(component))


def _hash(value: Any) -> str | SafeString:
    return columns.short(value, _HASH) if isinstance(value, str) and value else columns.UNKNOWN


def _state(component: str, found: Difference | None, comparison: Comparison, looks_other: bool) -> int:
    """Return a number by which rows are ordered."""
    if component in comparison.unknown:
        return _UNKNOWN
    return _OTHER if found is not None or looks_other else _SAME


def named(comparison: Comparison) -> str:
    """Return what an entry differs in, in a few words."""
    return ", ".join(_name(each.component, each.name) for each in comparison.differences) or _("nothing recorded")


def _name(component: str, name: str) -> str:
    return _("parameter %(name)s") % {"name": name or "…"} if component == "param" else str(_NAMES[component])
